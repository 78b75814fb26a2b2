"""Descriptions of Debian's packages, with the section that each package is in."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LARGEST = 20  # sections
SHORT = 150  # characters of a description that hardly says more than its synopsis
RELEASE = re.compile(r"_dists_[a-z]+_main_")  # not of updates or security


def sections(lists: Path) -> list[dict]:
    """Return {text, label, package} of the packages in the largest sections, each text once."""
    described = {
        fields["Description-md5"]: fields["Description-en"] for fields in paragraphs(lists, "_i18n_Translation-en")
    }
    found: dict[str, dict] = {}
    for fields in paragraphs(lists, "_Packages"):
        text = _plain(described.get(fields.get("Description-md5", ""), ""))
        section = fields.get("Section", "").split("/")[-1]
        if text and section:
            found.setdefault(text, {"text": text, "label": section, "package": fields["Package"]})
    counts = Counter(record["label"] for record in found.values())
    kept = {label for label, _ in counts.most_common(LARGEST)}
    return [record for record in found.values() if record["label"] in kept]


def synopses(lists: Path) -> list[dict]:
    """Return {source, target, package} of each description above `SHORT` characters: its text, and the line above."""
    found: dict[str, dict] = {}
    for fields in paragraphs(lists, "_i18n_Translation-en"):
        target, _, source = _plain(fields["Description-en"]).partition("\n")
        if len(source) > SHORT:
            found.setdefault(source, {"source": source, "target": target, "package": fields["Package"]})
    return list(found.values())


def paragraphs(lists: Path, kind: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each paragraph of the lists of one kind."""
    for path in sorted(lists.iterdir()):
        if kind in path.name and RELEASE.search(path.name):
            for paragraph in path.read_text("utf-8", "replace").split("\n\n"):
                parts = re.split(r"^(\S+?):[ \t]*", paragraph, flags=re.MULTILINE)
                if len(parts) > 1:
                    yield dict(zip(parts[1::2], (p.rstrip("\n") for p in parts[2::2]), strict=True))


def _plain(description: str) -> str:
    """Return a description without the marks of its format: a synopsis, then paragraphs."""
    lines = ("" if line.strip() == "." else line.strip() for line in description.splitlines())
    return "\n".join(lines).strip()
