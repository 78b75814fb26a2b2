"""Examples: rows of files as records, bad rows by name, and the forms that are made of them."""

import dataclasses
import gzip

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.data.build import build
from llm_jax.data.examples import forms
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.records import open_records
from llm_jax.data.mixture import training_texts
from tests.data.read import BYTES, records, rows, write

END = BYTES.eos_id
CSV = b'text,label\nfine,good\n"awful,\nreally",bad\n\n"say ""no""",bad\n'
PAIRS = [{"source": "ab", "target": "xyz"}, {"source": "abcdefgh", "target": "y"}, {"source": "a", "target": "zz"}]


def test_a_table_is_read_as_the_csv_module_writes_it(tmp_path):
    found = list(records(write(tmp_path / "a.csv", CSV)))
    assert [dict(r.values) for r in found] == [
        {"text": "fine", "label": "good"},
        {"text": "awful,\nreally", "label": "bad"},
        {"text": 'say "no"', "label": "bad"},
    ]
    assert [r.name.rpartition("/")[2] for r in found] == ["a.csv:2", "a.csv:3", "a.csv:6"]


def test_tabs_names_and_marks_of_byte_order(tmp_path):
    path = write(tmp_path / "a.tsv", b"\xef\xbb\xbfone\ttwo\nx\ty\n")
    assert [dict(r.values) for r in records(path)] == [{"one": "x", "two": "y"}]
    path = write(tmp_path / "b.csv", "x;1\ny;2\n")
    for source in ("csv", "files"):
        options = {"files": path, "held_out": 0.0, "delimiter": ";", "columns": ["t", "l"]}
        found = open_records(source, options, "train")
        assert [dict(r.values) for r in found] == [{"t": "x", "l": "1"}, {"t": "y", "l": "2"}]


