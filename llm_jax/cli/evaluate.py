"""evaluate: held-out loss, perplexity and bits per byte; or what is written, beside references; suites; lm-eval."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jax.cli.flags import Parser, add_huge_pages, add_step, add_workdir, with_huge_pages
from llm_jax.core import checks
from llm_jax.core.table import UserError

if TYPE_CHECKING:
    from llm_jax.data.loader import Loader
    from llm_jax.run.open_run import OpenRun

WRITING = ("beams", "length_penalty", "tokens", "tokenize", "out")
SUFFIXES = {".jsonl": "jsonl", ".parquet": "parquet"}


def run(arguments: Sequence[str]) -> int:
    """Evaluate a checkpoint on the run's held-out text, or on other data."""
    parser = Parser("evaluate", "Held-out loss, perplexity and bits per byte of a checkpoint.")
    add_workdir(parser)
    add_step(parser)
    parser.add_argument("--data", help="other text: a source's name, or files (*.txt, *.jsonl, *.parquet) by a pattern")
    parser.add_argument("--batches", type=int, default=None, help="at most so many batches (default: everything)")
    parser.add_argument(
        "--draws", type=int, default=None, help="of a bound, the importance-weighted estimate beside it; of a "
        "generator, how so many of its texts differ from each other"
    )  # fmt: skip
    parser.add_argument("--under", metavar="DIR", help="of a generator with --draws: n-grams that judge its texts")
    parser.add_argument("--pseudo", action="store_true", help="of an encoder: hide each token in turn (slow)")
    parser.add_argument("--without_reference", action="store_true", help="of preferences: without their reference")
    parser.add_argument("--generate", action="store_true", help="write from held-out sources: BLEU, chrF, ROUGE, F1")
    parser.add_argument("--beams", type=int, help="with --generate: so many beams (default: greedy)")
    parser.add_argument("--length_penalty", type=float, help="of beams: log-probability / length^this (default: 1)")
    parser.add_argument("--tokens", type=int, help="with --generate: of a text at most (default: as many as a row)")
    parser.add_argument("--tokenize", help="with --generate: how BLEU finds words, such as 13a (the default), zh, char")
    parser.add_argument("--out", help="with --generate: a file for source, text and reference of each, as JSON lines")
    parser.add_argument("--suite", help="instead, suites: NAME or NAME:ARGUMENT, several by commas")
    parser.add_argument("--lm_eval", help="instead, tasks of lm-eval, several by commas")
    parser.add_argument("--include_path", help="of --lm_eval, a folder with tasks (YAML) of your own")
    parser.add_argument("--limit", type=int, default=None, help="of --lm_eval, at most so many documents a task")
    parser.add_argument("--chat", action="store_true", help="of --lm_eval, ask by the workdir's chat template")
    add_huge_pages(parser)
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("evaluate takes the configuration of the workdir; --config overrides belong to train")
    checks.positive("evaluate", batches=flags.batches, draws=flags.draws, tokens=flags.tokens)
    checks.positive("evaluate", limit=flags.limit)
    _check_generate(flags)
    _check_together(flags)
    with_huge_pages(not flags.no_huge_pages)
    from llm_jax.mesh.join import joined

    with joined():
        return _generate(flags) if flags.generate else _evaluate(flags)


def _check_generate(flags: Any) -> None:
    """Refuse flags that do not go together."""
    named = [name for name in WRITING if getattr(flags, name) is not None]
    if named and not flags.generate:
        raise UserError(f"--{named[0]} is of texts that are written; give --generate too")
    if flags.under is not None and flags.draws is None:
        raise UserError(f"--under={flags.under} judges texts that are drawn; give --draws too, such as --draws=64")
    if flags.length_penalty is not None and flags.beams is None:
        raise UserError(
            f"--length_penalty={flags.length_penalty} is of beam search; give --beams too, such as --beams=4"
        )
    if flags.generate and (flags.pseudo or flags.draws is not None):
        raise UserError("--generate writes texts, and --pseudo and --draws are of likelihoods; give one of them")


