"""Suites put to a tiny model: what they find is what can be found otherwise, and bad rows are named."""

import json
import math
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.data.build import build
from llm_jax.data.documents import Document
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate, layout
from llm_jax.decode.score import score
from llm_jax.evals.harness import Answers
from llm_jax.evals.perplexity import perplexity, row_sums
from llm_jax.evals.suites import check_names, open_suites, texts
from llm_jax.evals.suites.calibrated import sums
from llm_jax.evals.suites.calibration import binned, expected_error
from llm_jax.evals.suites.case import Case
from llm_jax.evals.suites.choices import questions
from llm_jax.evals.suites.perturb import PERTURBATIONS, perturbed
from llm_jax.models.decoder.llama import Llama
from llm_jax.text import tokenizers

WORDS = tokenizers.build("bytes", {})
MODEL = Llama(WORDS.vocab_size, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=16)
PARAMS = jax.tree.map(lambda x: 3 * x, MODEL.init(jax.random.key(0)))
READING = texts.Reading(WORDS, WORDS.eos_id, 64)
SPEECHES = {"1999-A": "My fellow citizens, again. " * 3, "2004-B": "The state of\n the union — is strong! " * 4}


@pytest.fixture
def case(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
    mixture = []
    for name, text in SPEECHES.items():
        (tmp_path / f"{name}.txt").write_text(text)
        mixture.append({"source": "text", "options": {"files": str(tmp_path / f"{name}.txt"), "held_out": 0.0}})
        mixture[-1]["options"] |= {"validation": mixture[-1]["options"]["files"]}
        del mixture[-1]["options"]["held_out"]
    loader = build(tokenizer=WORDS, seq_len=32, batch_size=2, mixture=mixture).validation
    held = [Document(text, name) for name, text in SPEECHES.items()]
    return Case(MODEL, PARAMS, READING, lambda: loader, 2, lambda: iter(held), ("a", "b"), 32)


def asked(word, case):
    return open_suites([word], "--suite")[word](case)


def test_windows_tell_every_id_once_after_those_before_it():
    ids = list(range(10))
    assert texts.windows(ids, 99, 4) == [
        ([99], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9])
    ]  # fmt: skip
    for width in (1, 3, 10, 40):
        pairs = texts.windows(ids, 99, width)
        assert [i for _, told in pairs for i in told] == ids
        assert all(len(context) + len(told) - 1 <= width for context, told in pairs)
    assert texts.windows([], 99, 4) == []


def test_scores_come_in_the_order_of_their_rows_and_say_what_is_likeliest():
    random = np.random.default_rng(0)
    pairs = [(random.integers(0, 256, n).tolist(), random.integers(0, 256, m).tolist())
             for n, m in ((3, 2), (40, 9), (1, 1), (7, 30))]  # fmt: skip
    prompt = pairs[0][0]
    pairs.append((prompt, generate(MODEL, PARAMS, [prompt], max_new_tokens=4, settings=Sampling(0.0))[0]))
    found = texts.scores(MODEL, PARAMS, pairs)
    for i, (context, more) in enumerate(pairs):
        np.testing.assert_allclose(found.log_prob[i], score(MODEL, PARAMS, [context], [more]).log_prob[0], rtol=1e-5)
    assert found.greedy.tolist() == [False, False, False, False, True]


def test_domains_add_up_to_the_held_out_text(case):
    found = asked("domains", case)
    assert sorted(found) == ["a/bits_per_byte", "a/perplexity", "b/bits_per_byte", "b/perplexity"]
    whole = perplexity(jax.jit(partial(row_sums, MODEL, PARAMS)), case.loader().once(2))["bits_per_byte"]
    parts = [found[f"{name}/bits_per_byte"] for name in "ab"]
    sizes = [sum(b["bytes"][b["domain"] == i].sum() for b in case.loader().once(2)) for i in range(2)]
    assert [e.count for e in parts] == sizes and sum(sizes) == whole.count and sizes[0] != sizes[1]
    assert sum(e.value * e.count for e in parts) / whole.count == pytest.approx(whole.value, rel=1e-5)