def test_held_out_rows_are_disjoint_and_equal_rows_stay_together(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": f"{i % 50}"} for i in range(200)])
    train, other = ([r.values["text"] for r in records(path, split, held_out=0.3)] for split in ("train", "validation"))
    assert len(train) + len(other) == 200 and not set(train) & set(other) and len(set(other)) > 5
    apart = records(path, "validation", validation=write(tmp_path / "b.jsonl", [{"text": "z"}]))
    assert [r.values["text"] for r in apart] == ["z"]
    assert records(path, "validation") is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\na,b\nc,d,e\n", r"a.csv:3: 3 cells, and there are 2 fields \(text, label\).*quotes"),
        ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', "a.csv:3: .*quote is never closed"),
        ("a.csv", "text,label\na,b\nc\n", r"a.csv:3: 1 cell, and there are 2 fields .*complete the row"),
        ("a.csv", "text;label\na,b;c\n", "a.csv:1: .* one alone, 'text;label'; set data.options.delimiter=';'"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), "a.csv:1: not UTF-8.*iconv -f utf16"),
        ("a.csv", "text,text\na,b\n", "a.csv:1: the first row must name the fields.*columns"),
        ("a.csv", b"text,label\na,b\nc,\xff\n", "a.csv:3: not UTF-8.*iconv"),
        ("a.csv", "text,label\n", "a.csv: there is no row"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": \n', "a.jsonl:3: not a JSON object"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: .* is no JSON object"),
        ("a.jsonl", '{"text": "a"}\n{"text": "a", "text": "b"}\n', "a.jsonl:2: .*'text' is given twice"),
        ("a.csv", b"text,label\na,b\nc\x00,d\n", r"a.csv:3: a NUL byte.*tr -d"),
        ("a.csv", "text,label\na,b\n".encode("utf-16-le"), "a.csv:1: a NUL byte.*iconv -f utf16le"),
        ("a.csv", gzip.compress(b"text,label\na,b\n"), "a.csv: it is compressed.*gunzip"),
        ("a.csv.gz", gzip.compress(b"text,label\na,b\n"), "a.csv.gz: it is compressed.*gunzip"),
        ("a.xlsx", "x", "a.xlsx: of no known kind; one of .csv"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_file_and_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        list(records(write(tmp_path / name, content)))


LABELS = {"name": "labelled", "classes": ["bad", "good"]}


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        (LABELS, {"text": "a", "label": "godo"}, r"a.jsonl:2: field 'label' is 'godo'.*'bad', 'good'; .*mean 'good'"),
        (
            LABELS,
            {"txt": "a", "label": "bad"},
            "a.jsonl:2: no field 'text'; there are: txt, label; did.*data.form.text",
        ),
        (LABELS, {"text": 3, "label": "bad"}, "a.jsonl:2: field 'text' is of type int, not a text"),
        (LABELS, {"text": " ", "label": "bad"}, "a.jsonl:2: field 'text' is empty"),
        (
            {"name": "labelled"},
            {"text": "a", "label": "bad"},
            "a.jsonl:2: field 'label' is 'bad', and no finite number.*classes",
        ),
        (
            {"name": "labelled"},
            {"text": "a", "label": "nan"},
            "a.jsonl:2: field 'label' is 'nan', and no finite number",
        ),
        ({"name": "pairs"}, {"source": "a", "target": None}, "a.jsonl:2: field 'target' is of type NoneType"),
        (
            {"name": "pairs"},
            {"source": "a", "target": "b" * 99},
            "a.jsonl:2: 100 tokens are more than data.seq_len=16 ",
        ),
        ({"name": "answers"}, {"question": " "}, "a.jsonl:2: field 'question' is empty"),
        (
            {"name": "answers"},
            {"question": "q", "context": "c", "answers": {"text": [3]}},
            "a.jsonl:2: field 'answers' must be a text, a list",
        ),
        ({"name": "chat"}, {"question": "a"}, "a.jsonl:2: neither a field 'messages' nor 'prompt' and 'response'"),
        (
            {"name": "chat"},
            {"messages": [{"role": "bot", "content": "a"}]},
            r"a.jsonl:2: messages\[0\].role='bot' must",
        ),
        ({"name": "chat"}, {"messages": [{"role": "user", "content": "a"}]}, "a.jsonl:2: no message is of the role"),
        *(
            ({"name": "chat"}, {"messages": [{"role": role, "content": "a"} for role in roles]}, f"a.jsonl:2: {out}")
            for roles, out in (
                (("assistant", "user"), r"messages\[0\].role='assistant' stands where 'user' is due"),
                (("system", "assistant"), r"messages\[1\].role='assistant' .* 'user' is due"),
                (("user", "user", "assistant"), r"messages\[1\].role='user' .* 'assistant' is due"),
                (("user", "assistant", "system"), r"messages\[2\].role='system' .* 'user' is due.*join"),
            )
        ),
        ({"name": "labelled"}, {"text": "a", "label": 1e39}, "a.jsonl:2: field 'label' is 1e.39, and no finite number"),
        ({"name": "tagged", "classes": ["N", "V"]}, {"tokens": "a b", "tags": "N"}, "a.jsonl:2: 2 words .* and 1 tags"),
    ],
)
def test_a_record_that_does_not_fit_is_named_with_its_field_and_a_way_out(tmp_path, form, row, message):
    good = {"text": "a", "label": "bad" if "classes" in form else 1, "source": "a", "target": "b", "prompt": "p"}
    good |= {"response": "r", "tokens": "a b", "tags": "N V", "question": "q", "context": "c", "answers": "a"}
    path = write(tmp_path / "a.jsonl", [good, row])
    with pytest.raises(UserError, match=message):
        rows(path, form, 16, tmp_path, template="{{ messages[0].content }}")


def test_classes_are_numbered_as_they_are_stated(tmp_path):
    path = write(tmp_path / "a.csv", CSV)
    batch = rows(path, LABELS, 24, tmp_path)
    assert batch["label"].dtype == np.int32 and batch["label"].tolist() == [1, 0, 0]
    assert rows(path, LABELS | {"classes": ["good", "bad"]}, 24, tmp_path)["label"].tolist() == [0, 1, 1]
    for row, text in enumerate(["fine", "awful,\nreally", 'say "no"']):
        size = len(text) + 1
        assert batch["tokens"][row, :size].tolist() == [*text.encode(), END]
        assert batch["segments"][row].tolist() == [1] * size + [0] * (24 - size)
        assert np.array_equal(batch["weights"][row], batch["segments"][row])


