"""Laws of beam search: against all texts there are, greedy decoding and whole forward passes; rows do not meet."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.decode.beam import Beams, search
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate
from llm_jax.decode.score import score
from llm_jax.mesh import plan
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.seq2seq.t5 import T5
from llm_jax.nn import cache as caches
from llm_jax.nn.cross.attention import Paired
from llm_jax.nn.recurrent import state as states
from llm_jax.nn.recurrent.state import Part

FEW = Llama(vocab_size=5, num_layers=1, embed_dim=8, num_heads=2, mlp_dim=8)
LLAMA = Llama(vocab_size=29, num_layers=2, embed_dim=16, num_heads=2, num_kv_heads=1)
SEQ2SEQ = T5(29, 2, embed_dim=16, num_heads=2, mlp_dim=16, buckets=8, furthest=12, gated=True, tied=False)
STOPS = [2, 9, 17, 23, 27]
END, NEW, WIDE = 0, 3, 125
PROMPTS = [[3, 5], [7] * 9, [1, 2, 3, 4]]


def drawn(model, size):
    params = model.init(jax.random.key(1))
    return jax.tree.map(lambda x: size * x, params)


PARAMS = {id(m): drawn(m, size) for m, size in ((FEW, 6), (LLAMA, 5), (SEQ2SEQ, 1.2))}


def run(model, prompts, **options):
    return search(model, PARAMS[id(model)], prompts, **{"max_new_tokens": 10, "stop_ids": STOPS, **options})


def every_text(penalty):
    """All texts of up to three of five ids after one prompt, by their scores from whole forward passes."""
    ids = np.array(list(itertools.product(range(5), repeat=NEW)), np.int32)
    tokens = np.concatenate([np.broadcast_to([[3, 1]], (len(ids), 2)), ids], 1)
    log_p = np.asarray(jax.nn.log_softmax(FEW.apply(PARAMS[id(FEW)], {"tokens": tokens}).logits)[:, 1:-1], np.float64)
    told = np.take_along_axis(log_p, ids[:, :, None], 2)[:, :, 0]
    found = {}
    for row, each in zip(ids.tolist(), told, strict=True):
        n = row.index(END) + 1 if END in row else NEW
        found[tuple(row[:n])] = each[:n].sum() / n**penalty
    return sorted(found.items(), key=lambda item: -item[1])


def test_beams_as_wide_as_the_language_find_every_text_in_the_order_of_its_score():
    for penalty, stopping in ((0.0, "sure"), (1.0, "sure"), (2.5, "sure")):
        wanted = every_text(penalty)
        (found,) = run(
            FEW, [[3, 1]], max_new_tokens=NEW, stop_ids=[END], num=WIDE, beams=Beams(WIDE, penalty, stopping)
        )
        assert len(found) == len(wanted) == 85
        assert [tuple(text.ids) for text in found] == [ids for ids, _ in wanted]
        np.testing.assert_allclose([text.score for text in found], [s for _, s in wanted], rtol=1e-5)


def test_narrow_beams_find_no_better_a_text_than_the_best_there_is():
    wanted = dict(every_text(0.0))
    (found,) = run(FEW, [[3, 1]], max_new_tokens=NEW, stop_ids=[END], beams=Beams(2, 0.0, "sure"), num=2)
    np.testing.assert_allclose([text.score for text in found], [wanted[tuple(t.ids)] for t in found], rtol=1e-5)
    assert len(found) == 2 and found[0].score <= max(wanted.values()) + 1e-5


CASES = {
    "decoder": (LLAMA, {"prompts": PROMPTS}),
    "encoder-decoder": (SEQ2SEQ, {"prompts": [[0]] * 3, "sources": PROMPTS}),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def told(model, prompts, texts, sources=None):
    """log p of texts by whole forward passes."""
    if sources is None:
        return score(model, PARAMS[id(model)], prompts, texts).log_prob
    batch = {name: np.zeros((len(texts), 10), np.int32) for name in ("tokens", "source_tokens", "source_segments")}
    for row, (prompt, ids, source) in enumerate(zip(prompts, texts, sources, strict=True)):
        batch["tokens"][row, : len(ids)] = [*prompt, *ids[:-1]]
        batch["source_tokens"][row, : len(source)], batch["source_segments"][row, : len(source)] = source, 1
    log_p = jax.jit(lambda p: jax.nn.log_softmax(model.apply(p, batch).logits))(PARAMS[id(model)])
    return np.array([sum(float(log_p[row, t, i]) for t, i in enumerate(ids)) for row, ids in enumerate(texts)])


def test_scores_are_those_of_the_texts_and_no_row_minds_its_companions(case):
    """Some texts end early, and each row's are those that it has alone."""
    model, given = case
    options = {"beams": Beams(4, 0.7), "num": 4}
    together = run(model, **given, **options)
    for row, texts in enumerate(together):
        one = {name: rows[row : row + 1] for name, rows in given.items()}
        assert [[text.ids for text in alone] for alone in run(model, **one, **options)] == [[t.ids for t in texts]]
    found = [text for texts in together for text in texts]
    four_of_each = {name: [row for row in rows for _ in range(4)] for name, rows in given.items()}
    ids, lengths = [text.ids for text in found], np.array([len(text.ids) for text in found])
    log_p = told(model, four_of_each["prompts"], ids, four_of_each.get("sources"))
    scores = np.array([text.score for text in found])
    np.testing.assert_allclose(scores, log_p / lengths**0.7, rtol=2e-4)
    assert (np.diff(scores.reshape(3, 4), axis=1) <= 0).all() and len({tuple(i) for i in ids}) > 4
    for text in ids:
        ends = [i for i, token in enumerate(text, 1) if token in STOPS]
        assert ends in ([], [len(text)]) and (ends or len(text) == 10)
    assert len(set(lengths)) > 1


