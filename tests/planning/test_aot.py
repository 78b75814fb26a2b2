"""The real step compiled for chips that are not here; needs requirements-plan.txt (make test-plan).

The laws hold for v5e:4x4 at O1. Where the compiler sends other bytes than the formula, the test says which: it scatters
gradients of layers by rings within their products, which go on for up to two steps more than a reduce-scatter, and sums
the head's gradient, which it cuts afterwards, as all gradients of more than 32 shards (benchmarks/SCATTERING.md).
"""

import pytest

from llm_jax.planning import collectives, estimate, hlo, topology, workload
from llm_jax.planning.axes import links
from llm_jax.run.config import load_recipe, resolve
from tests.planning.compiled import SMALL, step

pytestmark = pytest.mark.plan
SLICE = topology.parse("v5e:4x4")
PLANS = {
    "data16": {"data": 16}, "fsdp16": {"fsdp": 16}, "data4 fsdp4": {"data": 4, "fsdp": 4},
    "fsdp4 tensor4": {"fsdp": 4, "tensor": 4},
}  # fmt: skip
SHARDED = [name for name in PLANS if "fsdp" in name]


def compiled(mesh):
    sizes = {"data": 1, "fsdp": 1, "tensor": 1, **mesh}
    config, w, answer, text = step(SLICE, [*SMALL, *((f"mesh.{a}", str(n)) for a, n in sizes.items())])
    return config, w, answer, hlo.parse(text)


def sent(rows, axis, *kinds):
    return sum(row.sent for row in rows if axis in row.axes and row.kind in kinds)


def both(name):
    """(what the compiled step sends, what the formulas say, the workload)."""
    _, w, answer, program = compiled(PLANS[name])
    return collectives.traffic(program, answer["mesh"]), links.traffic(w), w


def test_data_parallel_sums_gradients_as_the_formula_says():
    rows, formula, _ = both("data16")
    assert {row.kind for row in rows} == {"all-reduce"}
    assert sent(rows, "data", "all-reduce") == pytest.approx(sent(formula, "data", "all-reduce"), rel=0.05)


@pytest.mark.parametrize("name", SHARDED)
def test_fully_sharded_gathers_what_the_formula_says(name):
    rows, formula, _ = both(name)
    found, expected = (
        sum(row.whole for row in of if row.kind == "all-gather" and "tensor" not in row.axes) for of in (rows, formula)
    )
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ["fsdp16", "fsdp4 tensor4"])
def test_gradients_of_layers_are_scattered_by_rings_and_that_of_the_head_is_summed(name):
    rows, formula, w = both(name)
    n = w.mesh["fsdp"]
    head = 2 * w.table_parameters / w.mesh["tensor"]
    layers = sent(formula, "fsdp", "reduce-scatter") - head * (n - 1) / n
    rings = sent(rows, "fsdp", "collective-permute", "reduce-scatter")
    assert 0.95 * layers < rings < 1.05 * layers * (n + 1) / (n - 1)
    alone = [row for row in rows if row.axes == ("fsdp",)]
    assert sent(alone, "fsdp", "all-reduce") == pytest.approx(2 * head * (n - 1) / n, rel=0.05)


def test_copies_of_shards_are_gathered_over_fsdp_alone_and_part_of_the_gradients_scattered_before_the_sum():
    """The rest is summed over fsdp, or over both axes, and cut afterwards: in all 1.4 times the formula's bytes."""
    rows, formula, _ = both("data4 fsdp4")
    assert {row.axes for row in rows if row.kind == "all-gather"} == {("fsdp",)}
    assert sent(rows, "fsdp", "reduce-scatter") > 0.3 * sent(formula, "fsdp", "reduce-scatter")
    reduced = sum(row.sent for row in rows if row.kind in ("all-reduce", "reduce-scatter"))
    least = sent(formula, "fsdp", "reduce-scatter") + sent(formula, "data", "all-reduce")
    assert least < reduced < 1.45 * least


def test_tensor_parallel_sums_activations_as_the_formula_says():
    rows, formula, _ = both("fsdp4 tensor4")
    assert sent(rows, "tensor", "all-reduce") == pytest.approx(sent(formula, "tensor", "all-reduce"), rel=0.05)


@pytest.mark.parametrize("name", SHARDED)
def test_no_turn_of_the_layer_loop_gathers_more_than_a_layer(name):
    _, w, _, program = compiled(PLANS[name])
    layer = 2 * (w.parameters - w.table_parameters) / w.layers / w.mesh["tensor"]
    turns = [
        sum(line.result_bytes for line in program.computations.get(body, []) if line.op == "all-gather")
        for body, times in program.runs().items()
        if times == w.layers
    ]
    assert len([n for n in turns if n]) == 2  # forwards and backwards
    assert all(n == 0 or 0.95 * layer < n < 1.05 * layer for n in turns)


def test_state_takes_the_bytes_that_its_shardings_say():
    config, w, answer, _ = compiled(PLANS["fsdp16"])
    plan = estimate.by_compiler(config, w, SLICE, exact=False, timeout=600)
    assert answer["state_bytes"]["params"] == pytest.approx(4 * w.parameters / 16, rel=0.01)
    assert answer["state_bytes"]["optimizer"] == pytest.approx(8 * w.parameters / 16, rel=0.01)
    assert plan["fits"] and plan["bytes_by_kind"]["params"] == answer["state_bytes"]["params"]


@pytest.mark.parametrize("repeats", ["1", "2"])
def test_a_pipeline_sends_activations_between_stages_and_gathers_no_parameters(repeats):
    """What goes over `stage` are activations; with two repeats each stage's layers too, once there and once back."""
    mesh = {"stage": 2, "fsdp": 4, "tensor": 2, "pipeline.microbatches": 4, "pipeline.repeats": repeats}
    _, w, answer, program = compiled(mesh)
    blocks = w.parameters - w.table_parameters
    assert answer["state_bytes"]["params"] == pytest.approx(4 * (blocks / 16 + w.table_parameters / 8), rel=0.01)
    over = [r for r in collectives.traffic(program, answer["mesh"]) if r.axes == ("stage",)]
    gathered = sum(r.whole for r in over if r.kind != "collective-permute")
    assert gathered < 0.01 * 2 * blocks  # segments and positions
    microbatch = 2 * w.tokens_per_step * w.width / 4 / 4  # bytes of a device's bfloat16 numbers in one of four
    ticks = int(repeats) * 4 + 1
    ends = 2 * 2  # half of the microbatches to the first stage and half from the last
    dealt = 0 if repeats == "1" else 2 * 4 * blocks / 16 / 2  # float32, there and back; of two groups one stays
    sends = sum(r.sent for r in over if r.kind == "collective-permute")
    assert sends == pytest.approx(2 * (ticks + ends) * microbatch + dealt, rel=0.01)


def test_a_step_that_does_not_fit_says_so():
    config = resolve(load_recipe("configs/llama_1b.py"), [("data.batch_size", "1024"), ("mesh.remat", "none")])
    plan = estimate.by_compiler(config, workload.of(config, SLICE), SLICE, exact=False, timeout=900)
    assert not plan["fits"] and "exceed" in plan["compiler_error"].lower()
