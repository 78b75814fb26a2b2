"""Questions about Debian's packages that a field of their control paragraphs answers, or does not."""

from hashlib import sha256
from pathlib import Path

from llm_jax.data.published.debian import paragraphs

ASKED = {
    "Maintainer": ["Who maintains {}?", "Who is responsible for {}?", "To whom does one write about {}?"],
    "Version": ["Which version of {} is it?", "What is the latest release of {}?", "How new is {}?"],
    "Homepage": ["Where is the homepage of {}?", "What is the address of the project behind {}?"],
    "Installed-Size": ["How many kilobytes does {} take?", "How large is {} once it is installed?"],
    "Section": ["In which section is {}?", "Among which packages is {} listed?"],
    "Source": ["From which source is {} built?", "What is the source package of {}?"],
    "Priority": ["How important is {}?", "Which priority has {}?"],
}
BESIDE = ("Package", "Architecture", "Multi-Arch", "Tag", "Description")
SHARE = 4  # a package of so many is asked about
LONGEST = 80  # characters of a field's value


def questions(lists: Path) -> list[dict]:
    """Return {question, context, answers} as SQuAD 2.0 has them, one of a package.

    The passage has the fields of the package in an order of its own; a field that it lacks is no answer.
    """
    found: dict[str, dict] = {}
    for fields in paragraphs(lists, "_Packages"):
        name = fields["Package"]
        draw = sha256(name.encode()).digest()
        if draw[0] % SHARE or name in found:
            continue
        kept = {k: v for k in (*ASKED, *BESIDE) if (v := fields.get(k)) and "\n" not in v and len(v) <= LONGEST}
        order = sorted(kept, key=lambda k: sha256(f"{name} {k}".encode()).digest())
        context = "\n".join(f"{k}: {kept[k]}" for k in order)
        found[name] = _asked(name, list(ASKED)[draw[1] % len(ASKED)], draw[2], kept, context)
    return list(found.values())


def _asked(name: str, field: str, draw: int, kept: dict[str, str], context: str) -> dict:
    ways = ASKED[field]
    value = kept.get(field)
    start = -1 if value is None else f"\n{context}".index(f"\n{field}: {value}") + len(field) + 2
    answers = {"text": [] if value is None else [value], "answer_start": [] if value is None else [start]}
    return {"question": ways[draw % len(ways)].format(name), "context": context, "answers": answers, "package": name}
