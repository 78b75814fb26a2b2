"""Experts on chips that are not here: tokens travel by the collective that CPUs do not have (make test-plan)."""

import re

import pytest

from llm_jax.planning import topology
from tests.planning.compiled import step

pytestmark = pytest.mark.plan
SLICE = topology.parse("v5e:4x4")
SMALL = [
    ("model.num_layers", "2"), ("model.embed_dim", "512"), ("model.num_heads", "8"), ("model.num_kv_heads", "8"),
    ("model.moe.mlp_dim", "1024"), ("model.vocab_size", "4096"), ("data.batch_size", "32"), ("data.seq_len", "512"),
    ("mesh.data", "1"), ("mesh.tensor", "1"), ("mesh.slice", "1"),
]  # fmt: skip


def test_tokens_travel_by_a_ragged_all_to_all():
    """Six times a layer at most: there and back, for the outputs, the gradients and what is recomputed of them."""
    *_, text = step(SLICE, [*SMALL, ("mesh.fsdp", "4"), ("mesh.expert", "4")], "configs/pods/mixtral_8x7b.py")
    assert 4 <= len(re.findall(r"= [^=]* ragged-all-to-all(?:-start)?\(", text)) <= 6
