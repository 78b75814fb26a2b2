"""What holds for an encoder-decoder that is given a source."""

import jax
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import UserError

FORMS = {
    "t5 v1.0": ("t5", {}),
    "t5 v1.1": ("t5", {"gated": True, "tied": False}),
    "bart": ("bart", {"scaled": True}),
    "bart without a bias": ("bart", {"logits_bias": False}),
    "marian": ("marian", {}),
}
SOME = {"t5 v1.1", "bart"}  # the others run with all laws
RNG = np.random.default_rng(4)
TOKENS, SOURCE = (RNG.permutation(40)[:24].reshape(2, 12).astype(np.int32) for _ in range(2))
BATCH = {"tokens": TOKENS, "source_tokens": SOURCE}


def close(a, b):
    """Equal to float32 rounding, relative to the largest logit."""
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


pytestmark = pytest.mark.rotates(2)


@pytest.fixture(params=[pytest.param(f, marks=() if f in SOME else pytest.mark.exhaustive) for f in FORMS])
def form(tiny, request):
    family, fields = FORMS[request.param]
    return tiny(family, **fields)


def test_texts_packed_with_their_sources_give_the_logits_that_each_has_alone(form, draw):
    params = draw(form)
    segments = np.repeat([[1, 2]], 12, axis=1).reshape(1, 24).astype(np.int32)
    row = {"tokens": TOKENS.reshape(1, 24), "source_tokens": SOURCE.reshape(1, 24)}
    packed = form.apply(params, row | {"segments": segments, "source_segments": segments}).logits
    close(packed.reshape(2, 12, -1), form.apply(params, BATCH).logits)


def test_no_logit_depends_on_the_source_of_another_text(form, draw):
    """By value: whatever the second source says, the logits of the first text are the same bits."""
    params, segments = draw(form), np.repeat([[1, 2]], 12, axis=1).reshape(1, 24).astype(np.int32)
    row = {"tokens": TOKENS.reshape(1, 24), "segments": segments, "source_segments": segments}
    run = jax.jit(lambda source: form.apply(params, row | {"source_tokens": source}).logits)
    source = SOURCE.reshape(1, 24)
    first, second = run(source), run(np.where(segments == 2, (source + 7) % 40, source))
    np.testing.assert_array_equal(first[:, :12], second[:, :12])
    assert not np.allclose(first[:, 12:], second[:, 12:])


def test_padding_of_the_source_changes_no_logit(form, draw):
    params, pad = draw(form), np.full((2, 3), 7, np.int32)
    padded = {
        "source_tokens": np.concatenate([SOURCE, pad], 1),
        "source_segments": np.tile(np.int32(np.arange(15) < 12), (2, 1)),
    }
    close(form.apply(params, BATCH | padded).logits, form.apply(params, BATCH).logits)


def test_cached_is_whole(form, draw):
    params = draw(form)
    whole = form.apply(params, BATCH).logits
    out, cache = form.prefill(params, BATCH | {"tokens": TOKENS[:, :5]}, form.empty_cache(2, 12))
    rest, _ = form.extend(params, TOKENS[:, 5:], cache)
    close(np.concatenate([out.logits, rest.logits], 1), whole)


def test_the_order_of_the_source_matters(form, draw):
    params = draw(form)
    turned = form.apply(params, BATCH | {"source_tokens": SOURCE[:, ::-1]}).logits
    assert np.abs(turned - form.apply(params, BATCH).logits).max() > 1e-3


def test_every_parameter_matters_with_a_source(form, draw):
    grads = jax.grad(lambda p: (jax.nn.log_softmax(form.apply(p, BATCH).logits) ** 2).mean())(draw(form))
    assert not [path for path, g in tree.flatten(grads).items() if not np.abs(g).max() > 0]


def test_an_odd_width_has_no_waves(tiny):
    with pytest.raises(UserError, match=r"model\.embed_dim=15 must be even"):
        tiny("marian", embed_dim=15, num_heads=3)


@pytest.mark.parametrize("sizes", [{"buckets": 2}, {"buckets": 6}, {"furthest": 4}])
def test_buckets_that_hold_no_distance_are_refused(tiny, sizes):
    with pytest.raises(UserError, match=r"model\.(buckets|furthest)=\d+ must be"):
        tiny("t5", **sizes)
