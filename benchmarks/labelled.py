"""A recipe that learns labels beside what a foreign library makes of the same examples, in one run.

    python -m benchmarks.labelled --config=configs/classify_sections.py --workdir=runs/sections

Trains the recipe (or goes on with, or takes, what the workdir holds), and then, on the same training and held-out
texts: for classes scikit-learn's TF-IDF of words and pairs of words (of characters in Chinese) with logistic
regression, of two strengths; for numbers the same with
ridge regression; for tags nltk's hidden Markov model by Lidstone's counts, its unknown words all alike;
for preferences logistic regression of the differences of both texts' TF-IDF.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import verbs
from llm_jax.data.examples import forms
from llm_jax.data.examples.labelled import Labelled
from llm_jax.data.examples.opened import open_examples
from llm_jax.data.examples.preferred import Preferences
from llm_jax.data.examples.tagged import Tagged
from llm_jax.run.judge.kinds import evaluator
from llm_jax.run.open_run import OpenRun, open_run

STRENGTHS = (3.0, 30.0)
SPLITS = ("train", "validation")
RARE = 1  # a word that comes so often in training is as unknown as one that never comes


def main() -> int:
    """Train, evaluate and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.labelled")
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", required=True)
    given, more = parser.parse_known_args()
    verbs.run("train", f"--config={given.config}", f"--workdir={given.workdir}", *more)
    run = open_run(given.workdir)
    rows = [json.loads(line) for line in run.workdir.metrics.read_text().splitlines()]
    ours = [row for row in rows if row["split"] == "validation"][-1]
    about = json.loads(run.workdir.run.read_text())
    seconds = rows[-1]["time"] - about["started"]
    of = evaluator(run.trained, run.objective, run.config.train.learner).over["loss"]
    print(f"\n{Path(given.config).name}, {ours['weight']:,.0f} held-out {of}; seconds of wall time on this machine\n")
    show(f"llm_jax {run.config.model.name}", ours, seconds)
    for name, found, took in foreign(run):
        show(name, found, took)
    return 0


def show(name: str, found: dict[str, Any], seconds: float) -> None:
    """Print a line of the table."""
    kinds = ("accuracy", "precision", "recall", "f1", "pearson", "spearman")
    values = [f"{kind} {found[kind]:.4f}" for kind in kinds if kind in found]
    values += [f"mean squared error {found['loss']:.4f}"] if "pearson" in found else []
    print(f"  {name:45} {'  '.join(values)}  {seconds:6.0f} s", flush=True)


def foreign(run: OpenRun) -> Iterator[tuple[str, dict[str, float], float]]:
    """Yield (name, metrics, seconds) of each foreign program on the examples of a run."""
    data = run.resolved.values["data"]
    form: Any = forms.build(data["form"])
    opened = [open_examples(data["source"], data["options"], split, data["normalization"]) for split in SPLITS]
    train, test = ([] if records is None else list(records) for records in opened)
    if isinstance(form, Tagged):
        both = [
            [list(zip(form.listed(r, form.words, ""), form.listed(r, form.tags, ""), strict=True)) for r in records]
            for records in (train, test)
        ]
        yield timed("nltk, hidden Markov model", lambda: tagger(*both))
        return
    if isinstance(form, Preferences):
        pairs = [
            [[str(r.values[n]) for n in (form.chosen, form.rejected)] for r in records] for records in (train, test)
        ]
        yield timed("scikit-learn, differences of TF-IDF, logistic", lambda: preferences(*pairs))
        return
    assert isinstance(form, Labelled)
    texts = [["\n".join(form.texts(record)) for record in records] for records in (train, test)]
    labels = [np.array([form.number(record) for record in records]) for records in (train, test)]
    chinese = np.mean([ord(c) > 0x2E80 for text in texts[1][:100] for c in text]) > 0.5
    learn = classes if form.classes else numbers
    for strength in STRENGTHS:
        name = f"scikit-learn, TF-IDF and {'logistic' if form.classes else 'ridge'}, {strength:g}"
        yield timed(name, partial(learn, texts, labels, strength, chinese))


