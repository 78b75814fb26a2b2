"""Passages with questions: places of answers in characters become tokens and come back, and what is refused."""

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.data.examples.passages import Passages
from llm_jax.data.published import control
from llm_jax.text import tokenizers
from tests.data import read
from tests.data.read import BYTES, write

END = BYTES.eos_id
CONTEXT = "It is a  fine day.\nÄrger? 中文"


def rows(folder, answers, *, context=CONTEXT, seq_len=64, **options):
    path = write(folder / "a.jsonl", [{"question": "what?", "context": context, "answers": answers}])
    return read.rows(path, {"name": "passages", **options}, seq_len, folder)


@pytest.mark.parametrize("answer", ["It", "fine", "a  fine day", "day", "Ärger", "中", "中文", "."])
def test_the_tokens_of_an_answer_are_those_of_its_words(tmp_path, answer):
    start = CONTEXT.index(answer)
    batch = rows(tmp_path, {"text": [answer], "answer_start": [start]})
    first, last = batch["spans"][0]
    (at,) = Passages().located([CONTEXT], BYTES)
    passage = int(batch["token_types"][0].argmax())
    assert (at.begins[first - passage], at.ends[last - passage]) == (start, start + len(answer))
    told = BYTES.decode(batch["tokens"][0, first : last + 1])
    assert told.split() == answer.split()
    assert batch["tokens"][0, :passage].tolist() == [*b"what?", END]
    assert set(np.flatnonzero(batch["weights"][0])) == {0, *range(passage, passage + len(at.ids))}


def test_a_part_of_a_word_is_the_word_and_no_answer_is_token_0(tmp_path):
    assert rows(tmp_path, {"text": "in", "answer_start": CONTEXT.index("fine") + 1})["spans"][0, 0] > 0
    assert rows(tmp_path, {"text": [], "answer_start": []})["spans"].tolist() == [[0, 0]]


@pytest.mark.parametrize("kind", ["bytes", "characters", "bpe"])
def test_every_token_has_its_place_whatever_the_tokenizer(kind, tmp_path):
    options = {"vocab_size": 270} if kind == "bpe" else {}
    words = tokenizers.build(kind, options, lambda: [CONTEXT] * 3, "x", tmp_path / "cache")
    (at,) = Passages().located([CONTEXT], words)
    for i, begin, end in zip(at.ids, at.begins, at.ends, strict=True):
        assert words.vocabulary[i].strip() in CONTEXT[begin:end].encode()
    assert "".join(words.decode(at.ids).split()) == "".join(CONTEXT.split())


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["fine"], "answer_start": [3]}, r"a\.jsonl:1: the answer 'fine' is not at 3 .* it stands at 9"),
        ({"text": ["bad"], "answer_start": [3]}, "it stands nowhere in it"),
        ({"text": ["fine"]}, 'must be {"text"'),
        ("fine", 'must be {"text"'),
        ({"text": ["fine"], "answer_start": ["9"]}, "is no text at a place"),
        ({"text": [" "], "answer_start": [7]}, "is no text at a place"),
    ],
)
def test_an_answer_that_is_not_in_its_place_is_named(tmp_path, answers, message):
    with pytest.raises(UserError, match=message):
        rows(tmp_path, answers)
    with pytest.raises(UserError, match="would cut answers away"):
        rows(tmp_path, answers, long="cut")
    with pytest.raises(UserError, match=r"more than data\.seq_len=9"):
        rows(tmp_path, {"text": [], "answer_start": []}, seq_len=9)


def test_questions_about_packages_are_answered_where_they_say(tmp_path):
    paragraphs = "\n\n".join(f"Package: p{i}\nVersion: 1.{i}\nMaintainer: A{i}\nSection: s" for i in range(200))
    (tmp_path / "x_dists_sid_main_binary_Packages").write_text(paragraphs)
    found = control.questions(tmp_path)
    assert 20 < len(found) < 100 and len({q["package"] for q in found}) == len(found)
    for q in found:
        assert q["package"] in q["question"]
        for text, start in zip(q["answers"]["text"], q["answers"]["answer_start"], strict=True):
            assert q["context"][start : start + len(text)] == text
            assert q["context"][:start].split("\n")[-1].rstrip(": ") in control.ASKED
    assert {bool(q["answers"]["text"]) for q in found} == {True, False}
