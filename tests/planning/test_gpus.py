"""The real step compiled for GPUs that are not here; needs requirements-plan-gpu.txt (make test-plan).

XLA begins several collectives as one, of a layer's parameters, and sends what the formulas say.
"""

from dataclasses import replace

import pytest

from llm_jax.planning import analytic, aot, collectives, estimate, hlo, topology
from llm_jax.planning.axes import links
from tests.planning.compiled import SMALL, step

pytestmark = pytest.mark.plan
HOST = topology.parse("h100:1x8")


def compiled(axis):
    if aot.gpu_compiler() is None:
        pytest.skip("XLA's compiler for GPUs is not installed: make gpu_compiler")
    sizes = {"data": "1", "fsdp": "1", axis: "8"}
    settings = [("model.attention", "blockwise"), *((f"mesh.{a}", n) for a, n in sizes.items())]
    config, w, answer, text = step(HOST, [*SMALL, *settings])
    return config, w, answer, hlo.parse(text)


def whole(rows, kind):
    return sum(row.whole for row in rows if row.kind == kind)


@pytest.mark.parametrize(("axis", "kinds"), [("data", ["all-reduce"]), ("fsdp", ["all-gather", "reduce-scatter"])])
def test_what_crosses_links_is_what_the_formula_says(axis, kinds):
    _, w, answer, program = compiled(axis)
    rows, formula = collectives.traffic(program, answer["mesh"]), links.traffic(w)
    assert {row.axes for row in rows} == {(axis,)}
    for kind in kinds:
        assert whole(rows, kind) == pytest.approx(whole(formula, kind), rel=0.05)
    assert sum(row.sent for row in rows if row.kind not in kinds) < 0.05 * sum(row.sent for row in rows)


@pytest.mark.parametrize("axis", ["data", "fsdp"])
def test_products_take_the_flops_of_the_formula(axis):
    """Attention by blocks has products of its own; cuDNN's are in calls that say nothing of theirs."""
    _, w, _, program = compiled(axis)
    assert program.product_flops() == pytest.approx(analytic.work(w, HOST).flops, rel=0.05)


@pytest.mark.parametrize(("axis", "shards"), [("data", 1), ("fsdp", 8)])
def test_state_takes_the_bytes_of_the_formula(axis, shards):
    config, w, answer, _ = compiled(axis)
    formula = analytic.memory(w)
    assert answer["state_bytes"]["params"] == pytest.approx(formula.params, rel=0.001)
    assert answer["state_bytes"]["optimizer"] == pytest.approx(formula.optimizer, rel=0.001)
    assert formula.params == 4 * w.parameters / shards
    plan = estimate.by_compiler(config, w, HOST, exact=False, timeout=900)
    assert plan["fits"] and plan["source"].startswith("compiler at O1")


def test_a_step_that_does_not_fit_is_told_from_its_bytes(monkeypatch):
    """XLA compiles for GPUs whatever it needs."""
    config, w, _, _ = compiled("fsdp")
    small = replace(HOST.chip, hbm=1e8)
    monkeypatch.setitem(topology.CHIPS, "h100", small)
    plan = estimate.by_compiler(config, w, HOST, exact=False, timeout=900)
    assert plan["source"].startswith("compiler") and plan["bytes"] > plan["usable_bytes"] and not plan["fits"]
