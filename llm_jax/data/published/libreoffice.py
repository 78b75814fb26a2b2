"""The help of LibreOffice, which people translate paragraph by paragraph: each has the same id in every language."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

HELP = "usr/share/libreoffice/help"
LANGUAGES = {"de": "de", "fr": "fr", "zh": "zh-CN"}  # ours -> the help's
PARAGRAPH = re.compile(r"(par_id|hd_id|tit)")


def pairs(root: Path) -> list[dict]:
    """Return {language, source, target} of each paragraph that is translated, an English one once a language.

    root: where the packages were unpacked.
    """
    english = dict(_paragraphs(root / HELP / "en-US"))
    found: dict[tuple[str, str], dict] = {}
    for language, folder in LANGUAGES.items():
        for place, target in _paragraphs(root / HELP / folder):
            source = english.get(place)
            if source is not None and source != target:
                pair = {"language": language, "source": source, "target": target}
                found.setdefault((language, source), pair)
    return list(found.values())


def _paragraphs(folder: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ((page, id), text) of the paragraphs and headings of a language."""
    for path in sorted(folder.rglob("*.html")):
        page = Page()
        page.feed(path.read_text("utf-8", "replace"))
        for name, text in page.paragraphs.items():
            plain = " ".join(text.split())
            if plain:
                yield (path.relative_to(folder).as_posix(), name), plain


class Page(HTMLParser):
    """The paragraphs and headings of a page by their ids."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: dict[str, str] = {}
        self._inside: tuple[str, str] | None = None  # element, id

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a paragraph at an element with its kind of id."""
        name = dict(attrs).get("id") or ""
        if self._inside is None and PARAGRAPH.match(name):
            self._inside = tag, name
            self.paragraphs[name] = ""

    def handle_endtag(self, tag: str) -> None:
        """End the paragraph with its element."""
        if self._inside is not None and self._inside[0] == tag:
            self._inside = None

    def handle_data(self, data: str) -> None:
        """Take the text within a paragraph, links and emphasis included."""
        if self._inside is not None:
            self.paragraphs[self._inside[1]] += data
