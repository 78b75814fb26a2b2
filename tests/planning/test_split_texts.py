"""What crosses links where texts are split, in the step compiled for a TPU; needs requirements-plan.txt."""

import re

import pytest

from llm_jax.planning import collectives, hlo, topology
from tests.planning.compiled import step

pytestmark = pytest.mark.plan
SLICE = topology.parse("v5e:4x4")
LAYERS, ROWS, T, WIDTH, KV, VOCAB = 4, 16, 2048, 1024, 8 * 64, 4096
SMALL = [
    ("model.num_layers", str(LAYERS)), ("model.embed_dim", str(WIDTH)), ("model.num_heads", "16"),
    ("model.num_kv_heads", "8"), ("model.mlp_dim", "3072"), ("model.vocab_size", str(VOCAB)),
    ("data.batch_size", str(ROWS)), ("data.seq_len", str(T)), ("objective.cross_entropy", "plain"), ("mesh.fsdp", "4"),
]  # fmt: skip


def compiled(*more):
    _, _, answer, text = step(SLICE, [*SMALL, *more])
    return collectives.traffic(hlo.parse(text), answer["mesh"]), text


def sent(rows, kind, axes):
    return sum(row.sent for row in rows if row.kind == kind and row.axes == axes)


def test_a_ring_passes_keys_and_values_on():
    """Keys and values three times, 3 hops each, their float32 gradients 4 hops, and the order's way there and back."""
    rows, _ = compiled(("mesh.context", "4"))
    local = ROWS // 4 * T // 4
    order = 2 * (2 * (WIDTH + 2 * KV) + 2 * WIDTH)  # forward and again: q, k, v; once the result; the gradient all four
    hops = 3 * 3 * 2 * 2 * KV + 4 * 4 * 2 * KV
    gradient = 2 * (WIDTH + 2 * KV)
    expected = LAYERS * local * (hops + order + gradient)
    assert sent(rows, "collective-permute", ("context",)) == pytest.approx(expected, rel=0.05)


def test_an_exchange_of_heads_is_two_all_to_alls_each_way():
    rows, _ = compiled(("mesh.context", "4"), ("mesh.context_by", "heads"))
    local = ROWS // 4 * T // 4
    expected = LAYERS * local * 2 * 3 / 4 * 3 * (WIDTH + 2 * KV + WIDTH)  # forward, again, and the gradients
    assert sent(rows, "all-to-all", ("context",)) == pytest.approx(expected, rel=0.05)
    assert not sent(rows, "collective-permute", ("context",))


def test_activations_between_layers_are_gathered_and_scattered_in_place_of_summed():
    """Of each layer: two gathers and scatters forward, the gathers again, two of each backward, one scatter again.

    The table of embeddings is gathered once, along its vocabulary.
    """
    rows, text = compiled(("mesh.tensor", "4"), ("mesh.sequence_sharded", "True"))
    stream = ROWS // 4 * T * WIDTH * 2
    gathered = sum(row.whole for row in rows if row.kind == "all-gather" and row.axes == ("tensor",))
    assert gathered == pytest.approx((6 * LAYERS + 1) * stream + 2 * VOCAB * WIDTH, rel=0.01)
    scattered = re.findall(
        rf"%all-reduce-scatter[\w.]* \(.*: bf16\[4,{T},{WIDTH}\]\) -> bf16\[4,{T // 4},{WIDTH}\]", text
    )
    assert len(scattered) == 5
    assert sum(row.whole for row in rows if row.kind == "all-reduce" and row.axes == ("tensor",)) < 0.01 * stream
