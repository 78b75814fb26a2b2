"""Files of examples and the rows that forms make of them, for the tests of all forms."""

import json

import numpy as np

from llm_jax.data.examples import forms
from llm_jax.data.examples.records import open_records
from llm_jax.text import tokenizers

BYTES = tokenizers.build("bytes")


def write(path, content):
    """Write bytes as they are, a text, or objects as JSON lines."""
    lines = content if isinstance(content, bytes | str) else "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    return str(path)


def records(path, split="train", **options):
    return open_records("files", {"train": path, "held_out": 0.0, **options}, split)


def rows(path, form, seq_len, tmp_path, *, evaluation=False, words=BYTES, template=None):
    """Every row of a file in a form, as one batch."""
    around = forms.Around(words, seq_len, 0)
    made = forms.rows(
        forms.build(form), records(path), around, template=template, evaluation=evaluation, cache_dir=tmp_path / "cache"
    )
    n = np.arange(made.count)
    return made.gather(n, np.zeros_like(n))
