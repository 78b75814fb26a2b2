"""Texts that a model writes, beside references: BLEU and chrF by sacrebleu, ROUGE by rouge-score, with intervals.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are of the whole corpus, from 0 to 100; ROUGE-1, -2 and -L (Lin
2004) are the mean F1 of the texts, likewise, without a stemmer. rouge-score reads Latin letters and digits alone: of
Chinese, take chrF, and BLEU with tokenize="zh". Exact match and F1 of answers are SQuAD's, see `evals.squad`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Decodes, Params
from llm_jax.decode.beam import Beams, search
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate
from llm_jax.evals import squad

ROUGE = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}
RESAMPLES = 1000
SEED = 12345  # that of sacrebleu
INSTALL = "pip install -r requirements-generation.txt"
TOKENIZE = ("13a", "intl", "zh", "char", "none")  # of BLEU; those of sacrebleu that need nothing beside


class Pair(NamedTuple):
    """A text to be written, as ids. prompt: what a decoder starts with. source: what an encoder reads, or None."""

    prompt: list[int]
    source: list[int] | None
    reference: list[int]


class Judged(NamedTuple):
    """A score, and the ends of its 95 % interval by resampling the texts (Koehn 2004).

    Those of BLEU and chrF are sacrebleu's: as far below the mean of the resamples as above it, from 0 to 100.
    """

    value: float
    low: float
    high: float


def pairs(batch: Batch) -> Iterator[Pair]:
    """Yield the texts of a batch that are to be written: of each segment what carries weight, its first run.

    What stands before it is the prompt; rows and segments without weight are passed over.

    Args:
        batch: numpy fields tokens, targets, weights, maybe segments; of encoder-decoders source_tokens and
            source_segments, whose numbers are those of the segments.

    Raises:
        UserError: all of a text carries weight, and there is no source: nothing says what to write it from.
    """
    tokens, targets = np.asarray(batch["tokens"]), np.asarray(batch["targets"])
    segments, weights = (np.asarray(batch.get(n, np.ones(tokens.shape))) for n in ("segments", "weights"))
    sources = np.asarray(batch["source_tokens"]) if "source_tokens" in batch else None
    parts = (
        np.ones(tokens.shape) if sources is None else np.asarray(batch.get("source_segments", np.ones_like(sources)))
    )
    for row in range(len(tokens)):
        for number in np.unique(segments[row][segments[row] > 0]):
            here = segments[row] == number
            told = weights[row][here] > 0
            if not told.any():
                continue
            first = int(told.argmax())
            run = told[first:].cumprod().sum()
            if sources is None and first == 0:
                raise UserError(
                    "the held-out rows are texts as they are, with nothing that they are to be written from; "
                    'evaluate --generate needs pairs, such as data.form={"name": "pairs"}'
                )
            source = None if sources is None else sources[row][parts[row] == number].tolist()
            yield Pair(
                tokens[row][here][: first + 1].tolist(), source, targets[row][here][first : first + run].tolist()
            )


def written(
    model: Decodes,
    params: Params,
    asked: Sequence[Pair],
    *,
    max_new_tokens: int,
    beams: Beams | None = None,
    stop_ids: Sequence[int] = (),
    vocab_size: int | None = None,
) -> list[list[int]]:
    """Return what the model writes for each: the best text of the beams, or without them the greedy one.

    Raises:
        UserError: as `decode.beam.search` and `decode.sample.stream`.
    """
    prompts = [pair.prompt for pair in asked]
    sources = [pair.source for pair in asked if pair.source is not None] or None
    given: dict[str, Any] = {"sources": sources, "stop_ids": stop_ids, "vocab_size": vocab_size}
    if beams is None:
        return generate(
            model, params, prompts, max_new_tokens=max_new_tokens, settings=Sampling(temperature=0.0), **given
        )
    found = search(model, params, prompts, max_new_tokens=max_new_tokens, beams=beams, **given)
    return [texts[0].ids if texts else [] for texts in found]


@dataclass(frozen=True)
class Judge:
    """Texts and references in, scores out. signature: how they are computed, as papers say it."""

    bleu: Any
    chrf: Any
    rouge: Any
    signature: str

    def __call__(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Judged]:
        """Return `bleu`, `chrf`, `rouge_1`, `rouge_2`, `rouge_l`, `exact` (equal texts), `squad_exact` and `squad_f1`.

        All are from 0 to 100.

        Args:
            texts: what was written.
            references: what should have been, one of each.

        Raises:
            UserError: there is no text, or unequal numbers of them.
        """
        if not texts or len(texts) != len(references):
            raise UserError(f"{len(texts)} texts and {len(references)} references; give one of each, and one at least")
        found = {}
        for name, metric in (("bleu", self.bleu), ("chrf", self.chrf)):
            score = metric.corpus_score(list(texts), [list(references)], n_bootstrap=RESAMPLES)
            mean, half = score._mean, score._ci  # as its str() has them
            found[name] = Judged(score.score, max(0.0, mean - half), min(100.0, mean + half))
        both = list(zip(references, texts, strict=True))
        each = [self.rouge.score(*pair) for pair in both]
        for theirs, name in ROUGE.items():
            found[name] = resampled([100 * scores[theirs].fmeasure for scores in each])
        found["exact"] = resampled([100.0 * (right.strip() == text.strip()) for right, text in both])
        for name, score in (("squad_exact", squad.exact), ("squad_f1", squad.f1)):
            found[name] = resampled([100 * score(text, right) for right, text in both])
        return found


def judge(tokenize: str = "13a") -> Judge:
    """Return the judge of written texts; `tokenize`, one of `TOKENIZE`, is how BLEU finds words.

    Raises:
        UserError: there is no such way, or sacrebleu or rouge-score is missing.
    """
    if tokenize not in TOKENIZE:
        raise UserError(f"--tokenize={tokenize!r} must be one of: {', '.join(TOKENIZE)}")
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise UserError(f"judging texts needs {error.name}, which is not installed: {INSTALL}") from None
    signature = (
        f"sacrebleu {version('sacrebleu')} nrefs:1|case:mixed, BLEU eff:no|tok:{tokenize}|smooth:exp, chrF "
        f"nc:6|nw:0|space:no; rouge-score {version('rouge-score')}, F1, no stemmer; 95 % of {RESAMPLES} resamples"
    )
    return Judge(plain(BLEU(tokenize=tokenize)), plain(CHRF()), RougeScorer(list(ROUGE)), signature)


def plain(metric: Any) -> Any:
    """Return a metric of sacrebleu that scores plain numbers; it takes no mean of resamples in float32 beside a 0.0."""
    score = metric._compute_score_from_stats
    metric._compute_score_from_stats = lambda stats: score(np.asarray(stats).tolist())
    return metric


def resampled(values: Iterable[float]) -> Judged:
    """Return the mean of values of one text each, with its interval."""
    each = np.asarray(list(values), np.float64)
    chosen = np.random.default_rng(SEED).choice(len(each), (RESAMPLES, len(each)))
    low, high = np.quantile(each[chosen].mean(1), (0.025, 0.975))
    return Judged(float(each.mean()), float(low), float(high))
