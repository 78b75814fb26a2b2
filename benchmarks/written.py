"""A recipe that writes from a source, beside what can be had without learning to write, judged alike in one run.

    python -m benchmarks.written --config=configs/translate.py --workdir=runs/translate [--beams=4] [--batches=16]

Trains the recipe (or goes on with, or takes, what the workdir holds) and writes from its held-out sources. On the same
sources: the target of the training source that is nearest by scikit-learn's TF-IDF of words and pairs of words (a
translation memory), the first sentence of the source, and the source itself. sacrebleu and rouge-score judge all four.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import verbs
from llm_jax.data.examples import forms
from llm_jax.data.examples.opened import open_examples
from llm_jax.data.examples.pairs import Pairs
from llm_jax.evals import generation
from llm_jax.run.open_run import open_run

AT_ONCE = 512  # sources whose likeness to all training sources is held in memory


def main() -> int:
    """Train, write and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.written")
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--beams")
    parser.add_argument("--batches")
    given, more = parser.parse_known_args()
    verbs.run("train", f"--config={given.config}", f"--workdir={given.workdir}", *more)
    flags = [f"--{name}={value}" for name in ("beams", "batches") if (value := getattr(given, name))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "written.jsonl"
        verbs.run("evaluate", f"--workdir={given.workdir}", "--generate", f"--out={out}", *flags)
        made = [json.loads(line) for line in out.read_text().splitlines()]
    about = open_run(given.workdir).resolved.values
    form: Any = forms.build(about["data"]["form"])
    assert isinstance(form, Pairs)
    sources = [row["source"].removeprefix(form.prefix).removesuffix(form.separator) for row in made]
    found = {
        f"llm_jax {about['model']['name']}": [row["text"] for row in made],
        "scikit-learn, nearest by TF-IDF": nearest(known(about["data"], form), sources),
        "first sentence of the source": [first_sentence(source) for source in sources],
        "the source": sources,
    }
    references = [row["reference"] for row in made]
    judge = generation.judge("13a")
    print(f"\n{Path(given.config).name}, {len(made)} held out; 95 % intervals\n")
    for name, texts in found.items():
        scores = judge(texts, references)
        cells = [f"{kind} {s.value:.1f} [{s.low:.1f}, {s.high:.1f}]" for kind, s in scores.items()]
        print(f"  {name:34} {'  '.join(cells)}", flush=True)
    return 0


def first_sentence(text: str) -> str:
    """Return a text up to the first sign that ends a sentence."""
    return re.split(r"(?<=[.!?。])\s", text, maxsplit=1)[0]


def known(data: dict[str, Any], form: Pairs) -> list[tuple[str, str]]:
    """Return (source, target) of what was trained on."""
    records = open_examples(data["source"], data["options"], "train", data["normalization"])
    assert records is not None
    return [(read.removeprefix(form.prefix), written) for read, written in map(form.texts, records)]


def nearest(pairs: Sequence[tuple[str, str]], sources: Sequence[str]) -> list[str]:
    """Return for each source the target of the pair whose source is most like it."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    read, written = zip(*pairs, strict=True)
    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    likeness = vectors.fit_transform(read).T.tocsc()
    asked = vectors.transform(sources)
    parts = [asked[i : i + AT_ONCE] @ likeness for i in range(0, asked.shape[0], AT_ONCE)]
    best = np.concatenate([np.asarray(part.argmax(axis=1)).ravel() for part in parts])
    return [written[i] for i in best]


if __name__ == "__main__":
    sys.exit(main())