def test_one_beam_is_greedy(case):
    model, given = case
    greedy = generate(
        model, PARAMS[id(model)], **given, max_new_tokens=10, stop_ids=STOPS, settings=Sampling(temperature=0.0)
    )
    assert [[text.ids for text in texts] for texts in run(model, **given, beams=Beams(1))] == [[ids] for ids in greedy]


def test_texts_that_end_at_once_are_all_there_is():
    """Every id ends a text, and beams are more than there are ids."""
    (found,) = run(FEW, [[3, 1]], max_new_tokens=NEW, stop_ids=range(5), num=8, beams=Beams(8, 1.0))
    log_p = np.asarray(jax.nn.log_softmax(FEW.apply(PARAMS[id(FEW)], {"tokens": np.array([[3, 1]])}).logits))[0, -1]
    assert [text.ids for text in found] == [[i] for i in np.argsort(-log_p).tolist()]
    np.testing.assert_allclose([text.score for text in found], np.sort(log_p)[::-1], rtol=1e-5)


def test_only_ids_below_vocab_size_are_written():
    for texts in run(LLAMA, PROMPTS, vocab_size=9, beams=Beams(4, 0.7), num=4):
        assert max(i for text in texts for i in text.ids) <= 8


@pytest.mark.parametrize(("before", "rows"), [(3, [2, 0, 2, 1]), (1, [0, 0, 0]), (3, [1])])
@pytest.mark.parametrize("unrolled", [0, 9])
def test_rows_taken_of_a_cache_are_those_rows(before, rows, unrolled):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    with plan.Plan(unrolled=unrolled).active():
        for heads in (1, 2):
            past = caches.windowed((None, 3, None), before, 6, heads, 4).reserve(
                jnp.asarray(rng.random((before, 5)) < 0.7)
            )
            for layer in range(3):
                new = (draw(before, 5, heads, 4), draw(before, 5, heads, 4))
                past = past.write(layer, *new, window=3 if layer == 1 else None)
            memory = (draw(3, before, 7, heads, 4), draw(3, before, 7, heads, 4))
            pair = Paired(past.advance(past.valid[:, :5]), memory, jnp.asarray(rng.integers(0, 2, (before, 7))))
            taken = pair.take(jnp.array(rows))
            for layer, window in ((0, None), (1, 3), (2, None)):
                for old, new in zip(pair.past.read(layer, window), taken.past.read(layer, window), strict=True):
                    np.testing.assert_array_equal(new, np.asarray(old)[rows])
            for name in ("valid", "position"):
                np.testing.assert_array_equal(getattr(taken.past, name), np.asarray(getattr(pair.past, name))[rows])
            for old, new in zip(memory, taken.memory, strict=True):
                np.testing.assert_array_equal(new, np.asarray(old)[:, rows])
            np.testing.assert_array_equal(taken.segments, np.asarray(pair.segments)[rows])
        state = states.empty(2, before, {"h": Part((4,), (None,), jnp.float32)})
        for layer in range(2):
            state = state.write(layer, {"h": draw(before, 4)})
        taken = state.take(jnp.array(rows))
        for layer in range(2):
            np.testing.assert_array_equal(taken.read(layer)["h"], np.asarray(state.read(layer)["h"])[rows])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": (0,)}, r"sample\.beams=0 must be"),
        ({"beams": (True,)}, r"sample\.beams=True must be"),
        ({"beams": (2, float("nan"))}, r"sample\.length_penalty=nan must be"),
        (
            {"beams": (2, -100)},
            r"sample\.length_penalty=-100 is beyond what scores of 10 tokens .* within ±29, or fewer",
        ),
        ({"beams": (2, 100.0), "max_new_tokens": 4096}, r"sample\.length_penalty=100\.0 .* within ±8"),
        ({"beams": (2, 1.0, "never")}, "sample.stopping='never' must be one of: full, likely, sure"),
        ({"beams": (2,), "num": 3}, r"sample\.num=3 is above sample\.beams=2"),
        ({"sources": [[1]]}, "'llama' reads no source"),
        ({"max_new_tokens": 0}, r"sample\.max_new_tokens=0"),
        ({"prompts": [[99]]}, "prompt 0 holds id 99"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        beams = Beams(*options.pop("beams", (2,)))
        run(LLAMA, **{"prompts": [[1]], "beams": beams, **options})


def test_a_source_for_each_prompt():
    with pytest.raises(UserError, match="2 prompts and 1 sources"):
        run(SEQ2SEQ, [[0], [0]], sources=[[1]])
    with pytest.raises(UserError, match="source 1 holds no token"):
        run(SEQ2SEQ, [[0], [0]], sources=[[1], []])
