"""Loss, perplexity and bits per byte against hand arithmetic, and their errors against resampling."""

import math

import jax
import numpy as np
import pytest

from llm_jax.evals.perplexity import perplexity, ratio, row_sums
from llm_jax.models.decoder.llama import Llama

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 60, 200).astype(float)
NATS = TOKENS * 2 + RNG.normal(size=200) * np.sqrt(TOKENS) + 5 * RNG.normal(size=200)
ROWS = np.stack([NATS, TOKENS, 4 * TOKENS + 3], axis=1)


def test_the_error_of_a_ratio_is_that_of_the_jackknife():
    n, found = len(TOKENS), ratio(NATS, TOKENS)
    left_out = (NATS.sum() - NATS) / (TOKENS.sum() - TOKENS)
    jackknife = math.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())
    assert found.value == NATS.sum() / TOKENS.sum() and found.count == TOKENS.sum()
    assert found.error == pytest.approx(jackknife, rel=0.02)


def test_the_error_of_a_ratio_is_that_of_the_bootstrap():
    drawn = np.random.default_rng(1).integers(0, len(TOKENS), (4000, len(TOKENS)))
    spread = (NATS[drawn].sum(1) / TOKENS[drawn].sum(1)).std()
    assert ratio(NATS, TOKENS).error == pytest.approx(spread, rel=0.1)


def test_the_error_of_equal_weights_is_the_textbook_one():
    found = ratio(NATS, np.ones(200))
    assert found.value == pytest.approx(NATS.mean())
    assert found.error == pytest.approx(NATS.std(ddof=1) / math.sqrt(200))
    assert math.isnan(ratio(NATS[:1], TOKENS[:1]).error)


def test_perplexity_and_bits_follow_from_the_sums():
    found = perplexity(lambda batch: batch, [ROWS[:50], ROWS[50:]])
    assert found["loss"].value == pytest.approx(NATS.sum() / TOKENS.sum())
    assert found["perplexity"].value == math.exp(found["loss"].value)
    slope = (math.exp(found["loss"].value + 1e-6) - math.exp(found["loss"].value)) / 1e-6
    assert found["perplexity"].error == pytest.approx(slope * found["loss"].error, rel=1e-5)
    assert found["bits_per_byte"].value == pytest.approx(NATS.sum() / math.log(2) / ROWS[:, 2].sum())
    assert found["bits_per_byte"].count == ROWS[:, 2].sum()


def test_rows_of_no_weight_and_data_without_bytes():
    padded = np.concatenate([ROWS, np.zeros((7, 3))])
    assert perplexity(lambda batch: batch, [padded]) == perplexity(lambda batch: batch, [ROWS])
    assert "bits_per_byte" not in perplexity(lambda batch: batch, [ROWS * [1, 1, 0]])


MODEL = Llama(vocab_size=256, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=24)
TEXT = np.frombuffer(b"four score and seven years ago our fathers brought forth", np.uint8)[:48].reshape(6, 8)
BATCH = {
    "tokens": TEXT.astype(np.int32),
    "targets": np.roll(TEXT, -1).astype(np.int32),
    "weights": np.tile([0, 1, 1, 1, 1, 1, 1, 1], (6, 1)).astype(np.float32),
    "bytes": np.full((6, 8), 2, np.int32),  # as if each token stood for two
}


@pytest.fixture(scope="module")
def sums():
    params = MODEL.init(jax.random.key(0))
    return jax.jit(lambda batch: row_sums(MODEL, params, batch))


def test_the_sums_of_a_model_are_those_of_its_logits(sums):
    logits = np.asarray(MODEL.apply(MODEL.init(jax.random.key(0)), BATCH).logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, BATCH["targets"][..., None].astype(int), -1)[..., 0]
    wanted = np.stack([(nll * BATCH["weights"]).sum(1), np.full(6, 7.0), np.full(6, 14.0)], axis=1)
    np.testing.assert_allclose(sums(BATCH), wanted, rtol=1e-5)
    bits = perplexity(sums, [BATCH])["bits_per_byte"].value
    assert bits == pytest.approx((nll * BATCH["weights"]).sum() / math.log(2) / 84, rel=1e-5)
    assert 3.5 < bits < 4.5  # log2(256) bits a token, two bytes a token


@pytest.mark.parametrize("size", [1, 2, 3])
def test_how_rows_are_batched_changes_nothing(size, sums):
    parts = [{k: v[i : i + size] for k, v in BATCH.items()} for i in range(0, 6, size)]
    whole, split = perplexity(sums, [BATCH]), perplexity(sums, parts)
    for name, estimate in whole.items():
        for field in ("value", "count", "error"):
            assert getattr(split[name], field) == pytest.approx(getattr(estimate, field), rel=1e-5)
