"""What TPUs' compiler makes of parameters in more than 32 parts, at O1; needs requirements-plan.txt (make test-plan).

Gradients are summed and then cut (benchmarks/SCATTERING.md). On v5p gathers are sums too, of zeros with each device's
own part in its place, so that the program has no all-gather: twice the bytes of one. A tied table, gathered once in
place of twice, is the most that the program has less than the formula.
"""

import pytest

from llm_jax.planning import aot, collectives, hlo, topology, workload
from llm_jax.planning.axes import links
from llm_jax.run.config import load_recipe, resolve

pytestmark = pytest.mark.plan
SMALL = [
    ("model.num_layers", "4"), ("model.embed_dim", "512"), ("model.num_heads", "8"), ("model.num_kv_heads", "8"),
    ("model.mlp_dim", "1536"), ("model.vocab_size", "4096"), ("data.batch_size", "64"), ("data.seq_len", "512"),
    ("mesh.fsdp", "64"),
]  # fmt: skip


def wholes(name):
    """(bytes of the compiled step's collectives by kind, the same of the formulas, the program)."""
    chips = topology.parse(name)
    config = resolve(load_recipe("configs/llama_1b.py"), SMALL)
    w = workload.of(config, chips)
    answer, text = aot.compiled(config, w, chips)
    assert "error" not in answer, answer
    program = hlo.parse(text)
    both = (collectives.traffic(program, answer["mesh"]), links.traffic(w))
    found, formula = ({row.kind: row.whole for row in rows} for rows in both)
    return found, formula, program


def test_gathers_of_a_v5p_are_sums_of_zeros_with_each_devices_part():
    found, formula, program = wholes("v5p:4x4x4")
    assert "all-gather" not in found and "reduce-scatter" not in found
    assert found["all-reduce"] == pytest.approx(formula["all-gather"] + formula["reduce-scatter"], rel=0.05)
    made_by = [{line.name: line.op for line in lines} for lines in program.computations.values()]
    operands = [
        {names.get(operand) for operand in line.operands}
        for names, lines in zip(made_by, program.computations.values(), strict=True)
        for line in lines
        if line.op == "all-reduce" and len(line.operands) > 5
    ]
    assert sum("dynamic-update-slice" in ops for ops in operands) == 2  # a layer's parameters, forwards and backwards


def test_a_v5e_gathers_parameters_and_sums_gradients():
    found, formula, _ = wholes("v5e:8x8")
    assert found["all-gather"] == pytest.approx(formula["all-gather"], rel=0.05)
    assert found["all-reduce"] == pytest.approx(formula["reduce-scatter"], rel=0.05)
