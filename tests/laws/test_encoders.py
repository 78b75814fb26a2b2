"""What holds for models that read a whole text at once, and for the masking that they learn by."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.core.types import Decodes, Embeds
from llm_jax.data.corrupt.masked import swapped, together, word_starts
from llm_jax.data.corrupt.rows import Texts
from llm_jax.data.features import next_token
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.encoder.bert import Bert
from llm_jax.objectives.masked import Masked
from llm_jax.text import tokenizers

TOKENS = np.random.default_rng(1).permutation(40)[:24].reshape(2, 12).astype(np.int32)  # all different
WORDS = tokenizers.build("bytes")
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5)


@pytest.mark.of("encoder")
def test_every_state_depends_on_every_token_of_its_text_and_on_none_of_another(model, params):
    direction = np.random.default_rng(2).normal(size=16).astype(np.float32)
    segments = np.array([[1] * 4 + [2] * 8])

    def projected(table):
        embed = params["embed"] | {"tokens": table}
        return (
            model.apply(params | {"embed": embed}, {"tokens": TOKENS[:1], "segments": segments}).hidden[0] @ direction
        )

    by_row = np.asarray(jax.jit(jax.jacrev(projected))(jnp.asarray(params["embed"]["tokens"])))[:, TOKENS[0]]
    reached = np.abs(by_row).max(-1) > 0  # [T states, T tokens]
    np.testing.assert_array_equal(reached, segments[0][:, None] == segments[0])


@pytest.mark.of("encoder")
def test_texts_become_vectors_of_length_one_that_padding_does_not_change(model, params):
    assert isinstance(model, Embeds) and not isinstance(model, Decodes)
    padded = {"tokens": np.pad(TOKENS[:, :7], ((0, 0), (0, 5))), "segments": np.repeat([[1] * 7 + [0] * 5], 2, axis=0)}
    run = jax.jit(model.embed)
    vectors, alone = run(params, padded), run(params, {"tokens": TOKENS[:, :7]})
    close(vectors, alone)
    close(jnp.linalg.norm(vectors, axis=1), 1.0)
    assert not np.allclose(vectors[0], vectors[1])


@pytest.mark.of("encoder")
def test_the_head_may_be_handed_through_a_transformation_as_losses_do(model, params):
    out = model.apply(params, {"tokens": TOKENS})
    close(jax.jit(lambda head, hidden: head(hidden))(out.head, out.hidden), out.logits)


def packed(rows, T, seed=0):
    """Rows of random bytes, the last of them without weight."""
    fields = next_token(np.random.default_rng(seed).integers(0, 256, (rows, T + 1)))
    weights = np.ones((rows, T), np.float32)
    weights[-1] = 0
    return fields | {"weights": weights}


def test_of_the_tokens_15_percent_are_chosen_and_of_these_80_10_10_hidden_replaced_and_kept():
    fields = packed(4000, 64)
    batch = Masked().transform(WORDS, 64, 3)(fields, np.arange(4000))
    chosen, real = batch["weights"] > 0, batch["segments"] > 0
    np.testing.assert_array_equal(batch["targets"], fields["targets"] * real)
    assert abs(chosen[real].mean() - 0.15) < 0.002
    hidden, kept = batch["tokens"] == WORDS.vocab_size, batch["tokens"] == batch["targets"]
    assert not hidden[~chosen].any() and kept[~chosen].all() and not chosen[-1].any() and not real[-1].any()
    shares = [np.mean(x[chosen]) for x in (hidden, ~hidden & ~kept, kept)]
    assert np.abs(np.array(shares) - [0.8, 0.1 * 256 / 257, 0.1 + 0.1 / 257]).max() < 0.006
    replaced = batch["tokens"][chosen & ~hidden & ~kept]
    assert np.bincount(replaced, minlength=257).min() > 0  # by any id


def test_what_is_hidden_is_decided_by_seed_and_number():
    fields, numbers = packed(6, 32), np.array([5, 9, 2**40, 7, 1, 0])
    reshape = Masked(sentence_order=1.0).transform(WORDS, 32, 3)
    whole = reshape(fields, numbers)
    parts = [reshape({k: v[i] for k, v in fields.items()}, numbers[i]) for i in (slice(0, 2), slice(2, 6))]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
    other = Masked(sentence_order=1.0).transform(WORDS, 32, 4)(fields, numbers)
    assert (other["weights"] != whole["weights"]).any()
    assert (reshape(fields, numbers + 100)["weights"] != whole["weights"]).any()


def test_whole_words_are_chosen_together():
    text = b"the people of these united states, and others. " * 8
    ids = np.frombuffer(text[:321], np.uint8).astype(np.int32)
    fields = next_token(np.stack([ids] * 500))
    batch = Masked(whole_words=True).transform(WORDS, 320, 0)(fields, np.arange(500))
    starts = word_starts(WORDS)[batch["targets"]]
    joined = (batch["weights"][:, 1:] == batch["weights"][:, :-1]) | starts[:, 1:]
    assert joined.all() and abs(batch["weights"].mean() - 0.15) < 0.01
    values = np.array([[0.1, 0.2, 0.3, 0.4]])
    begins = np.zeros(256, bool)
    begins[ord("a")] = True
    bab = np.array([[ord(c) for c in "bbab"]])
    assert together(values, bab, begins).tolist() == [[0.1, 0.1, 0.3, 0.3]]


def test_half_of_the_texts_have_their_parts_exchanged_and_nothing_is_lost():
    rng = np.random.default_rng(0)
    ids, sizes = rng.integers(0, 256, (3000, 20)), rng.integers(0, 21, 3000)
    text = Texts(np.where(np.arange(20) < sizes[:, None], ids, 0).astype(np.int32), sizes)
    moved, types, change = swapped(text, rng.random((3000, 2)))
    assert abs(change.mean() - 0.5) < 0.03
    for row in range(200):
        size, second = sizes[row], int((types[row] == 0)[: sizes[row]].sum())
        before, after = text.ids[row, :size].tolist(), moved.ids[row, :size].tolist()
        assert after == (before[size - second :] + before[: size - second] if change[row] else before)
        assert size < 4 or ((size - second if change[row] else second) / size + 1 / size >= 0.25 and second < size)
        assert not moved.ids[row, size:].any() and not types[row, size:].any()


@pytest.mark.exhaustive
def test_the_order_of_sentences_is_told_by_a_row_and_learned_through_the_pooler():
    model = Bert(vocab_size=300, max_positions=32, num_layers=1, embed_dim=16, num_heads=2)
    params = model.init(jax.random.key(0))
    batch = Masked(sentence_order=1.0).transform(WORDS, 32, 0)(packed(8, 32), np.arange(8))
    loss, stats = jax.jit(lambda p: Masked(sentence_order=0.7)(model, p, batch, None))(params)
    order = model.apply(params, batch).extras["order"]
    nll = -np.asarray(jax.nn.log_softmax(order))[np.arange(8), batch["label"]]
    close(stats["order"].value, nll[:7].mean())
    close(loss.total, stats["loss"].total + 0.7 * (nll * batch["weights"].sum(1)).sum())
    gradient = jax.grad(lambda p: Masked(sentence_order=0.7)(model, p, batch, None)[0].total)(params)
    assert np.abs(gradient["pooler"]["order"]).max() > 0
    without = Masked()(model, params, batch, None)
    assert "order" not in without[1] and without[0].total == stats["loss"].total


def test_a_decoder_and_a_model_without_a_pooler_are_refused():
    batch = Masked(sentence_order=1.0).transform(WORDS, 32, 0)(packed(2, 32), np.arange(2))
    llama = Llama(vocab_size=300, num_layers=1, embed_dim=16, num_heads=2)
    with pytest.raises(UserError, match="bert"):
        Masked()(llama, llama.init(jax.random.key(0)), batch, None)
    bare = Bert(vocab_size=300, max_positions=32, num_layers=1, embed_dim=16, num_heads=2, pooler=False)
    with pytest.raises(UserError, match=r"model\.pooler=True"):
        Masked(sentence_order=1.0)(bare, bare.init(jax.random.key(0)), batch, None)