def test_numbers_are_regressed_and_of_two_long_texts_the_longer_is_cut(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"a": "x" * 30, "b": "yy", "score": -1.5}, {"a": "x", "b": "y", "score": "2"}])
    form = {"name": "labelled", "text": "a", "second": "b", "label": "score", "long": "cut"}
    batch = rows(path, form, 10, tmp_path)
    assert batch["label"].dtype == np.float32 and batch["label"].tolist() == [-1.5, 2.0]
    assert batch["tokens"][0].tolist() == [*b"xxxxxx", END, *b"yy", END]
    assert batch["token_types"].tolist() == [[0] * 7 + [1] * 3, [0, 0, 1, 1] + [0] * 6]


def test_what_stands_around_texts_is_the_tokenizers_own_where_it_has_any(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "x", "second": "y", "label": 1.0}])
    form = {"name": "labelled", "second": "second"}
    assert rows(path, form, 4, tmp_path)["tokens"][0].tolist() == [*b"x", END, *b"y", END]
    bare = rows(path, form | {"framed": False}, 4, tmp_path)
    assert bare["tokens"][0, :2].tolist() == [*b"xy"] and bare["segments"][0].tolist() == [1, 1, 0, 0]
    pairing = dataclasses.replace(BYTES, frame=((1,), (2,)), between=(2, 3))
    assert Around(pairing, 9, 0).framing() == Around(pairing, 9, 0).framing(False) == ([1], [2, 3], [2])
    assert Around(dataclasses.replace(pairing, between=None), 9, 0).framing() == ([1], [2], [2])


def test_pairs_are_what_an_encoder_reads_and_a_decoder_writes(tmp_path):
    batch = rows(write(tmp_path / "a.jsonl", PAIRS), {"name": "pairs", "prefix": "> ", "source_len": 11}, 4, tmp_path)
    assert batch["source_tokens"].shape == (3, 11) and batch["tokens"].shape == (3, 4)
    for row, pair in enumerate(PAIRS):
        source, target = [*b"> ", *pair["source"].encode(), END], [*pair["target"].encode(), END]
        real = int(batch["source_segments"][row].sum())
        assert batch["source_tokens"][row, :real].tolist() == source
        assert batch["targets"][row, batch["weights"][row] > 0].tolist() == target
        assert batch["tokens"][row, 1 : len(target)].tolist() == target[:-1]


def test_an_answer_is_written_from_its_question_above_the_passage(tmp_path):
    said = [{"text": ["no", "nay"], "answer_start": [0, 3]}, {"text": [], "answer_start": []}, "no", ["no", "nay"], []]
    asked = [{"question": "q?", "context": "no\nnay", "answers": answers} for answers in said]
    form = {"name": "answers", "prefix": "> ", "source_len": 12, "none": "-"}
    batch = rows(write(tmp_path / "a.jsonl", asked), form, 3, tmp_path)
    for row, answer in enumerate(["no", "-", "no", "no", "-"]):
        assert batch["source_tokens"][row].tolist() == [*b"> q?\nno\nnay", END]
        assert batch["targets"][row, batch["weights"][row] > 0].tolist() == [*answer.encode(), END]


