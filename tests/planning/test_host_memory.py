"""What waits in the host's memory, in steps compiled for v5e; needs requirements-plan.txt (make test-plan)."""

import functools

import pytest

from llm_jax.planning import estimate, report, topology, workload
from llm_jax.run.config import load_recipe, resolve

pytestmark = pytest.mark.plan
SLICE = topology.parse("v5e:2x2")
SMALL = {
    "model.num_layers": "8", "model.embed_dim": "1024", "model.num_heads": "8", "model.num_kv_heads": "8",
    "model.mlp_dim": "3072", "model.vocab_size": "4096", "data.batch_size": "64", "data.seq_len": "1024",
    "mesh.data": "1", "mesh.fsdp": "4", "mesh.remat": "full",
}  # fmt: skip


@functools.cache
def planned(offload, remat="full"):
    config = resolve(
        load_recipe("configs/llama_1b.py"), [*(SMALL | {"mesh.offload": offload, "mesh.remat": remat}).items()]
    )
    return estimate.by_compiler(config, workload.of(config, SLICE), SLICE, exact=False, timeout=900)


def test_an_optimizer_that_waits_on_the_host_takes_no_bytes_of_the_device_between_steps():
    """Within a step the compiler holds all of it at O1, as temporaries: nothing is gained there."""
    here, away = planned("None"), planned("optimizer")
    kept = here["bytes_by_kind"]["optimizer"]
    assert (here["host_bytes"], away["host_bytes"]) == (0, pytest.approx(kept, rel=0.01))
    assert away["bytes_by_kind"]["optimizer"] < 1e-3 * kept  # the count of steps
    assert abs(away["bytes"] - here["bytes"]) < 0.1 * kept
    assert "in the host's memory: optimizer, 0." in report.text(away)


@pytest.mark.parametrize("remat", ["full", "attention,mlp_hidden"])
def test_activations_that_wait_on_the_host_take_as_many_bytes_there_as_they_free_here(remat):
    here, away = planned("None", remat), planned("activations", remat)
    width = {"full": 1024, "attention,mlp_hidden": 1024 + 1024 + 3072}[remat]
    each = 2 * 8 * 64 * 1024 / 4 * width  # bytes of bfloat16 of all layers
    assert away["host_bytes"] == pytest.approx(each, rel=0.05)
    assert away["bytes"] < here["bytes"] - 0.5 * each
