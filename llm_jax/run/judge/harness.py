"""A workdir's model before lm-eval's tasks: what to install, which tasks there are, and what was found."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.core.table import UserError, nearest
from llm_jax.evals.harness import language_model
from llm_jax.evals.suites import rows
from llm_jax.run.judge.suites import reading
from llm_jax.run.open_run import OpenRun
from llm_jax.run.texts.prompts import decoding


def asked(
    opened: OpenRun,
    names: Sequence[str],
    *,
    step: int | None = None,
    include: str | None = None,
    limit: int | None = None,
    chat: bool = False,
) -> dict[str, Any]:
    """Return lm-eval's results of tasks, as JSON can hold them.

    Args:
        opened: the run.
        names: of tasks, groups or tags of lm-eval, or patterns of them.
        step: which checkpoint; the newest by default.
        include: a folder with tasks (YAML) of one's own.
        limit: only so many documents of each task.
        chat: put questions by the chat template of the workdir.

    Raises:
        UserError: lm-eval is missing, a task is not known, its data cannot be had, or the model continues no texts.
    """
    made = language_model()
    template = None
    if chat:
        if not opened.workdir.template.exists():
            raise UserError(f"{opened.workdir.path} has no chat_template.jinja; leave out --chat")
        template = opened.workdir.template.read_text()
    manager, chosen = _tasks(names, include)
    _check_data(manager, chosen)
    read = reading(opened)
    model = made(
        decoding(opened.model), opened.params(step), read.tokenizer, prefix=read.start, stops=opened.stops,
        width=read.window, template=template,
    )  # fmt: skip
    from lm_eval import simple_evaluate

    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # lm-eval's bootstrap would fork, with jax's threads running
    found = simple_evaluate(
        model=model, tasks=chosen, limit=limit, task_manager=manager, log_samples=False, apply_chat_template=chat,
        fewshot_as_multiturn=chat, torch_random_seed=None,
    )  # fmt: skip
    assert found is not None, "one process answers alone"
    return dict(found)


def table(found: Mapping[str, Any]) -> str:
    """Return results as lm-eval prints them."""
    from lm_eval.utils import make_table

    groups = "\n" + make_table(found, "groups") if found.get("groups") else ""
    return f"{make_table(found)}{groups}"


def plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return results as JSON holds them; what it has no word for is told as a text."""
    told: dict[str, Any] = json.loads(json.dumps(found, default=str), parse_constant=str)
    return told


def _tasks(names: Sequence[str], include: str | None) -> tuple[Any, list[str]]:
    """Return lm-eval's manager of tasks, and the names that patterns stand for; its own tasks are read if need be."""
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import pattern_match

    if include is not None and not Path(include).is_dir():
        raise UserError(
            f"--include_path={include} is not a directory; give the folder that holds the tasks' YAML files"
        )
    for everything in [False, True] if include else [True]:
        manager = TaskManager(include_path=include, include_defaults=everything)
        unknown = [name for name in names if not pattern_match([name], manager.all_tasks)]
        if not unknown:
            return manager, pattern_match(names, manager.all_tasks)
    raise UserError(
        f"--lm_eval={unknown[0]} is no task of lm-eval or --include_path{nearest(unknown[0], manager.all_tasks)}"
    )


def _check_data(manager: Any, names: Sequence[str]) -> None:
    """Load tasks once, in silence.

    Raises:
        UserError: one cannot be loaded; the first row that is no JSON object is named by file and line.
    """
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)  # what it warns of comes again when it judges
    try:
        manager.load(names)
    except Exception as error:  # of many libraries below it: datasets, yaml, jinja2
        _find_the_row(manager, names)
        said = f"{type(error).__name__}: {error}"
        raise UserError(f"lm-eval cannot load {', '.join(names)}: {said[:600]}") from error
    finally:
        log.setLevel(level)


def _find_the_row(manager: Any, names: Sequence[str]) -> None:
    """Name the first row that is no JSON object in the files of tasks."""
    for path in _files(manager, names):
        if path.suffix in (".json", ".jsonl") and path.is_file():
            for _ in rows.objects(path):
                pass


def _files(manager: Any, names: Sequence[str]) -> Iterator[Path]:
    from lm_eval.tasks._yaml_loader import load_yaml

    for name in names:
        entry = manager.task_index[name]
        if entry.yaml_path is not None:
            given = load_yaml(entry.yaml_path, resolve_func=False).get("dataset_kwargs") or {}
            yield from map(Path, _strings(given.get("data_files")))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)
