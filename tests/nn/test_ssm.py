"""The short convolution, the gated norm and the initial step sizes of the Mamba-2 mixer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.mesh import plan
from llm_jax.models import MODELS
from llm_jax.nn.recurrent.ssm import causal_conv, gated_norm, log_decay, step_bias

rng = np.random.default_rng(0)
X, KERNEL = rng.normal(size=(1, 9, 2, 3)).astype(np.float32), rng.normal(size=(4, 2, 3)).astype(np.float32)
BIAS = rng.normal(size=(2, 3)).astype(np.float32)


def alone(x):
    """The convolution of one text, channel by channel by numpy's own."""
    y = np.empty_like(x)
    for channel in np.ndindex(x.shape[2:]):
        at = (0, slice(None), *channel)
        y[at] = np.convolve(x[at], KERNEL[(slice(None), *channel)][::-1])[: x.shape[1]] + BIAS[channel]
    return y


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_token_sees_itself_and_the_three_before_it():
    y, window = causal_conv(X, KERNEL, BIAS)
    close(y, alone(X))
    close(window, X[:, 6:])


def test_no_token_sees_another_segment_nor_does_the_next_piece():
    segments = np.array([[0, 1, 1, 1, 1, 1, 2, 2, 2]])
    y, window = causal_conv(X, KERNEL, BIAS, segments=segments)
    close(y[:, 1:6], alone(X[:, 1:6]))
    close(y[:, 6:], alone(X[:, 6:]))
    close(window, X[:, 6:])
    _, window = causal_conv(X[:, :8], KERNEL, BIAS, segments=segments[:, :8])
    close(window, np.concatenate([0 * X[:, 5:6], X[:, 6:8]], axis=1))


def test_a_text_may_be_read_in_pieces():
    past, whole = np.zeros((1, 3, 2, 3), np.float32), alone(X)
    for start, stop in ((0, 2), (2, 3), (3, 9)):
        y, past = causal_conv(X[:, start:stop], KERNEL, BIAS, past=past)
        close(y, whole[:, start:stop])


def test_what_came_before_belongs_to_the_first_segment_of_a_row():
    segments = np.array([[1, 1, 2, 2, 2]])
    _, past = causal_conv(X[:, :4], KERNEL, BIAS)
    y, _ = causal_conv(X[:, 4:], KERNEL, BIAS, past=past, segments=segments)
    close(y[:, :2], alone(X)[:, 4:6])
    close(y[:, 2:], alone(X[:, 6:]))


def test_the_gated_norm_makes_each_group_of_heads_of_unit_size():
    y, gate = rng.normal(size=(2, 1, 3, 4, 5)).astype(np.float32)
    normal = gated_norm(y, gate, np.ones((4, 5), np.float32), 2, 0.0).reshape(1, 3, 2, 10)
    close(np.square(normal).mean(-1), np.ones((1, 3, 2)))
    gated = (y * np.asarray(jax.nn.silu(gate))).reshape(1, 3, 2, 10)
    close(normal / gated, np.broadcast_to((normal / gated)[..., :1], gated.shape))


def test_initial_steps_and_rates_lie_where_the_paper_draws_them():
    dt = jax.nn.softplus(step_bias(jax.random.key(0), (1000,)))
    rates = np.exp(log_decay(jax.random.key(0), (1000,)))
    assert 0.00099 < dt.min() < 0.0012 and 0.09 < dt.max() < 0.1001 and 0.008 < np.median(dt) < 0.0125
    assert 1 <= rates.min() < 1.1 and 15.9 < rates.max() <= 16 and 8 < np.median(rates) < 9


@pytest.mark.parametrize("name", ["A_log", "dt_bias", "D"])
def test_rates_step_sizes_and_skips_are_exact_under_a_short_compute_dtype(name):
    """Rounded to bfloat16, a rate of decay would be off by half a percent at every token."""
    model = lookup(MODELS, "mamba2", "model.name")(vocab_size=16, num_layers=1, embed_dim=8, head_dim=4, state_dim=4)
    params = tree.flatten(model.init(jax.random.key(0)))
    path, tokens = f"blocks/mixer/{name}", np.arange(64)[None] % 16
    drawn = rng.uniform(1.0, 2.0, params[path].shape).astype(np.float32)
    rounded = np.asarray(jnp.bfloat16(drawn), np.float32)
    with plan.Plan(compute_dtype="bfloat16").active():
        run = jax.jit(lambda p: model.apply(p, {"tokens": tokens}).logits)
        one, other = (run(tree.unflatten({**params, path: value})) for value in (drawn, rounded))
        assert model.apply(tree.unflatten(params), {"tokens": tokens}).hidden.dtype == jnp.bfloat16
    assert (one != other).any()
