"""What holds for a head for labels over every deep family: what it reads, where it begins, what padding changes."""

from functools import partial

import jax
import numpy as np
import pytest

from llm_jax.adapt.adapted import adapted
from llm_jax.adapt.headed import HEAD, POOLINGS, Headed
from llm_jax.adapt.lora import Lora
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Decodes, Prepares
from llm_jax.mesh.hosts import to_devices
from llm_jax.models.classical.hmm import Hmm
from llm_jax.objectives.labelled.classification import Classification
from llm_jax.objectives.labelled.tagging import Tagging
from tests.laws.kinds import KINDS
from tests.laws.plans import layout

LABELS = ("a", "b", "c")
RNG = np.random.default_rng(1)
TOKENS = RNG.integers(0, 40, (2, 9)).astype(np.int32)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5)
SAMPLE = ("lstm", "bert")
FAMILIES = [pytest.param(f, marks=() if f in SAMPLE else pytest.mark.exhaustive) for f in KINDS["deep"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_score_and_the_state_is_that_of_the_pooling(model, draw, source):
    """Two texts of 6 tokens in rows of 9, padding on the right and on both sides."""
    segments, real = np.zeros((2, 9), np.int32), [slice(0, 6), slice(2, 8)]
    for row, place in enumerate(real):
        segments[row, place] = 1
    tokens = np.where(segments > 0, TOKENS, 7).astype(np.int32)
    pooled = {p: Headed(model, LABELS, p) for p in (*POOLINGS, "tokens")}
    params = draw(pooled["first"])

    @jax.jit
    def found(batch):
        return {name: headed.apply(params, batch).extras["scores"] for name, headed in pooled.items()}

    alone = {"tokens": np.stack([tokens[row, place] for row, place in enumerate(real)]), **source}
    states = np.asarray(jax.jit(lambda batch: model.apply(params, batch).hidden)(alone))
    scores = found({"tokens": tokens, "segments": segments, **source})
    wanted = {"first": states[:, 0], "last": states[:, -1], "mean": states.mean(1), "tokens": states}
    kept = scores | {"tokens": np.stack([scores["tokens"][row, place] for row, place in enumerate(real)])}
    for name, state in wanted.items():
        if isinstance(model, Prepares):
            state = model.prepared(params, state.reshape(2, -1, 16), (None,) * 3).reshape(state.shape)
        close(kept[name], state @ params[HEAD]["kernel"] + params[HEAD]["bias"], err_msg=name)


@pytest.mark.parametrize("family", ["lstm"])
def test_paths_are_those_of_the_model_and_it_no_longer_decodes(model):
    headed = Headed(model, LABELS)
    assert headed.declarations().keys() == {*model.declarations(), "label_head/kernel", "label_head/bias"}
    assert headed.declarations()["label_head/kernel"].shape == (16, 3)
    assert Headed(model, ()).declarations()["label_head/kernel"].shape == (16, 1)
    assert headed.pooled == "last" and isinstance(model, Decodes) and not isinstance(headed, Decodes)
    assert headed.vocab_size == 40 and headed.num_layers == 2
    own, whole = model.init(jax.random.key(3)), headed.init(jax.random.key(3))
    for path, leaf in tree.flatten(own).items():
        np.testing.assert_array_equal(tree.flatten(whole)[path], leaf)


@pytest.mark.parametrize("family", ["bert"])
def test_the_pooler_of_a_model_is_read_and_a_head_may_have_no_bias(make, draw):
    model = make(pooler=True)
    headed = Headed(model, LABELS, "pooler", bias=False)
    params = draw(headed)
    assert headed.declarations().keys() == {*model.declarations(), "label_head/kernel"}
    out = jax.jit(lambda p: headed.apply(p, {"tokens": TOKENS}).extras)(params)
    close(out["scores"], out["pooled"] @ params[HEAD]["kernel"])
    with pytest.raises(UserError, match=r"pooling='pooler' needs a model with a pooler"):
        Headed(make(pooler=False), LABELS, "pooler")


@pytest.mark.parametrize("family", ["bert"])
def test_an_adapter_learns_the_head_too(model, draw):
    headed = Headed(model, LABELS)
    assert headed.pooled == "mean"
    both = adapted(headed, Lora(3), ("attention/query", f"^{HEAD}/kernel$"))
    fresh = both.attach(both.init(jax.random.key(0)), draw(headed))
    batch = {"tokens": TOKENS, "label": np.array([0, 2], np.int32)}

    def loss(adapter):
        return Classification()(both, {**fresh, "adapter": adapter}, batch, None)[0].total

    gradient = tree.flatten(jax.jit(jax.grad(loss))(fresh["adapter"]))
    assert {path for path, g in gradient.items() if np.any(g)} == {
        "blocks/attention/query/up", "label_head/kernel/up",
    }  # fmt: skip


@pytest.mark.parametrize("objective", [Classification(), pytest.param(Tagging(), marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("text", ["data2 fsdp2 tensor2 explicit"])
def test_a_plan_changes_no_gradient(tiny, draw, objective, text):
    model = Headed(tiny("bert"), LABELS, objective.head.pooling)
    params = draw(model, size=0.15)
    rows = np.tile(TOKENS[:, :8], (4, 1))
    batch = {"tokens": rows, "segments": np.ones_like(rows), "label": (np.arange(8) % 3).astype(np.int32)}
    batch["tags"], batch["segments"][3, 5:] = rows % 3, 0

    def loss(p, b):
        return objective(model, p, b, None)[0].value

    expected = jax.jit(jax.value_and_grad(loss))(params, batch)
    place = layout(text)
    with place.active():
        shardings = tree.unflatten(dict(place.shardings(model.declarations())))
        placed = jax.device_put(params, shardings)
        found = jax.jit(jax.value_and_grad(loss))(placed, to_devices(batch, 8))
    for path, leaf in tree.flatten(found[1]).items():
        wanted = tree.flatten(expected[1])[path]
        np.testing.assert_allclose(leaf, wanted, atol=1e-5 * max(1.0, float(np.abs(wanted).max())), err_msg=path)
    close(found[0], expected[0])


def test_what_makes_no_head_is_refused(tiny):
    with pytest.raises(UserError, match=r"objective\.pooling='lost'.*did you mean 'last'"):
        Headed(tiny("lstm"), LABELS, "lost")
    with pytest.raises(UserError, match=r"hmm.*no hidden states"):
        Headed(Hmm(vocab_size=8), LABELS)
    assert POOLINGS.keys() == {"first", "last", "mean"}