def timed(name: str, make: Callable[[], dict[str, float]]) -> tuple[str, dict[str, float], float]:
    """Return a name, what is made, and how long it took."""
    began = time.perf_counter()
    return name, make(), time.perf_counter() - began


def features(texts: Sequence[Sequence[str]], chinese: bool) -> tuple[Any, Any]:
    """Return TF-IDF of both splits, fitted on the first."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    kind = {"analyzer": "char", "ngram_range": (1, 3)} if chinese else {"ngram_range": (1, 2)}
    vectors = TfidfVectorizer(sublinear_tf=True, min_df=2, **kind)
    return vectors.fit_transform(texts[0]), vectors.transform(texts[1])


def classes(texts: Any, labels: Any, strength: float, chinese: bool) -> dict[str, float]:
    """Return what logistic regression reaches."""
    from sklearn import metrics
    from sklearn.linear_model import LogisticRegression

    train, test = features(texts, chinese)
    said = LogisticRegression(C=strength, max_iter=300).fit(train, labels[0]).predict(test)
    macro = metrics.precision_recall_fscore_support(labels[1], said, average="macro", zero_division=0)[:3]
    values = (metrics.accuracy_score(labels[1], said), *macro)
    return dict(zip(("accuracy", "precision", "recall", "f1"), map(float, values), strict=True))


def numbers(texts: Any, labels: Any, strength: float, chinese: bool) -> dict[str, float]:
    """Return what ridge regression reaches."""
    from scipy import stats
    from sklearn.linear_model import Ridge

    train, test = features(texts, chinese)
    said = Ridge(alpha=1 / strength).fit(train, labels[0]).predict(test)
    return {
        "loss": float(np.square(said - labels[1]).mean()),
        "pearson": float(stats.pearsonr(said, labels[1]).statistic),
        "spearman": float(stats.spearmanr(said, labels[1]).statistic),
    }


def preferences(train: Any, test: Any) -> dict[str, float]:
    """Return how often logistic regression of what two texts differ in finds the preferred one."""
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    texts = [[text for pair in pairs for text in pair] for pairs in (train, test)]
    known, asked = (vectors[0::2] - vectors[1::2] for vectors in features(texts, chinese=False))
    labels = np.repeat([1, 0], known.shape[0])
    model = LogisticRegression(C=30, fit_intercept=False, max_iter=300).fit(vstack([known, -known]), labels)
    return {"accuracy": float((model.predict(asked) == 1).mean())}


def tagger(train: Any, test: Any) -> dict[str, float]:
    """Return what nltk's tagger reaches."""
    from collections import Counter

    from nltk.probability import LidstoneProbDist
    from nltk.tag.hmm import HiddenMarkovModelTrainer
    from sklearn import metrics

    counts = Counter(word for text in train for word, _ in text)

    def known(word: str) -> str:
        return word if counts[word] > RARE else "<unknown>"

    taught = [[(known(word), tag) for word, tag in text] for text in train]
    tags = sorted({tag for text in train for _, tag in text})
    words = sorted({word for text in taught for word, _ in text} | {"<unknown>"})
    trainer = HiddenMarkovModelTrainer(tags, words)
    model = trainer.train_supervised(taught, estimator=lambda c, bins: LidstoneProbDist(c, 0.01, bins))
    right = [tag for text in test for _, tag in text]
    said = [tag for text in test for tag in model.best_path([known(word) for word, _ in text])]
    macro = metrics.precision_recall_fscore_support(right, said, average="macro", zero_division=0)[:3]
    values = (metrics.accuracy_score(right, said), *macro)
    return dict(zip(("accuracy", "precision", "recall", "f1"), map(float, values), strict=True))


if __name__ == "__main__":
    sys.exit(main())
