"""What holds for every learner: a gradient rule with an optimizer, accumulated or not, averaged or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.learn.accumulate import accumulate
from llm_jax.learn.ema import averaged, ema
from llm_jax.learn.gradient import gradient, plain
from llm_jax.models.decoder.gpt2 import GPT2
from llm_jax.models.decoder.llama import Llama
from llm_jax.objectives.causal import Causal
from llm_jax.optim import OPTIMIZERS
from llm_jax.optim.transform import transformation
from llm_jax.store.checkpoint import Checkpoints

V, B, T = 24, 8, 12
MODEL = Llama(vocab_size=V, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=24)
RNG = np.random.default_rng(0)
BATCH = {
    "tokens": RNG.integers(0, V, (B, T)).astype(np.int32),
    "targets": RNG.integers(0, V, (B, T)).astype(np.int32),
    "weights": (RNG.integers(0, 4, (B, T)) * np.arange(B)[:, None] / 4).astype(np.float32),  # rows very unequal
}
RULE = plain(MODEL, Causal())
RATES = {"sgd": 0.3, "adagrad": 0.1, "adafactor": 0.05}


def tx(name, **options):
    return transformation(name, RATES.get(name, 0.02), clip_norm=1.0, **options)


LEARNERS = {
    "gradient-sgd": gradient(RULE, MODEL.init, tx("sgd")),
    "gradient-adamw": gradient(RULE, MODEL.init, tx("adamw", weight_decay=0.1)),
    "accumulate-muon": gradient(accumulate(RULE, 4), MODEL.init, tx("muon")),
    "ema-adafactor": ema(gradient(RULE, MODEL.init, tx("adafactor")), 0.9),
    "ema-accumulate-lion": ema(gradient(accumulate(RULE, 2), MODEL.init, tx("lion")), 0.9),
}


@pytest.fixture(params=LEARNERS, scope="module")
def learner(request):
    return LEARNERS[request.param]


@pytest.fixture(scope="module")
def update(learner):
    return jax.jit(learner.update)


@pytest.fixture(scope="module")
def new(learner):
    return jax.jit(learner.init)(jax.random.key(0))


def batch(step):
    rng = np.random.default_rng(step)
    tokens = rng.integers(0, V, (B, T)).astype(np.int32)
    return {"tokens": tokens, "targets": (tokens + 1) % V}  # something to learn


def equal(a, b):
    a, b = (jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, t) for t in (a, b))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(tree.flatten(a).items(), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=path)


def _is_key(x):
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def near(a, b, rtol):
    """Equal relative to the largest element of each leaf."""
    for (path, x), y in zip(tree.flatten(a).items(), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.abs(y).max(), err_msg=path)


@pytest.mark.rotates(6)
def test_a_state_that_was_taken_apart_goes_on_as_if_it_was_not(new, update, tmp_path):
    """Through leaves and back, and through a checkpoint: all that matters to the future is in the state."""
    middle = update(update(new, batch(0))[0], batch(1))[0]
    leaves, form = jax.tree.flatten(middle)
    again = jax.tree.unflatten(form, [x if _is_key(x) else np.asarray(x) for x in leaves])
    wanted = update(middle, batch(2))
    equal(update(again, batch(2)), wanted)
    with Checkpoints(tmp_path) as saved:
        saved.save(2, middle)
        saved.wait()
        restored, _ = saved.restore(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), middle))
    equal(update(restored, batch(2)), wanted)


def test_steps_are_counted_and_the_key_is_kept(new, update):
    state = new
    for step in range(3):
        assert state.step == step and state.step.dtype == jnp.int32
        state, stats = update(state, batch(step))
    equal(state.key, new.key)
    assert {"loss", "objective", "gradient_norm"} <= stats.keys() and stats["loss"].weight == B * T


def test_a_state_keeps_its_structure_shapes_and_dtypes(new, update):
    form = lambda s: [(p, x.shape, x.dtype) for p, x in tree.flatten(s).items()]  # noqa: E731
    assert form(update(new, batch(0))[0]) == form(new)


@pytest.mark.rotates(6)
@pytest.mark.parametrize("learner", ["gradient-adamw", "ema-accumulate-lion"], indirect=True)
def test_jitted_is_eager(learner, new, update):
    jitted, eager = update(new, BATCH), learner.update(new, BATCH)
    near(jitted[0].params, eager[0].params, 2e-5)
    near(jitted[1], eager[1], 2e-5)


def test_it_is_deterministic(learner, new, update):
    equal(update(new, BATCH), update(new, BATCH))
    equal(jax.jit(learner.init)(jax.random.key(0)), new)


def test_tokens_of_no_weight_change_nothing(new, update):
    other = np.where(BATCH["weights"] == 0, (BATCH["targets"] + 5) % V, BATCH["targets"])
    assert (other != BATCH["targets"]).sum() > 10
    equal(update(new, BATCH | {"targets": other}), update(new, BATCH))


def test_a_batch_of_no_weight_leaves_finite_parameters(new, update):
    state, stats = update(new, BATCH | {"weights": np.zeros((B, T), np.float32)})
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    assert stats["gradient_norm"].value == 0


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulated_is_whole_whatever_the_weights(parts):
    """Sums, not means of means: with these weights a mean of the parts' means is far off."""
    params = MODEL.init(jax.random.key(1))
    rules = [jax.jit(rule) for rule in (RULE, accumulate(RULE, parts))]
    (whole, loss, stats), (summed, total, told) = (rule(params, BATCH, None) for rule in rules)
    near(summed.total, whole.total, 2e-6)
    for a, b in ((total, loss), *((told[name], stats[name]) for name in stats)):
        np.testing.assert_allclose(a.total, b.total, rtol=1e-6)
        assert a.weight == b.weight
    assert summed.weight == whole.weight