def test_domains_by_name_are_what_the_name_of_a_document_says(case):
    found = asked(r"domains:^\d{3}", case)
    assert sorted(found) == ["199/bits_per_byte", "199/perplexity", "200/bits_per_byte", "200/perplexity"]
    assert found["200/bits_per_byte"].count == len(SPEECHES["2004-B"].encode())
    assert sorted(asked(r"domains:-(A)", case)) == ["A/bits_per_byte", "A/perplexity"]
    ids = WORDS.encode(SPEECHES["1999-A"]).tolist()
    nats = [score(MODEL, PARAMS, [[WORDS.eos_id]], [ids[at : at + 32]]).log_prob[0] for at in range(0, len(ids), 32)]
    assert found["199/perplexity"].value == pytest.approx(math.exp(-sum(nats) / len(ids)), rel=1e-4)


def test_calibration_is_that_of_every_token_by_itself(case):
    params = jax.tree.map(lambda x: 3 * x, PARAMS)  # of every confidence
    found = asked("calibration:7", replace(case, params=params))
    confidence, correct = [], []
    for batch in case.loader().once(2):
        p = jax.nn.softmax(MODEL.apply(params, batch).logits)
        real = batch["weights"] > 0
        confidence.extend(np.asarray(p.max(-1))[real])
        correct.extend((np.asarray(p.argmax(-1)) == batch["targets"])[real])
    table = sum(np.asarray(sums(MODEL, params, b, bins=7, layout=layout())).sum(0) for b in case.loader().once(2))
    np.testing.assert_allclose(table, binned(np.array(confidence), correct, 7).sum(0), rtol=1e-4)
    assert (table[:, 0] > 0).sum() > 2
    assert found["ece"].value == pytest.approx(expected_error(binned(np.array(confidence), correct, 7)), rel=1e-4)
    assert found["accuracy"].value == pytest.approx(np.mean(correct))
    assert found["confidence"].value == pytest.approx(np.mean(confidence), rel=1e-4)
    assert found["ece"].count == len(correct)


def test_the_choice_is_the_most_probable_answer(case, tmp_path):
    rows = [{"question": "The state", "choices": ["of", "zz zz"], "answer": "of"},
            {"question": "My", "choices": ["fellow", "x", "q"], "answer": 2}]  # fmt: skip
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    log_p = [[score(MODEL, PARAMS, [WORDS.encode(r["question"]).tolist()], [WORDS.encode(" " + c).tolist()]).log_prob[0]
              for c in r["choices"]] for r in rows]  # fmt: skip
    per_byte = [[p / len(c) for p, c in zip(ps, r["choices"], strict=True)] for ps, r in zip(log_p, rows, strict=True)]
    found = asked(f"choices:{tmp_path / 'quiz.jsonl'}", case)
    for name, told in (("accuracy", log_p), ("accuracy_per_byte", per_byte)):
        right = [np.argmax(p) == answer for p, answer in zip(told, (0, 2), strict=True)]
        assert found[name].value == np.mean(right) and found[name].count == 2
    assert 0 <= found["ece"].value <= 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "a list, not a JSON object"),
        ('{"question": "q", "choices": ["a", "b"]}', "no 'answer' in this row"),
        ('{"question": 3, "choices": ["a", "b"], "answer": 0}', "question=3"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "at least two texts"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "answer=2"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "answer=True"),
        ('{"question": "q", "choices": ["a", "a"], "answer": "a"}', "answer='a'"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, message):
    file = tmp_path / "quiz.jsonl"
    file.write_text('{"question": "q", "choices": ["a", "b"], "answer": 1}\n\n' + row)
    with pytest.raises(UserError, match=rf"quiz\.jsonl:3: .*{message}"):
        questions(str(file))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("domain", "did you mean 'domains'"), ("choices", "choices:FILE.jsonl"), ("robustness:2", "a rate above 0"),
        ("calibration:x", "the number of bins"), ("domains:(", "not a regular expression"),
    ],
)  # fmt: skip
def test_a_suite_that_cannot_be_is_refused_before_anything_runs(word, message):
    with pytest.raises(UserError, match=message):
        open_suites([word], "eval.suites")


