"""Blockwise attention is plain attention, and plain attention is torch's; its memory is linear in the text."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels.attention import blockwise, plain
from llm_jax.kernels.fused import auto

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "layers.npz")


def heads_last(x):
    return jnp.moveaxis(x, 1, 2)  # torch's [B,H,T,K] -> [B,T,H,K]


def arrays(T, S=None, H=4, G=2, B=2, K=6):
    rng = np.random.default_rng(T)
    shapes = {"q": (B, T, H, K), "k": (B, S or T, G, K), "v": (B, S or T, G, K), "direction": (B, T, H, K)}
    return [rng.normal(size=s).astype(np.float32) for s in shapes.values()]


def packed(B, T, documents):
    """Segment numbers of `documents` texts in a row, padding at the end."""
    ends = np.sort(np.random.default_rng(T).integers(1, T, (B, documents)), axis=1)
    return (1 + (np.arange(T)[None, :, None] >= ends[:, None, :]).sum(-1)) % (documents + 1)


def both(one, other, T, S=None, rtol=2e-5, **heads):
    """Hold values and all three gradients of one function of q, k, v against another."""
    q, k, v, direction = arrays(T, S, **heads)

    def run(function):
        out, pullback = jax.vjp(function, q, k, v)
        return out, *pullback(jnp.asarray(direction))

    found, expected = jax.jit(lambda: (run(one), run(other)))()
    for name, a, b in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(), err_msg=name)


@pytest.mark.rotates(3)
@pytest.mark.parametrize("blocks", [3, 7, 20], ids=["kept", "recomputed", "looped"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": False},
        {"window": 11},
        {"causal": False, "window": 5},
        {"softcap": 2.0, "scale": 0.7},
        {"segments": 3},
        {"segments": 3, "window": 11, "softcap": 2.0},
        {"prefix": 2},
        {"prefix": 2, "segments": 3, "window": 11, "softcap": 2.0},
        {"window": 11, "sinks": np.array([-1.0, 0.0, 2.0, 5.0], np.float32)},
    ],
    ids=lambda o: " ".join(o) or "causal",
)
def test_blockwise_is_plain(blocks, options):
    T = 8 * blocks - 3  # no multiple of the block
    if "segments" in options:
        numbers = packed(2, T, options["segments"])
        options = options | {"segments": (numbers, numbers)}
    if "prefix" in options:
        options = options | {"prefix": np.arange(T) < np.array([[T // 2 + 3], [T - 2]])}
    both(lambda *x: blockwise(*x, block=8, **options), lambda *x: plain(*x, **options), T)


def test_a_window_without_causality_reaches_as_far_ahead_as_back():
    q, k, v, _ = arrays(23, G=4)
    near = np.abs(np.arange(23)[:, None] - np.arange(23)) < 4
    wanted = jax.nn.dot_product_attention(q, k, v, mask=near[None, None])
    for found in (plain(q, k, v, causal=False, window=4), blockwise(q, k, v, causal=False, window=4, block=8)):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("window", [None, 4])
def test_keys_of_a_prefix_are_seen_from_before_them(window):
    """By JAX's formula with the mask spelled out: of the same text, and no farther off than the window."""
    q, k, v, _ = arrays(23, G=4)
    early, texts = np.arange(23) < np.array([[9], [20]]), packed(2, 23, 2)
    apart = np.arange(23)[:, None] - np.arange(23)
    seen = (apart >= 0) | (early[:, None] & early[:, :, None])
    seen = seen & (np.abs(apart) < (window or 23)) & (texts[:, :, None] == texts[:, None])
    wanted = jax.nn.dot_product_attention(q, k, v, mask=seen[:, None])
    found = plain(q, k, v, window=window, segments=(texts, texts), prefix=early)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def formula(q, k, v, *, allowed, scale=6**-0.5, softcap=None):
    """softmax(scale · q kᵀ) v, written down for autodiff."""
    scores = scale * jnp.einsum("bthk,bshk->bhts", q, jnp.repeat(k, 2, axis=2))
    scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
    weights = jax.nn.softmax(jnp.where(allowed, scores, -1e30), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", weights, jnp.repeat(v, 2, axis=2))


@pytest.mark.parametrize("options", [{}, {"softcap": 0.5, "scale": 0.7}], ids=["plain", "capped"])
def test_the_gradient_by_hand_is_that_of_autodiff(options):
    """With two packed texts, and for a query that may see nothing at all."""
    queries, keys = packed(2, 13, 2), packed(2, 13, 2)
    queries[0, 5] = 7
    allowed = (np.tri(13, dtype=bool) & (queries[:, :, None] == keys[:, None, :]))[:, None]
    both(
        lambda *x: plain(*x, segments=(queries, keys), **options),
        lambda *x: formula(*x, allowed=allowed, **options),
        13,
    )


@pytest.mark.parametrize("G", [1, 4])
def test_queries_share_heads_of_any_number(G):
    both(lambda *x: blockwise(*x, block=8), plain, 21, G=G)

    def repeated(q, k, v):
        return plain(q, jnp.repeat(k, 4 // G, axis=2), jnp.repeat(v, 4 // G, axis=2))

    both(plain, repeated, 21, G=G)


@pytest.mark.parametrize("attention", [plain, partial(blockwise, block=8)], ids=["plain", "blockwise"])
def test_a_sink_is_one_more_key_whose_value_is_zero(attention):
    """Head by head, as a column of scores; values, and gradients of the sinks too."""
    q, k, v, direction = arrays(13, G=4)

    def column(q, k, v, sinks):
        scores = jnp.einsum("bthk,bshk->bhts", q, k) / np.sqrt(6)
        scores = jnp.where(np.tri(13, dtype=bool), scores, -jnp.inf)
        scores = jnp.concatenate([jnp.broadcast_to(sinks[:, None, None], (2, 4, 13, 1)), scores], axis=-1)
        return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores)[..., 1:], v)

    def run(function):
        out, pullback = jax.vjp(function, q, k, v, np.array([-1.0, 0.0, 2.0, 5.0], np.float32))
        return out, *pullback(jnp.asarray(direction))

    found, expected = jax.jit(lambda: (run(lambda *x: attention(*x[:3], sinks=x[3])), run(column)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("blocks", [1, 3, 20])
def test_values_may_be_narrower_or_wider_than_keys(blocks):
    """Columns of the result are those of the values, each on its own."""
    q, k, v, _ = arrays(8 * blocks)
    for wide in (v[..., :2], np.concatenate([v, -v], axis=-1)):
        whole = jnp.concatenate([wide, wide], axis=-1)[..., :6]
        found = blockwise(q, k, wide, block=8)
        expected = plain(q, k, whole)
        np.testing.assert_allclose(found[..., :2], expected[..., :2], rtol=1e-4, atol=1e-5)
        assert found.shape == (*q.shape[:3], wide.shape[-1])


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("window", [None, 4])
def test_an_offset_is_the_end_of_a_longer_text(traced, window):
    """Queries at slots 9.. of 30 keys, of which those past the text's end are never seen."""
    q, k, v, _ = arrays(30)

    @jax.jit
    def three(offset):
        offset = offset if traced else 9
        part = q[:, 9:25]
        return (
            plain(q, k, v, window=window)[:, 9:25],
            plain(part, k, v, offset=offset, window=window),
            blockwise(part, k, v, offset=offset, window=window, block=5),
            blockwise(part, k, v, offset=offset, window=window, block=2),
        )

    whole, *parts = three(9)
    for found in parts:
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [None, 4])
def test_keys_stand_in_any_order_where_their_slots_are_given(window):
    """Two of slot -1 among them, which are none."""
    q, k, v, _ = arrays(30)
    order = np.random.default_rng(0).permutation(32)
    slots = np.where(order < 30, order, -1)
    mixed_k, mixed_v = (np.concatenate([x, x[:, :2] + 9], axis=1)[:, order] for x in (k, v))
    part, whole = q[:, 9:25], plain(q, k, v, window=window)[:, 9:25]
    for kernel in (plain, partial(blockwise, block=5)):
        found = kernel(part, mixed_k, mixed_v, offset=9, window=window, slots=slots)
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_attention_is_that_of_torch():
    g = {name: jnp.asarray(GOLDEN[name]) for name in GOLDEN}

    @jax.jit
    def ours():
        square = [heads_last(g[name]) for name in ("q", "k_square", "v_square")]
        q, k, v = (heads_last(g[name]) for name in ("q", "k", "v"))
        # torch's arbitrary mask, one query at a time, as segments of the keys
        one, keys = jnp.ones((2, 1), int), [jnp.tile(row, (2, 1)).astype(int) for row in g["mask"]]
        rows = [plain(q[:, t : t + 1], k, v, causal=False, segments=(one, keys[t])) for t in range(7)]
        return {
            "causal": plain(*square),
            "full": plain(*square, causal=False, scale=0.3),
            "grouped": jnp.concatenate(rows, axis=1),
        }

    for name, found in ours().items():
        np.testing.assert_allclose(heads_last(found), g[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_apple_banana_orange():
    """Equal queries, keys and values: each word counts a third, and the output is the value, 3, 3, 3."""
    words = jnp.full((1, 3, 1, 3), 3.0)
    np.testing.assert_allclose(plain(words, words, words, causal=False), np.full((1, 3, 1, 3), 3.0), rtol=1e-6)
    identity = jnp.eye(3)[None, :, None, :]  # as values it shows the weights
    weights = plain(words, words, identity, causal=False)
    np.testing.assert_allclose(weights, np.full((1, 3, 1, 3), 1 / 3), rtol=1e-6)


def test_a_sharp_score_does_not_overflow():
    q, k, v, direction = (1e3 * x for x in arrays(12))
    out, pullback = jax.vjp(plain, q, k, v)
    assert all(np.isfinite(x).all() for x in (out, *pullback(direction)))


def temporary_bytes(function, T):
    def shape(heads):
        return jax.ShapeDtypeStruct((1, T, heads, 16), jnp.float32)

    def loss(q, k, v):
        return jnp.square(function(q, k, v)).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(shape(2), shape(1), shape(1)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("function", "T", "saving"), [(blockwise, 4096, 16), (auto, 8192, 8)], ids=["blockwise", "auto"]
)
def test_memory_is_linear_in_the_length(function, T, saving):
    """Compiled, not run: twice the text takes at most 2.2 times the memory, a small part of plain's."""
    long = temporary_bytes(function, 2 * T)
    assert long <= 2.2 * temporary_bytes(function, T)
    assert long < temporary_bytes(plain, 2 * T) / saving
