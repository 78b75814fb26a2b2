"""The case of a run's suites, while it trains and from its workdir, and what is said of what they find."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llm_jax.adapt.adapted import merged
from llm_jax.core.table import UserError
from llm_jax.core.types import Objective, Params
from llm_jax.data.documents import Document
from llm_jax.data.examples.labelled import Labelled
from llm_jax.data.examples.opened import open_examples
from llm_jax.data.mixture import Component, Texts, components, opened
from llm_jax.data.tasks.prompts import ChatPrompts, Prompts
from llm_jax.evals.perplexity import Estimate
from llm_jax.evals.suites import open_suites
from llm_jax.evals.suites.case import Case, Checked, Examples
from llm_jax.evals.suites.texts import Reading
from llm_jax.evals.tuned import rewards
from llm_jax.mesh import hosts
from llm_jax.run.build import Run
from llm_jax.run.open_run import OpenRun
from llm_jax.run.parts.models import form as formed
from llm_jax.run.writers import Metrics
from llm_jax.store.files import read_json, write_json
from llm_jax.store.workdir import Workdir
from llm_jax.text.base import Tokenizer

Where = Mapping[str, Any]  # source, options, mixture and normalization of the section `data`


def during(
    run: Run,
    step: int,
    params: Params,
    limit: int | None,
    metrics: Metrics,
    say: Callable[[str], None],
) -> None:
    """Ask a model in training, and log what is found: a row and a line a suite."""
    suites = open_suites(run.sections.eval.suites, "eval.suites")
    if not suites:
        return
    data, (model, params) = run.sections.data, merged(run.model, params)
    where = {name: getattr(data, name) for name in ("source", "options", "mixture", "normalization")}
    case = Case(
        model, params, read_by(run.tokenizer, getattr(model, "max_positions", data.seq_len)),
        lambda: run.data.validation, run.sections.eval.batch_size or data.batch_size, lambda: documents(where),
        component_names(where), data.seq_len, limit, run.config.values["seed"],
        lambda: examples(where, data.form), lambda: checked(where, data.form, run.objective, run.stops),
    )  # fmt: skip
    for word, suite in suites.items():
        found = suite(case)
        if hosts.is_first():
            values, count = {name: e.value for name, e in found.items()}, max(e.count for e in found.values())
            metrics.write(step, word, values, count)
            told = "  ".join(f"{name.replace('_', ' ')} {e.value:.4f}" for name, e in found.items())
            say(f"step {step}  {word}  {told}")


def reading(opened: OpenRun) -> Reading:
    """Return how the texts of a workdir are read, as many tokens at once as the model was made for.

    Raises:
        UserError: no id stands before a text.
    """
    workdir = opened.workdir
    named = read_json(workdir.generation).get("bos_token_id") if workdir.generation.exists() else None
    told = read_json(workdir.run).get("imported") if workdir.run.exists() else None
    stated = getattr(opened.model, "max_positions", None), (told or {}).get("context")
    context = min((n for n in stated if isinstance(n, int)), default=opened.resolved.values["data"]["seq_len"])
    return read_by(opened.tokenizer, context, named if isinstance(named, int) else None)


def read_by(words: Tokenizer, window: int, start: int | None = None) -> Reading:
    """Return how texts are read: before each the tokenizer's start, else `start`, else what ends a text.

    Raises:
        UserError: there is no such id.
    """
    first = next((i for i in (words.bos_id, start, words.eos_id) if i is not None), None)
    if first is None:
        raise UserError("this tokenizer has no id that starts or ends a text, which the first token would follow")
    return Reading(words, first, window)


def component_names(where: Where) -> Sequence[str]:
    """Return the names of the members of a mixture, each with its place where a source comes twice."""
    names = [part.source for part in _parts(where)]
    return [name if names.count(name) == 1 else f"{name}[{i}]" for i, name in enumerate(names)]


def documents(where: Where) -> Iterator[Document]:
    """Yield the held-out texts of a run.

    Raises:
        UserError: a source holds out no text, or the run has none.
    """
    if not _parts(where):
        raise UserError("this run was imported and has no text of its own; name some with --data=FILES")
    for part in _parts(where):
        texts = opened(part, "validation", where["normalization"])
        if not isinstance(texts, Texts):
            raise UserError(
                f"data.source={part.source!r} holds out no text (only tokens, or nothing), which this suite reads"
            )
        yield from texts


def examples(where: Where, form: Any) -> Examples | None:
    """Return the held-out records of a run that learns classes of texts, None of one with any other `data.form`."""
    form = formed(form)
    if not isinstance(form, Labelled) or form.classes is None:
        return None
    parts = [open_examples(p.source, p.options, "validation", where["normalization"]) for p in _parts(where)]
    return Examples(form, [record for part in parts if part is not None for record in part])


def checked(where: Where, form: Any, objective: Objective, stops: Sequence[int]) -> Checked | None:
    """Return the held-out questions of a run whose `data.form` asks them, None of any other.

    Where the objective does not say how answers are checked and how long they are, they are to be exact, as long as
    the right ones may be.
    """
    form = formed(form)
    if not isinstance(form, Prompts | ChatPrompts) or where["source"] is None:
        return None
    found = open_examples(where["source"], where["options"], "validation", where["normalization"])
    given = {name: getattr(objective, name) for name in ("verifier", "answer") if hasattr(objective, name)}
    reward = rewards.reward(form, where["source"], where["options"], **given)
    return None if found is None else Checked(list(found), reward, getattr(objective, "tokens", None), stops)


def _parts(where: Where) -> list[Component]:
    if where["source"] is None and where["mixture"] is None:
        return []
    return components(where["source"], where["options"], where["mixture"])


def table(found: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Return what suites found, a block a suite: value, standard error, interval, and what it was counted over."""
    width = max(len(name) for estimates in found.values() for name in estimates)
    lines = []
    for word, estimates in found.items():
        lines.append(word)
        for name, e in estimates.items():
            error = f" ± {e.error:.4f}" if math.isfinite(e.error) else ""
            between = f"  [{e.interval[0]:.4f}, {e.interval[1]:.4f}]" if e.interval else ""
            lines.append(f"  {name:<{width}} {e.value:.4f}{error}{between}  over {e.count:,.0f}")
    return "\n".join(lines)


def plain(found: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    """Return what suites found as JSON holds it; what is not finite is null."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        word: {
            name: {
                "value": number(e.value), "error": number(e.error), "count": e.count,
                "interval": None if e.interval is None else [number(x) for x in e.interval],
            }
            for name, e in estimates.items()
        }
        for word, estimates in found.items()
    }  # fmt: skip


def keep(workdir: Workdir, step: int, kind: str, found: Mapping[str, Any]) -> None:
    """Write what was found into evaluations/STEP.KIND.json, in the place of what was there."""
    workdir.evaluations.mkdir(parents=True, exist_ok=True)
    write_json(workdir.evaluations / f"{step}.{kind}.json", found)