def test_a_suite_is_named_once():
    with pytest.raises(UserError, match="given twice"):
        check_names(["domains", "domains"], "eval.suites")


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_perturbations_change_about_their_share_and_depend_on_seed_and_number_alone(kind):
    text = "The state of the Union is strong, and so are we. " * 40
    made = perturbed(kind, text, 0.2, 0, 5)
    assert made == perturbed(kind, text, 0.2, 0, 5)
    assert len({made, perturbed(kind, text, 0.2, 1, 5), perturbed(kind, text, 0.2, 0, 6), text}) == 4
    assert perturbed(kind, text, 0.0, 0, 5) == text
    if kind == "case":
        assert made.lower() == text.lower()
        letters = sum(c.isalpha() for c in text)
        assert sum(a != b for a, b in zip(made, text, strict=True)) / letters == pytest.approx(0.2, abs=0.03)
    if kind == "whitespace":
        assert "".join(made.split()) == "".join(text.split())
        pieces, spaces = made.count("  ") + made.count("\t") + made.count("\n"), text.count(" ")
        assert pieces / spaces == pytest.approx(0.15, abs=0.05)  # a quarter of those changed are left out
    if kind == "typos":
        assert [c for c in made if not c.isalpha()].count(" ") == text.count(" ")


def test_robustness_is_the_bits_of_each_text_by_its_own_bytes(case):
    found = asked("robustness:0.3", case)
    assert asked("robustness:0.3", case) == found
    pieces = [WORDS.decode(ids.tolist()) for _, ids in case.pieces()]
    for kind in ("", *PERTURBATIONS):
        version = [perturbed(kind, text, 0.3, 0, i) if kind else text for i, text in enumerate(pieces)]
        bits = [-score(MODEL, PARAMS, [[WORDS.eos_id]], [WORDS.encode(text).tolist()]).log_prob[0] / math.log(2)
                for text in version]  # fmt: skip
        size = sum(len(text.encode()) for text in version)
        estimate = found[f"{kind}/bits_per_byte".removeprefix("/")]
        assert estimate.value == pytest.approx(sum(bits) / size, rel=1e-4) and estimate.count == size
        if kind:
            assert found[f"{kind}/increase"].value == pytest.approx(estimate.value - found["bits_per_byte"].value)


def test_a_limit_takes_as_much_of_each_document():
    held = [Document("a" * 100, "x"), Document("b" * 100, "y")]
    case = Case(MODEL, PARAMS, READING, lambda: None, 2, lambda: iter(held), (), 32, limit=2)
    assert [(name, len(ids)) for name, ids in case.pieces()] == [("x", 32), ("x", 32), ("y", 32), ("y", 32)]
    with pytest.raises(UserError, match="hold nothing out"):
        list(case.batches())


class Request:
    def __init__(self, *args):
        self.args = args


def test_answers_of_texts_longer_than_the_model_reads_are_judged_by_their_end():
    model = Answers(MODEL, PARAMS, WORDS, prefix=WORDS.eos_id, stops=[WORDS.eos_id], width=16)
    long, more = WORDS.encode("x" * 30).tolist(), WORDS.encode(" end").tolist()
    ((p, _),) = model._loglikelihood_tokens([(("", ""), long, more)])
    np.testing.assert_allclose(p, score(MODEL, PARAMS, [long[-13:]], [more]).log_prob[0], rtol=1e-5)
    with pytest.raises(UserError, match="17 tokens; the model reads 1 to 16"):
        model._loglikelihood_tokens([(("", ""), long, long[:17])])
    assert model.loglikelihood_rolling([Request("")]) == [0.0]