def _generate(flags: Any) -> int:
    """Write from the held-out sources, and judge what was written."""
    from llm_jax.decode.beam import Beams
    from llm_jax.evals import generation
    from llm_jax.mesh import hosts
    from llm_jax.run import evaluate
    from llm_jax.run.open_run import open_run

    penalty = 1.0 if flags.length_penalty is None else flags.length_penalty
    beams = None if flags.beams is None else Beams(flags.beams, penalty)
    judge = generation.judge(flags.tokenize or "13a")  # what is missing is told before the work
    opened = open_run(flags.workdir)
    with hosts.together().active():
        loader, rows = _loader(opened, flags.data, whole=False)
        made = list(
            evaluate.written(
                opened.model, opened.params(flags.step), opened.tokenizer, loader, rows, beams=beams,
                tokens=flags.tokens, stops=opened.stops, limit=flags.batches,
            )
        )  # fmt: skip
    if not hosts.is_first():
        return 0
    found = judge([each.text for each in made], [each.reference for each in made])
    if flags.out is not None:
        lines = (json.dumps(each._asdict(), ensure_ascii=False) for each in made)
        Path(flags.out).write_text("".join(f"{line}\n" for line in lines))
    how = "greedy" if beams is None else f"{beams.width} beams, length penalty {beams.length_penalty}"
    print(f"step {_step(opened, flags)}, {flags.data or 'held-out pairs'}, {len(made)} texts, {how}")
    for name, score in found.items():
        print(f"  {name:<11} {score.value:6.2f}  [{score.low:.2f}, {score.high:.2f}]")
    print(f"  {judge.signature}")
    return 0


def _step(opened: "OpenRun", flags: Any) -> int:
    return opened.steps[-1] if flags.step is None else int(flags.step)


def _check_together(flags: Any) -> None:
    """Refuse flags that belong to another kind of evaluation."""
    kinds = [name for name in ("suite", "lm_eval") if getattr(flags, name) is not None]
    if len(kinds) > 1:
        raise UserError("--suite and --lm_eval are two evaluations; run the command once with each")
    others = {
        "suite": ("draws", "pseudo", "without_reference", "include_path", "limit", "chat"),
        "lm_eval": ("data", "batches", "draws", "pseudo", "without_reference"),
        None: ("include_path", "limit", "chat"),
    }
    kind = kinds[0] if kinds else None
    for name in others[kind]:
        if getattr(flags, name):
            raise UserError(
                f"--{name} is not a flag of {f'--{kind}' if kind else 'evaluate without --lm_eval'}; leave it out"
            )


def _evaluate(flags: Any) -> int:
    if flags.suite is not None:
        return _suites(flags)
    if flags.lm_eval is not None:
        return _lm_eval(flags)
    from llm_jax.core.types import Adversaries
    from llm_jax.evals import importance, pseudo
    from llm_jax.mesh import hosts
    from llm_jax.objectives.masked import mask_of
    from llm_jax.run import evaluate
    from llm_jax.run.exchange.reference import beside
    from llm_jax.run.judge import kinds
    from llm_jax.run.judge.drawn import drawn
    from llm_jax.run.open_run import open_run
    from llm_jax.run.texts.prompts import latent

    opened = open_run(flags.workdir)
    generator = isinstance(opened.model, Adversaries)
    if flags.under is not None and not generator:
        raise UserError("--under judges the texts of a generator, such as gan; leave it out")
    with hosts.together().active():
        params, learner = opened.params(flags.step), opened.resolved.values["train"]["learner"]
        under = None if flags.under is None else open_run(flags.under)
        texts = drawn(opened, params, flags.draws, under) if generator and flags.draws is not None else {}
        judge = kinds.evaluator(opened.model, opened.objective, learner)
        if flags.pseudo:
            judge = kinds.likelihoods(pseudo.evaluator(opened.model, mask_of(opened.tokenizer)))
        loader, rows = _loader(opened, flags.data, whole=flags.pseudo)
        known = {} if flags.without_reference or flags.pseudo else {"beside": beside(opened)}
        found = evaluate.held_out(judge, params, loader, rows, flags.batches, **known)
        if flags.draws is not None and not generator:
            weighted = kinds.likelihoods(importance.evaluator(latent(opened.model), flags.draws))
            tighter = evaluate.held_out(weighted, params, loader, rows, flags.batches)
            found |= {f"{name}, {flags.draws} draws": estimate for name, estimate in tighter.items()}
    if not hosts.is_first():
        return 0
    print(f"step {_step(opened, flags)}, {flags.data or 'held-out text'}")
    shown = {name: estimate for name, estimate in found.items() if "/" not in name}
    width = max(14, *map(len, shown))
    for name, estimate in shown.items():
        unit = judge.over[name.partition(",")[0]]
        error = f" ± {estimate.error:.4f}" if math.isfinite(estimate.error) else ""
        print(f"  {name:<{width}} {estimate.value:.4f}{error}  over {estimate.count:,.0f} {unit}")
    for name, value in texts.items():
        print(f"  {name:<{width}} {value:.4f}  of {flags.draws} drawn texts")
    if judge.table is not None:
        print("\n" + judge.table(found))
    return 0