def test_each_microbatch_has_draws_of_its_own():
    model = GPT2(vocab_size=V, max_positions=T, num_layers=1, embed_dim=16, num_heads=2, dropout=0.5)
    params = model.init(jax.random.key(0))
    same = jax.tree.map(lambda x: np.repeat(x[:1], 2, axis=0), batch(0))

    def rule(params, batch, key):
        loss, stats = Causal()(model, params, batch, key)
        return loss, loss, stats | {"squares": loss._replace(total=loss.total**2)}

    summed = jax.jit(accumulate(rule, 2))(params, same, jax.random.key(1))
    assert abs(float(2 * summed[2]["squares"].total - summed[1].total ** 2)) > 0.01  # of equal parts: 0
    assert len({float(jax.jit(accumulate(rule, 2))(params, same, jax.random.key(k))[1].value) for k in (1, 1, 2)}) == 2


def test_the_average_is_that_of_the_formula():
    state = (inner := LEARNERS["gradient-sgd"]).init(jax.random.key(0))
    other = (outer := ema(inner, 0.5)).init(jax.random.key(0))
    average = jax.tree.map(np.asarray, state.params)
    for step in range(1, 16):
        state, other = jax.jit(inner.update)(state, batch(step))[0], jax.jit(outer.update)(other, batch(step))[0]
        d = min(0.5, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, p, d=d: d * a + (1 - d) * np.asarray(p), average, state.params)
    equal(other.params, state.params)
    near(averaged(other), average, 1e-5)
    assert averaged(state) is state.params


@pytest.mark.rotates(4)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_on_a_real_model(name):
    learner = gradient(RULE, MODEL.init, tx(name))

    def step(state, batch):
        state, stats = learner.update(state, batch)
        return state, stats["loss"].value

    batches = jax.tree.map(lambda *x: np.stack(x), *[batch(i) for i in range(40)])
    _, losses = jax.jit(lambda key: jax.lax.scan(step, learner.init(key), batches))(jax.random.key(0))
    assert np.log(V) - 0.3 < losses[0] < np.log(V) + 0.3
    assert losses[-1] < 0.5 * losses[0] and np.isfinite(losses).all()
