"""What TPUs' compiler makes of parameters in more than 32 parts, at O1; needs requirements-plan.txt (make test-plan).

Gradients are summed and then cut (benchmarks/SCATTERING.md). Gathers of 64 parts are sums too, of zeros with each
device's own part in its place: the program has no all-gather, and sends twice the bytes of one. So do the plans of
configs/pods for v5p:4x8x8; those for v5e:16x16 and v6e:16x16 gather. A tied table, gathered once in place of twice, is
most of what the program has less than the formula.
"""

import pytest

from llm_jax.planning import collectives, hlo, topology
from llm_jax.planning.axes import links
from tests.planning.compiled import SMALL, step

pytestmark = pytest.mark.plan


def wholes(name):
    """(bytes of the compiled step's collectives by kind, the same of the formulas, the program)."""
    settings = [*SMALL, ("data.batch_size", "64"), ("mesh.fsdp", "64")]
    _, w, answer, text = step(topology.parse(name), settings)
    program = hlo.parse(text)
    both = (collectives.traffic(program, answer["mesh"]), links.traffic(w))
    found, formula = ({row.kind: row.whole for row in rows} for rows in both)
    return found, formula, program


@pytest.mark.parametrize("name", ["v5p:4x4x4", "v5e:8x8"])
def test_gathers_are_sums_of_zeros_with_each_devices_part(name):
    found, formula, program = wholes(name)
    assert "all-gather" not in found and "reduce-scatter" not in found
    assert found["all-reduce"] == pytest.approx(formula["all-gather"] + formula["reduce-scatter"], rel=0.05)
    of_layers = []
    for lines in program.computations.values():
        made_by = {line.name: line.op for line in lines}
        sums = [line for line in lines if line.op == "all-reduce" and len(line.operands) > 5]
        of_layers += [line for line in sums if "dynamic-update-slice" in map(made_by.get, line.operands)]
    assert len(of_layers) == 2  # a layer's parameters, forwards and backwards
