"""What TPUs' compiler makes of parameters in more than 32 parts, at O1; needs requirements-plan.txt (make test-plan).

Gradients are summed and then cut (benchmarks/SCATTERING.md). Gathers over a whole slice are sums too, of zeros with
each device's own part in its place: the program has no all-gather, and sends twice the bytes of one. A part of a
slice gathers, and so does the torus of 16x16 in the plans of configs/pods (tests/planning/test_axes.py), but not what
is as small as here. A tied table, gathered once in place of twice, is most of what the program has
less than the formula.
"""

import pytest

from llm_jax.planning import collectives, hlo, topology
from llm_jax.planning.axes import links
from tests.planning.compiled import SMALL, step

pytestmark = pytest.mark.plan


def wholes(name, **mesh):
    """(bytes of the compiled step's collectives by kind, the same of the formulas, the program)."""
    chips = topology.parse(name)
    sizes = [(f"mesh.{axis}", str(n)) for axis, n in mesh.items()]
    _, w, answer, text = step(chips, [*SMALL, ("data.batch_size", str(chips.chips)), *sizes])
    program = hlo.parse(text)
    both = (collectives.traffic(program, answer["mesh"]), links.traffic(w))
    found, formula = (
        {kind: sum(r.whole for r in rows if r.kind == kind) for kind in collectives.KINDS} for rows in both
    )
    return found, formula, program


@pytest.mark.parametrize("name", ["v5p:4x4x4", "v5e:8x8", "v5e:8x16", "v5e:16x16"])
def test_gathers_are_sums_of_zeros_with_each_devices_part(name):
    found, formula, program = wholes(name, fsdp=topology.parse(name).chips)
    assert found["all-gather"] == found["reduce-scatter"] == 0
    assert found["all-reduce"] == pytest.approx(formula["all-gather"] + formula["reduce-scatter"], rel=0.05)
    of_layers = []
    for lines in program.computations.values():
        made_by = {line.name: line.op for line in lines}
        sums = [line for line in lines if line.op == "all-reduce" and len(line.operands) > 5]
        of_layers += [line for line in sums if "dynamic-update-slice" in map(made_by.get, line.operands)]
    assert len(of_layers) == 2  # a layer's parameters, forwards and backwards


@pytest.mark.parametrize(
    ("name", "mesh"), [("v5e:16x16", {"data": 4, "fsdp": 64}), ("v5p:4x4x8", {"data": 2, "fsdp": 64})]
)
def test_a_part_of_a_slice_gathers_and_mostly_scatters(name, mesh):
    """What is not scattered, the table and a quarter of the layers, is summed over one axis or both."""
    found, formula, _ = wholes(name, **mesh)
    assert found["all-gather"] == pytest.approx(formula["all-gather"], rel=0.05)
    assert found["reduce-scatter"] > 0.5 * formula["reduce-scatter"]
