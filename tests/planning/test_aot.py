"""The real step compiled for chips that are not here; needs requirements-plan.txt (make test-plan)."""

import pytest

from llm_jax.planning import aot, collectives, estimate, hlo, topology, workload
from llm_jax.run.config import load_recipe, resolve

pytestmark = pytest.mark.plan
SLICE = topology.parse("v5e:4x4")
SMALL = [
    ("model.num_layers", "4"), ("model.embed_dim", "512"), ("model.num_heads", "8"), ("model.num_kv_heads", "8"),
    ("model.mlp_dim", "1536"), ("model.vocab_size", "4096"), ("data.batch_size", "32"), ("data.seq_len", "512"),
    ("objective.cross_entropy", "plain"),
]  # fmt: skip


def compiled(*more):
    config = resolve(load_recipe("configs/llama_1b.py"), [*SMALL, *more])
    w = workload.of(config, SLICE)
    answer, text = aot.compiled(config, w, SLICE)
    assert "error" not in answer, answer
    return config, w, answer, hlo.parse(text)


def test_fully_sharded_gathers_what_the_formula_says_and_no_more_than_a_layer_at_once():
    _, w, answer, program = compiled()
    rows = collectives.traffic(program, answer["mesh"])
    gathered = sum(row.whole for row in rows if row.kind == "all-gather" and row.axes == ("fsdp",))
    blocks = w.parameters - w.table_parameters
    assert gathered == pytest.approx(2 * 2 * blocks + 2 * w.table_parameters, rel=0.3)
    layer = 2 * blocks / w.layers
    assert all(
        line.result_bytes <= 1.05 * layer for line, times in program.lines() if line.op == "all-gather" and times > 1
    )


def test_state_takes_the_bytes_that_its_shardings_say():
    config, w, answer, _ = compiled()
    plan = estimate.by_compiler(config, w, SLICE, exact=False, timeout=600)
    assert answer["state_bytes"]["params"] == pytest.approx(4 * w.parameters / 16, rel=0.01)
    assert answer["state_bytes"]["optimizer"] == pytest.approx(8 * w.parameters / 16, rel=0.01)
    assert plan["fits"] and plan["bytes_by_kind"]["params"] == answer["state_bytes"]["params"]


@pytest.mark.parametrize("repeats", ["1", "2"])
def test_a_pipeline_sends_activations_between_stages_and_gathers_no_parameters(repeats):
    """What goes over `stage` are activations; with two repeats each stage's layers too, once there and once back."""
    mesh = {"stage": "2", "fsdp": "4", "tensor": "2", "pipeline_microbatches": "4", "pipeline_repeats": repeats}
    more = [(f"mesh.{name}", value) for name, value in mesh.items()]
    _, w, answer, program = compiled(*more)
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
