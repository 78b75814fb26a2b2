"""The Brown corpus: a part of speech at each word."""

import re
import tarfile
from pathlib import Path

EXTRA = re.compile(r"^fw-|(-(tl|hl|nc))+$")  # of foreign words; of titles, headlines and quotations


def sentences(archive: Path) -> list[dict]:
    """Return {tokens, tags, text} of each sentence; `text` is the name of the file that it is from.

    Tags are those of the manual without what marks titles, headlines, quotations, foreign and negated words; of words
    that are two ("they'll", ppss+md) the first one's.
    """
    found = []
    with tarfile.open(archive) as files:
        names = sorted(n for n in files.getnames() if re.fullmatch(r"package/c[a-r]\d\d", n))
        for name in names:
            text = files.extractfile(name)
            assert text is not None
            for line in text.read().decode("latin-1").splitlines():
                pairs = [word.rpartition("/")[::2] for word in line.split()]
                if pairs:
                    words, tags = zip(*pairs, strict=True)
                    found.append({"tokens": list(words), "tags": [simple(t) for t in tags], "text": name[-4:]})
    return found


def simple(tag: str) -> str:
    """Return the tag of a word's first part, without its marks."""
    plain = EXTRA.sub("", tag.lower().split("+")[0])
    return plain if plain == "*" else plain.removesuffix("*")  # * alone is "not", at a word its negation
