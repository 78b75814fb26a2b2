"""The fused kernels are plain attention: splash in Pallas's interpreter, cuDNN's front door by JAX's own formula.

That the chips' compilers take them is `make test-plan`; see tests/planning/test_kernels.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels import fused
from llm_jax.kernels.attention import plain
from llm_jax.kernels.fused import cudnn, splash
from llm_jax.mesh import plan

T, HEADS, GROUPS, SIZE = 256, 4, 2, 8
rng = np.random.default_rng(0)
Q, DIRECTION = (rng.normal(size=(2, T, HEADS, SIZE)).astype(np.float32) for _ in range(2))
K, V = (rng.normal(size=(2, T, GROUPS, SIZE)).astype(np.float32) for _ in range(2))
PACKED = np.repeat([[1] * 100 + [2] * 120 + [0] * 36], 2, axis=0).astype(np.int32)
SINKS = np.array([-1.0, 0.0, 2.0, 5.0], np.float32)


@partial(jax.jit, static_argnums=0)
def learn(function, q, k, v, sinks):
    """Value and gradients of q, k, v and the sinks, if there are."""
    out, pullback = jax.vjp(function, q, k, v, sinks)
    return out, *pullback(jnp.asarray(DIRECTION, out.dtype))


def agree(one, other, q=Q, k=K, v=V, sinks=None, tolerance=5e-6):
    found, expected = (learn(lambda q, k, v, s, f=f: f(q, k, v, sinks=s), q, k, v, sinks) for f in (one, other))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        b = np.asarray(b, np.float32)
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=tolerance, atol=tolerance * np.abs(b).max())


OPTIONS = [
    {}, {"causal": False}, {"window": 50}, {"causal": False, "window": 50}, {"softcap": 2.0, "scale": 0.7},
    {"segments": (PACKED, PACKED), "window": 90},
]  # fmt: skip
each = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(o) or "causal")


@each
def test_splash_attention_is_plain_attention(options):
    agree(partial(splash, interpret=True, **options), partial(plain, **options))


def test_splash_attention_has_sinks_and_their_gradient():
    agree(partial(splash, interpret=True), plain, sinks=SINKS)


@pytest.mark.parametrize("sizes", [{"data": 2, "tensor": 2, "fsdp": 2}, {"tensor": 4, "data": 2}], ids=str)
def test_on_a_mesh_each_device_attends_with_its_own_rows_and_heads(sizes):
    """With two key heads over four devices, too; and no device sees the others' scores."""
    q, k, v, packed = (np.concatenate([x, x[::-1]]) for x in (Q, K, V, PACKED))
    step = jax.jit(partial(splash, interpret=True, segments=(packed, packed)))
    expected = jax.jit(partial(plain, segments=(packed, packed), sinks=SINKS))(q, k, v)
    with plan.build(sizes).active():
        compiled = step.lower(q, k, v, sinks=SINKS).compile()
        found = compiled(q, k, v, sinks=SINKS)
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=5e-6)
    assert found.sharding.shard_shape(found.shape)[2] == HEADS // sizes["tensor"]


@pytest.mark.parametrize("options", [{}, {"window": 50}, {"segments": (PACKED, PACKED)}], ids=str)
def test_cudnn_gets_the_question_that_plain_answers(options):
    """By JAX's reference in place of cuDNN's, which runs on GPUs alone; so both round to bfloat16."""
    half = [jnp.asarray(x, jnp.bfloat16) for x in (Q, K, V)]
    agree(partial(cudnn, implementation="xla", **options), partial(plain, **options), *half, tolerance=2e-2)


@pytest.mark.parametrize(
    ("options", "asked"),
    [({}, True), ({"softcap": 2.0}, False), ({"sinks": SINKS}, False), ({"causal": False, "window": 9}, False)],
    ids=["plain", "softcap", "sinks", "window to both sides"],
)
def test_cudnn_is_asked_only_for_what_it_can(options, asked, monkeypatch):
    calls = []
    monkeypatch.setattr(fused, "_cudnn", lambda q, *_, **__: calls.append(1) or q)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (Q, K, V)]
    cudnn(*half, **options)
    assert bool(calls) == asked
    cudnn(Q, K, V)
    assert len(calls) == asked  # float32 never


@pytest.mark.parametrize("kernel", [splash, cudnn])
def test_a_cache_a_prefix_or_an_odd_length_goes_to_blockwise(kernel):
    """As does splash, without the interpreter: on CPU it would fail."""
    one, odd = Q[:, 9:10], (Q[:, :130], K[:, :130], V[:, :130])
    slots = np.arange(T)
    early = {"prefix": slots < np.array([[50], [200]])}
    for arguments, options in (
        ((one, K, V), {"offset": 9}),
        ((Q, K, V), {"slots": slots}),
        (odd, {}),
        ((Q, K, V), early),
    ):
        found, expected = (jax.jit(partial(f, **options))(*arguments) for f in (kernel, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_auto_is_plain_at_any_length():
    for length in (100, 130):
        found, expected = (jax.jit(f)(*(x[:, :length] for x in (Q, K, V))) for f in (fused.auto, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
