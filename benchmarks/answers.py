"""A recipe that answers, by spans or in writing, beside scikit-learn's logistic regression: torchmetrics judges both.

    python -m benchmarks.answers --config=configs/answer_spans.py --workdir=runs/answers

Trains the recipe (or takes what the workdir holds). The other program is made for passages of lines "Field: value": it
learns from TF-IDF of a question's words which field answers it, and takes that line's value, or none where there is no
such line. Both are judged by SQuAD's own rules as torchmetrics has them: exact match, and F1 of the words, of texts in
small letters without articles and signs.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import verbs
from llm_jax.cli.ask import answering
from llm_jax.data.examples.opened import open_examples
from llm_jax.run.open_run import open_run

AT_ONCE = 32


def main() -> int:
    """Train, answer and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.answers")
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", required=True)
    given, more = parser.parse_known_args()
    verbs.run("train", f"--config={given.config}", f"--workdir={given.workdir}", *more)
    run = open_run(given.workdir)
    data: dict[str, Any] = run.resolved.values["data"]
    splits = [open_examples(data["source"], data["options"], s, data["normalization"]) for s in ("train", "validation")]
    known, asked = ([read(record.values) for record in split or ()] for split in splits)
    answer = answering(run, None)
    room = (data["form"].get("source_len") or data["seq_len"]) - 8
    short = [row for row in asked if len(run.tokenizer.encode("\n".join(row[:2]))) < room]
    ours: list[str] = []
    for i in range(0, len(short), AT_ONCE):
        few = short[i : i + AT_ONCE]
        filled = [*few, *few[-1:] * (AT_ONCE - len(few))]  # one shape is compiled
        ours += answer([q for q, _, _ in filled], [c for _, c, _ in filled])[: len(few)]
    print(f"\n{Path(given.config).name}, {len(short)} held-out questions of {len(asked)}, the others are too long\n")
    show(f"llm_jax {run.config.model.name}", ours, short)
    show("scikit-learn, the field by logistic", of_lines(known, short), short)
    return 0


def read(values: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    """Return question, passage and the first answer, if there is one, of a record as SQuAD has them."""
    return values["question"], values["context"], values["answers"]["text"][:1]


def show(name: str, said: Sequence[str], asked: Sequence[Any]) -> None:
    """Print a line of the table."""
    from torchmetrics.functional.text import squad

    right = [answer or [""] for _, _, answer in asked]
    found = squad(
        [{"prediction_text": text, "id": str(i)} for i, text in enumerate(said)],
        [{"answers": {"text": texts, "answer_start": [0]}, "id": str(i)} for i, texts in enumerate(right)],
    )
    print(f"  {name:38} exact match {found['exact_match']:.1f}  F1 {found['f1']:.1f}", flush=True)


def of_lines(known: Sequence[Any], asked: Sequence[Any]) -> list[str]:
    """Return what stands in the line that logistic regression chooses by its field."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def field(context: str, answer: list[str]) -> str:
        return next((line.partition(": ")[0] for line in context.split("\n") if line.endswith(f": {answer[0]}")), "")

    taught = [(question, field(context, answer)) for question, context, answer in known if answer]
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=30, max_iter=300))
    model.fit(*zip(*taught, strict=True))
    lines = [dict(line.partition(": ")[::2] for line in context.split("\n")) for _, context, _ in asked]
    return [found.get(name, "") for found, name in zip(lines, model.predict([q for q, _, _ in asked]), strict=True)]


if __name__ == "__main__":
    sys.exit(main())
