"""Pairs of Debian's packages: paragraphs in two languages by their ids, descriptions and their synopses."""

import pytest

from llm_jax.core.table import UserError
from llm_jax.data.published import archives, debian, libreoffice

PAGE = '<body><h1 id="hd_id1">{}</h1><p id="par_id2" class="x">{}</p><p id="other">no</p><p id="par_id3">{}</p></body>'


def test_paragraphs_of_two_languages_meet_by_page_and_id(tmp_path):
    texts = {
        "en-US": ("Left", 'Press <b>Enter</b> &amp; wait,\n  <a href="x">or not</a>.', "Ctrl+A"),
        "de": ("Links", "Drücken Sie die <i>Eingabetaste</i>.", "Ctrl+A"),
        "zh-CN": ("左", "", "全选"),
    }
    for folder, found in texts.items():
        path = tmp_path / libreoffice.HELP / folder / "text/a.html"
        path.parent.mkdir(parents=True)
        path.write_text(PAGE.format(*found), "utf-8")
    (tmp_path / libreoffice.HELP / "de/text/only.html").write_text(PAGE.format("a", "b", "c"))
    found = [(pair["language"], pair["source"], pair["target"]) for pair in libreoffice.pairs(tmp_path)]
    assert found == [
        ("de", "Left", "Links"),
        ("de", "Press Enter & wait, or not.", "Drücken Sie die Eingabetaste."),
        ("zh", "Left", "左"),
        ("zh", "Ctrl+A", "全选"),
    ]


def test_a_description_is_summed_up_by_its_synopsis(tmp_path):
    body = "\n ".join(["It sorts.", ".", "x" * 200])
    lists = f"Package: a\nDescription-en: sorts things\n {body}\n\nPackage: b\nDescription-en: short\n Too short.\n\n"
    (tmp_path / "d_dists_x_main_i18n_Translation-en").write_text(lists + lists.replace("Package: a", "Package: c"))
    wanted = {"source": "It sorts.\n\n" + "x" * 200, "target": "sorts things", "package": "a"}
    assert debian.synopses(tmp_path) == [wanted]


def test_where_apt_is_missing_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="libreoffice-help-de needs apt-get, which is not here; fetch it on a machine"):
        archives.deb("libreoffice-help-de", None, tmp_path)
