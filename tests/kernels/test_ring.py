"""Attention of texts split over devices is plain attention of one; work is even, and memory linear in the text."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.kernels import context
from llm_jax.kernels.attention import plain
from llm_jax.kernels.zigzag import Ring
from llm_jax.mesh import plan

B, T, H, K = 4, 48, 8, 6
rng = np.random.default_rng(7)
SINKS = rng.normal(size=H).astype(np.float32)
ENDS = np.sort(rng.integers(1, T, (B, 3)), axis=1)
TEXTS = ((1 + (np.arange(T)[None, :, None] >= ENDS[:, None, :]).sum(-1)) % 4).astype(np.int32)  # three, and padding
EARLY = np.arange(T) < np.array([[3], [20], [T], [41]])

OPTIONS = {
    "causal": {},
    "all": {"causal": False},
    "all window": {"causal": False, "window": 5},
    "short window": {"window": 5},
    "long window": {"window": 29},
    "softcap scale": {"softcap": 2.0, "scale": 0.7},
    "segments": {"segments": (TEXTS, TEXTS)},
    "sinks": {"sinks": SINKS},
    "prefix": {"prefix": EARLY},
    "prefix window": {"prefix": EARLY, "segments": (TEXTS, TEXTS), "window": 19},
    "everything": {"segments": (TEXTS, TEXTS), "window": 19, "softcap": 1.5, "sinks": SINKS, "scale": 0.5},
}
PLANS = {
    "ring8": ({"context": 8}, "ring"),
    "ring2 data2 tensor2": ({"context": 2, "data": 2, "tensor": 2}, "ring"),
    "heads4 data2": ({"context": 4, "data": 2}, "heads"),
    "heads2 fsdp2 tensor2": ({"context": 2, "fsdp": 2, "tensor": 2}, "heads"),
}


def arrays(G=2, V=K, T=T):
    shapes = (B, T, H, K), (B, T, G, K), (B, T, G, V), (B, T, H, V)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def pulled(function, operands, direction, options):
    """Values, and gradients of queries, keys, values and sinks."""
    sinks = {k: v for k, v in options.items() if k == "sinks"}
    rest = {k: v for k, v in options.items() if k != "sinks"}
    out, pullback = jax.vjp(lambda q, k, v, s: function(q, k, v, **s, **rest), *operands, sinks)
    return out, pullback(direction)


def agree(layout, way, options, *, operands, rtol=1e-5):
    *inputs, direction = operands
    expected = jax.jit(partial(pulled, plain, options=options))(inputs, direction)
    with layout.active():
        found = jax.jit(partial(pulled, way, options=options))(inputs, direction)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max()), found, expected)


@pytest.mark.rotates(3)
@pytest.mark.parametrize(
    ("name", "option"),
    [(n, o) for n in PLANS for o in OPTIONS if n == "ring8" or o in ("all window", "prefix window", "everything")],
)
def test_split_attention_is_plain_attention(name, option):
    sizes, by = PLANS[name]
    agree(plan.build(sizes, context_by=by), context.auto, OPTIONS[option], operands=arrays())


@pytest.mark.parametrize("by", ["ring", "heads"])
@pytest.mark.parametrize(("G", "V"), [(1, 3), (4, 10)])
def test_heads_are_shared_by_any_number_and_values_of_any_size(by, G, V):
    """One key head for two devices' queries among them."""
    agree(plan.build({"context": 4, "tensor": 2}, context_by=by), context.auto, {}, operands=arrays(G, V))


def test_blocks_of_queries_change_nothing():
    agree(
        plan.build({"context": 4, "data": 2}), partial(context.auto, block=2), OPTIONS["everything"], operands=arrays()
    )


def test_a_part_of_an_odd_length_is_not_halved():
    agree(plan.build({"context": 8}), context.auto, {}, operands=arrays(T=24))
    assert Ring("x", 8, 3).parts == 1


def test_explicit_axes_agree_too():
    agree(
        plan.build({"context": 4, "tensor": 2}, explicit=True), context.auto, OPTIONS["everything"], operands=arrays()
    )


def computed(ring):
    """For each device, the pairs of (query slot, key slot) that it computes."""
    part = ring.length // ring.parts
    for device in range(ring.size):
        pairs = []
        for turn in range(ring.rounds):
            source = (device - turn) % ring.size
            for i, j in ring.pairs(turn, device, source):
                q, k = (int(ring.start(d, int(n))) + np.arange(part) for d, n in ((device, i), (source, j)))
                pairs.append(np.stack(np.meshgrid(q, k), -1).reshape(-1, 2))
        yield np.concatenate(pairs)


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("window", [None, 5, 40, 90])
def test_each_visible_pair_is_computed_once(size, window):
    ring = Ring("x", size, 12, window=window)
    T = size * 12
    seen = np.zeros((T, T), int)
    for pairs in computed(ring):
        np.add.at(seen, tuple(pairs.T), 1)
    distance = np.arange(T)[:, None] - np.arange(T)
    visible = (distance >= 0) & (distance < (window or T))
    assert (seen[visible] == 1).all() and seen.max() == 1


def balance(ring):
    """max / mean over devices of the scores that matter, and the share of the computed ones that do."""
    mine = np.array([(pairs[:, 0] >= pairs[:, 1]).sum() for pairs in computed(ring)])
    return mine.max() / mine.mean(), mine.sum() / sum(len(pairs) for pairs in computed(ring))


def test_causal_work_is_even_over_devices():
    """By counting scores: max / mean is 1, 95 % of what is computed matters; of neighbouring parts 1.87 and 50 %."""
    np.testing.assert_allclose(balance(Ring("x", 8, 16)), (1, 0.9485), rtol=1e-3)
    np.testing.assert_allclose(balance(Ring("x", 8, 15)), (1.868, 0.504), rtol=1e-3)  # odd parts are not halved


def test_a_window_takes_only_the_rounds_that_it_reaches():
    assert [Ring("x", 8, 16, window=w).rounds for w in (1, 2, 17, 18, 33)] == [1, 2, 2, 3, 3]


def temporary_bytes(T, **options):
    def loss(q, k, v):
        return jnp.square(context.auto(q, k, v, **options)).sum()

    def shape(heads):
        return jax.ShapeDtypeStruct(
            (1, T, heads, 16), jnp.float32, sharding=layout.sharding(("batch", "seq", None, None))
        )

    layout = plan.build({"context": 8})
    with layout.active():
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(shape(2), shape(1), shape(1)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.exhaustive
def test_memory_is_linear_in_the_length():
    """Compiled, not run: twice the text takes at most 2.3 times the memory of a device."""
    assert temporary_bytes(8192, block=64) <= 2.3 * temporary_bytes(4096, block=64)


def test_heads_that_do_not_divide_are_refused_with_the_nearest_that_do():
    with pytest.raises(UserError, match=r"mesh.context=8 .* 6 heads of a device; try mesh.context=6, or .*'ring'"):
        context.check_heads(6, 8)
    with plan.build({"context": 8}, context_by="heads").active(), pytest.raises(UserError, match="4 heads"):
        context.auto(*(jnp.zeros((1, 16, 4, 2)),) * 3)