def _suites(flags: Any) -> int:
    from llm_jax.evals.suites import open_suites
    from llm_jax.evals.suites.case import Case
    from llm_jax.mesh import hosts
    from llm_jax.run.judge import suites
    from llm_jax.run.open_run import open_run

    asked = open_suites([word.strip() for word in flags.suite.split(",")], "--suite")
    opened = open_run(flags.workdir)
    where = _where(opened, flags.data)
    values = opened.resolved.values
    with hosts.together().active():
        case = Case(
            opened.model, opened.params(flags.step), suites.reading(opened),
            lambda: _loader(opened, flags.data, whole=False)[0], values["eval"]["batch_size"] or
            values["data"]["batch_size"], lambda: suites.documents(where), suites.component_names(where),
            values["data"]["seq_len"], flags.batches, values["seed"],
            lambda: suites.examples(where, values["data"]["form"]),
            lambda: suites.checked(where, values["data"]["form"], opened.objective, opened.stops),
        )  # fmt: skip
        found = {word: suite(case) for word, suite in asked.items()}
    if hosts.is_first():
        print(f"step {_step(opened, flags)}, {flags.data or 'held-out text'}\n{suites.table(found)}")
        suites.keep(opened.workdir, _step(opened, flags), "suites", suites.plain(found))
    return 0


def _lm_eval(flags: Any) -> int:
    from llm_jax.mesh import hosts
    from llm_jax.run.judge import harness, suites
    from llm_jax.run.open_run import open_run

    opened = open_run(flags.workdir)
    with hosts.together().active():
        found = harness.asked(
            opened, [name.strip() for name in flags.lm_eval.split(",")], step=flags.step, include=flags.include_path,
            limit=flags.limit, chat=flags.chat,
        )  # fmt: skip
    if hosts.is_first():
        print(harness.table(found))
        suites.keep(opened.workdir, _step(opened, flags), "lm_eval", harness.plain(found))
    return 0


def _loader(opened: "OpenRun", data: str | None, *, whole: bool) -> tuple["Loader", int]:
    """Return the loader of what to evaluate on, and the rows of a batch; `whole` texts are not reshaped.

    Raises:
        UserError: nothing is held out, or the data are not there.
    """
    from llm_jax.data.build import build
    from llm_jax.run.parts.models import form
    from llm_jax.run.parts.reading import reshaping

    values = opened.resolved.values["data"]
    kept: dict[str, Any] = {k: values[k] for k in ("seq_len", "batch_size", "packing")}
    where = _where(opened, data)
    if where["source"] is None and where["mixture"] is None:
        raise UserError("this run was imported and has no text of its own; name some with --data=FILES")
    reshaped = None if whole else reshaping(opened.resolved, opened.tokenizer)
    kept |= {"transform": reshaped, "form": form(values["form"]), "template": opened.template}
    loader = build(tokenizer=opened.tokenizer, **kept, **where).validation
    if loader is None:
        raise UserError("this run's data hold nothing out; name other text with --data")
    return loader, opened.resolved.values["eval"]["batch_size"] or values["batch_size"]


def _where(opened: "OpenRun", data: str | None) -> dict[str, Any]:
    """Return which text is evaluated on: source, options, mixture and normalization, as in the section `data`."""
    from llm_jax.data.examples.records import RECORDS
    from llm_jax.data.sources import SOURCES
    from llm_jax.run.parts.models import form

    values = opened.resolved.values["data"]
    where = {k: values[k] for k in ("source", "options", "mixture", "normalization")}
    if data is None:
        return where
    plain = form(values["form"]) is None
    if data in (SOURCES if plain else RECORDS):
        return {**where, "source": data, "options": {}, "mixture": None}
    source = SUFFIXES.get(Path(data).suffix, "text") if plain else "files"
    return {**where, "source": source, "options": {"files": data, "validation": data}, "mixture": None}
