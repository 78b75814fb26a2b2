"""What holds for an encoder-decoder that is given a source."""

import jax
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import UserError

FORMS = {"v1.0": {}, "v1.1": {"gated": True, "tied": False}}
RNG = np.random.default_rng(4)
TOKENS, SOURCE = (RNG.permutation(40)[:24].reshape(2, 12).astype(np.int32) for _ in range(2))
BATCH = {"tokens": TOKENS, "source_tokens": SOURCE}


def close(a, b):
    """Equal to float32 rounding, relative to the largest logit."""
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.fixture(params=FORMS)
def t5(tiny, request):
    return tiny("t5", **FORMS[request.param])


def test_texts_packed_with_their_sources_give_the_logits_that_each_has_alone(t5, draw):
    params = draw(t5)
    segments = np.repeat([[1, 2]], 12, axis=1).reshape(1, 24).astype(np.int32)
    row = {"tokens": TOKENS.reshape(1, 24), "source_tokens": SOURCE.reshape(1, 24)}
    packed = t5.apply(params, row | {"segments": segments, "source_segments": segments}).logits
    close(packed.reshape(2, 12, -1), t5.apply(params, BATCH).logits)


def test_no_logit_depends_on_the_source_of_another_text(t5, draw):
    """By value: whatever the second source says, the logits of the first text are the same bits."""
    params, segments = draw(t5), np.repeat([[1, 2]], 12, axis=1).reshape(1, 24).astype(np.int32)
    row = {"tokens": TOKENS.reshape(1, 24), "segments": segments, "source_segments": segments}
    run = jax.jit(lambda source: t5.apply(params, row | {"source_tokens": source}).logits)
    source = SOURCE.reshape(1, 24)
    first, second = run(source), run(np.where(segments == 2, (source + 7) % 40, source))
    np.testing.assert_array_equal(first[:, :12], second[:, :12])
    assert not np.allclose(first[:, 12:], second[:, 12:])


def test_padding_of_the_source_changes_no_logit(t5, draw):
    params, pad = draw(t5), np.full((2, 3), 7, np.int32)
    padded = {
        "source_tokens": np.concatenate([SOURCE, pad], 1),
        "source_segments": np.tile(np.int32(np.arange(15) < 12), (2, 1)),
    }
    close(t5.apply(params, BATCH | padded).logits, t5.apply(params, BATCH).logits)


def test_cached_is_whole(t5, draw):
    params = draw(t5)
    whole = t5.apply(params, BATCH).logits
    out, cache = t5.prefill(params, BATCH | {"tokens": TOKENS[:, :5]}, t5.empty_cache(2, 12))
    rest, _ = t5.extend(params, TOKENS[:, 5:], cache)
    close(np.concatenate([out.logits, rest.logits], 1), whole)


def test_the_order_of_the_source_matters(t5, draw):
    params = draw(t5)
    turned = t5.apply(params, BATCH | {"source_tokens": SOURCE[:, ::-1]}).logits
    assert np.abs(turned - t5.apply(params, BATCH).logits).max() > 1e-3


def test_every_parameter_matters_with_a_source(t5, draw):
    grads = jax.grad(lambda p: (jax.nn.log_softmax(t5.apply(p, BATCH).logits) ** 2).mean())(draw(t5))
    assert not [path for path, g in tree.flatten(grads).items() if not np.abs(g).max() > 0]


@pytest.mark.parametrize("sizes", [{"buckets": 2}, {"buckets": 6}, {"furthest": 4}])
def test_buckets_that_hold_no_distance_are_refused(tiny, sizes):
    with pytest.raises(UserError, match=r"model\.(buckets|furthest)=\d+ must be"):
        tiny("t5", **sizes)