@pytest.mark.parametrize("evaluation", [True, False])
def test_joined_pairs_have_weight_on_the_target_and_its_end_alone(tmp_path, evaluation):
    path = write(tmp_path / "a.jsonl", PAIRS)
    batch = rows(path, {"name": "pairs", "joined": True, "separator": "="}, 13, tmp_path, evaluation=evaluation)
    assert len(batch["tokens"]) == 3 if evaluation else len(batch["tokens"]) < 3
    found = []
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segments"][row].max() + 1):
            here = batch["segments"][row] == segment
            whole = bytes([*batch["tokens"][row, here][:1], *batch["targets"][row, here][:-1]]).decode()
            taught = batch["targets"][row, here & (batch["weights"][row] > 0)].tolist()
            assert batch["positions"][row, here].tolist() == list(range(here.sum()))
            found.append((whole, taught))
    wanted = [(f"{p['source']}={p['target']}", [*p["target"].encode(), END]) for p in PAIRS]
    assert found == wanted if evaluation else sorted(found) == sorted(wanted)
    form = {"name": "pairs", "joined": True, "separator": "=", "learn_source": True}
    weights = rows(path, form, 13, tmp_path, evaluation=evaluation)["weights"]
    assert np.array_equal(weights, batch["weights"] if evaluation else batch["segments"] > 0)


def test_a_source_that_only_an_encoder_reads_is_not_learnt(tmp_path):
    with pytest.raises(UserError, match=r"data\.form\.learn_source=True.*joined=True"):
        forms.build({"name": "pairs", "learn_source": True})


def test_what_is_too_long_is_dropped_or_cut_only_when_told_and_counted(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", PAIRS)
    with pytest.raises(UserError, match=r"a.jsonl:2: 9 tokens are more than data.form.source_len=4 \(1 of 3.*'drop'"):
        rows(path, {"name": "pairs", "source_len": 4}, 8, tmp_path)
    assert len(rows(path, {"name": "pairs", "source_len": 4, "long": "drop"}, 8, tmp_path)["tokens"]) == 2
    assert "1 of 3 examples are longer than data.form.source_len=4: left out" in caplog.text
    cut = rows(path, {"name": "pairs", "source_len": 4, "long": "cut"}, 8, tmp_path)
    assert cut["source_tokens"][1].tolist() == [*b"abc", END]
    joined = {"name": "pairs", "joined": True, "long": "cut"}
    row = rows(path, joined, 5, tmp_path, evaluation=True)
    assert row["tokens"][1].tolist() == [*b"abc\ny"] and row["targets"][1, -1] == END


def test_the_first_token_of_a_word_has_its_tag_or_the_last(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"tokens": ["ab", "c"], "tags": ["V", "N"]}])
    form = {"name": "tagged", "classes": ["N", "V"]}
    batch = rows(path, form, 8, tmp_path)
    assert batch["tokens"][0].tolist() == [*b"ab c", END, END, END, END]
    assert batch["tags"][0, batch["weights"][0] > 0].tolist() == [1, 0]
    assert batch["weights"][0].tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    last = rows(path, form | {"at": "last"}, 8, tmp_path)
    assert last["tags"][0, last["weights"][0] > 0].tolist() == [1, 0]
    assert last["weights"][0].tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r"data\.form\.at='middle' must be \"first\" or \"last\""):
        rows(path, form | {"at": "middle"}, 8, tmp_path)


def test_loaders_of_examples_have_the_fields_that_the_form_promises(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": f"text {i}", "label": "bad"} for i in range(60)])
    form = forms.build(LABELS)
    where = {"source": "jsonl", "options": {"train": path, "held_out": 0.2}, "cache_dir": tmp_path / "cache"}
    data = build(tokenizer=BYTES, seq_len=16, batch_size=4, form=form, **where)
    wanted = {name: (values.dtype, values.shape[1:]) for name, values in form.blank(16).items()}
    batches = list(data.validation.once(4))
    for batch in (data.train.batch(0), *batches):
        assert {name: (values.dtype, values.shape[1:]) for name, values in batch.items()} == wanted
    assert sum((b["weights"].max(1) > 0).sum() for b in batches) == data.validation.examples_per_epoch
    again = build(tokenizer=BYTES, seq_len=16, batch_size=4, form=form, **where)
    assert again.fingerprint == data.fingerprint
    assert np.array_equal(again.train.batch(7)["tokens"], data.train.batch(7)["tokens"])
    texts, _ = training_texts(source="jsonl", options=where["options"], form=form)
    assert all(text.startswith("text ") for text in texts())
