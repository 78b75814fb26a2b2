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
from llm_jax.core.types import Decodes
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


def scores(model, params, batch):
    return jax.jit(lambda p, b: model.apply(p, b).extras["scores"])(params, batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_score_and_the_state_is_that_of_the_pooling(model, draw, source):
    """Three texts of 5, 8 and 9 tokens in rows of 9, padding on the right, on the left, and none."""
    segments = np.ones((3, 9), np.int32)
    segments[0, 5:] = segments[1, :1] = 0
    tokens = np.where(segments > 0, TOKENS[[0, 1, 1]], 7).astype(np.int32)
    source = {name: np.concatenate([rows, rows[:1]]) for name, rows in source.items()}
    lengths = {0: slice(0, 5), 1: slice(1, 9), 2: slice(0, 9)}
    for pooling, chosen in {"first": 0, "last": -1, "mean": None, "tokens": None}.items():
        headed = Headed(model, LABELS, pooling)
        params = draw(headed)
        found = scores(headed, params, {"tokens": tokens, "segments": segments, **source})
        head = params[HEAD]
        for row, real in lengths.items():
            alone = {n: v[row : row + 1] for n, v in source.items()}
            states = model.apply(params, {"tokens": tokens[row : row + 1, real], **alone}).hidden[0]
            if pooling == "mean":
                states = states.mean(0)
            elif pooling != "tokens":
                states = states[chosen]
            kept = found[row, real] if pooling == "tokens" else found[row]
            close(kept, states @ head["kernel"] + head["bias"])


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


@pytest.mark.parametrize("objective", [Classification(), Tagging()])
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
    with layout(text).active() as _:
        place = layout(text)
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
