"""What holds for every adapter over every deep family: it begins as the model, and merged it is what it is apart."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.adapt import ADAPTERS
from llm_jax.adapt.adapted import adapted
from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.learn.gradient import descent, plain
from llm_jax.mesh import plan
from llm_jax.mesh.hosts import to_devices
from llm_jax.objectives.causal import Causal
from llm_jax.optim.transform import transformation
from llm_jax.run.build import shardings
from tests.laws.conftest import SOURCES
from tests.laws.kinds import KINDS
from tests.laws.plans import BATCH as PLANNED
from tests.laws.plans import TOLERANCE, differences, layout, loss, on

TOKENS = np.random.default_rng(1).integers(0, 40, (2, 12)).astype(np.int32)
BATCH = {"tokens": TOKENS, "targets": np.roll(TOKENS, -1, axis=1)}


def over_families(kind, sample):
    """Run a law over the families of a kind, all but a sample of them when everything is run."""
    marks = {family: () if family in sample else pytest.mark.exhaustive for family in KINDS[kind]}
    return pytest.mark.parametrize("family", [pytest.param(family, marks=m) for family, m in marks.items()])


def over(model, name="lora", targets=(".",), **fields):
    """The model with an adapter of rank 3, on every kernel where nothing else is said."""
    return adapted(model, lookup(ADAPTERS, name, "adapt.name")(**{"rank": 3, "alpha": 5.0} | fields), targets)


def begun(model, params, size=0.2):
    """Parameters of an adapted model over given ones, and others whose change is not nothing."""
    fresh = model.attach(model.init(jax.random.key(0)), params)
    rng = np.random.default_rng(2)
    drawn = jax.tree.map(lambda x: (x + size * rng.normal(size=x.shape)).astype(np.float32), fresh["adapter"])
    return fresh, {**fresh, "adapter": drawn}


@lru_cache
def logits(model):
    return jax.jit(lambda params, batch: model.apply(params, batch).logits)


@over_families("deep", ("llama",))
@pytest.mark.parametrize("name", ADAPTERS)
def test_at_the_beginning_it_is_the_model_and_merged_it_is_what_it_is_apart(model, params, name):
    both = over(model, name)
    fresh, changed = begun(both, params)
    merged = both.merge(fresh)
    for path, leaf in tree.flatten(merged).items():
        np.testing.assert_array_equal(leaf, tree.flatten(params)[path], err_msg=path)
    base = logits(model)(params, BATCH)
    np.testing.assert_allclose(logits(both)(fresh, BATCH), base, atol=1e-6 if name == "lora" else 3e-5, rtol=1e-5)
    apart = logits(both)(changed, BATCH)
    np.testing.assert_allclose(apart, logits(model)(both.merge(changed), BATCH), atol=1e-5, rtol=1e-5)
    assert np.abs(apart - base).max() > 1e-2


def learner_of(both, start, name="sgd"):
    """The learner of an adapted model that begins from given parameters."""
    learner = descent(both, Causal(), transformation(name, 0.1))
    return learner._replace(init=lambda key: replace(learner.init(key), params=start))


@over_families("deep", ("llama",))
def test_all_of_an_adapter_learns_and_no_bit_of_what_lies_below_it(model, params, family):
    both = over(model, "dora", ("^(?!pooler)",))  # which says nothing of the next token
    _, start = begun(both, params)
    assert {p: x.shape for p, x in tree.flatten(start).items()} == {p: d.shape for p, d in both.declarations().items()}
    learner = learner_of(both, start)
    state = learner.init(jax.random.key(0))
    after, stats = jax.jit(learner.update)(state, BATCH | SOURCES.get(family, {}))
    before, now = tree.flatten(start), tree.flatten(after.params)
    same = {path for path in now if np.array_equal(before[path], now[path])}
    assert same == {f"base/{path}" for path in tree.flatten(params)}
    assert np.isfinite(stats["gradient_norm"].value)


@pytest.mark.parametrize("family", ["llama", "mixtral", "mamba2"])
def test_optimizer_state_and_gradients_are_of_the_adapter_alone(model, params):
    both = over(model)
    learner = learner_of(both, begun(both, params)[1], "adamw")
    state = jax.eval_shape(learner.init, jax.random.key(0))
    kept = {p.split("/adapter/")[-1] for p, x in tree.flatten(state.opt).items() if x.ndim}
    assert kept == set(tree.flatten(state.params["adapter"]))
    rule = plain(both, Causal())
    gradients = jax.eval_shape(rule, state.params, BATCH, None)[0].total
    assert gradients.keys() == {"adapter"}


@over_families("deep", ("llama",))
@pytest.mark.parametrize("text", ["data2 fsdp2 tensor2 explicit"])
def test_a_plan_changes_no_gradient(model, params, text):
    """Explicit axes turn a silent all-gather into an error: the merging has none."""
    both = over(model)
    _, start = begun(both, jax.tree.map(lambda x: 0.5 * x, params), size=0.1)  # as of `alone`
    value, gradient = jax.jit(loss(both))(start, PLANNED)
    found = on(layout(text), both, start)
    far = {path: d for path, d in differences(found[:2], (float(value), gradient)).items() if d > 2 * TOLERANCE}
    assert not far, far


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("mixtral", "mamba2"))]
)
@pytest.mark.parametrize("text", ["data2 fsdp2 tensor2"])
def test_a_plan_changes_no_step_and_an_adapter_lies_as_its_kernels_do(model, params, text):
    both, place = over(model, "dora", targets=(r"/(query|out|up|down|x)$",)), layout(text)
    start = begun(both, params)[1]
    rows = {"tokens": np.tile(TOKENS, (4, 1)), "targets": np.tile(BATCH["targets"], (4, 1))}
    results = {}
    for name, each in (("one", plan.Plan()), ("many", place)):
        with each.active():
            learner = learner_of(both, start, "adamw")
            where = shardings(each, both.declarations(), learner)
            state = jax.jit(learner.init, out_shardings=where)(jax.random.key(0))
            update = jax.jit(learner.update, out_shardings=None if where is None else (where, None))
            results[name] = update(state, to_devices(rows, 8))[0]
    found, expected = (tree.flatten(results[name].params) for name in ("many", "one"))
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, atol=2e-4, err_msg=path)  # adamw's first step is 0.1 of any sign
    split = [p for p, x in found.items() if p.startswith("adapter/") and not x.sharding.is_fully_replicated]
    assert split


def test_dropout_changes_what_is_learnt_and_follows_its_key(tiny, draw):
    model = tiny("llama")
    both = over(model, dropout=0.5)
    _, changed = begun(both, draw(model))
    run = jax.jit(lambda key: both.apply(changed, BATCH, key=key).logits)
    one, again, other, none = (run(key and jax.random.key(key)) for key in (1, 1, 2, None))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-2 and np.abs(one - none).max() > 1e-2


def test_a_pattern_that_matches_no_kernel_is_refused(tiny):
    with pytest.raises(UserError, match=r"querry.*blocks/attention/query"):
        over(tiny("llama"), targets=("attention/value", "querry"))
    with pytest.raises(UserError, match="norm"):  # a vector is no kernel
        over(tiny("llama"), targets=("attention_norm/scale",))


@over_families("decoder", ("llama",))
def test_an_adapted_decoder_goes_on_as_it_reads(model, params):
    both = over(model)
    _, changed = begun(both, params)
    whole = logits(both)(changed, {"tokens": TOKENS})

    @jax.jit
    def goes_on(p):
        first, cache = both.prefill(p, {"tokens": TOKENS[:, :8]}, both.empty_cache(2, 12))
        return jnp.concatenate([first.logits, both.extend(p, TOKENS[:, 8:], cache)[0].logits], 1)

    np.testing.assert_allclose(goes_on(changed), whole, atol=2e-4, rtol=1e-4)
