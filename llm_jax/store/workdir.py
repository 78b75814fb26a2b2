"""The workdir of a run: what each file in it is called.

    config.json · run.json · metrics.jsonl · events.jsonl · tensorboard/ · tokenizer/ · checkpoints/STEP/ · samples/ ·
    exports/STEP/ · evaluations/STEP.KIND.json · of an imported model: chat_template.jinja · generation_config.json
    (Hugging Face's words)

It holds data only (nothing in it is ever imported), and no path in it is absolute: move it and it still works.
"""

import os
import time
from dataclasses import dataclass
from typing import Any

from etils import epath

from llm_jax.core.table import UserError
from llm_jax.store.files import append_line, is_local


@dataclass(frozen=True)
class Workdir:
    """The names inside a workdir. Nothing is created or read until someone asks for it."""

    path: epath.Path

    def __init__(self, path: epath.PathLike):
        here = epath.Path(path).expanduser()
        object.__setattr__(self, "path", epath.Path(os.path.abspath(here)) if is_local(here) else here)

    @property
    def config(self) -> epath.Path:
        return self.path / "config.json"

    @property
    def run(self) -> epath.Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> epath.Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> epath.Path:
        return self.path / "events.jsonl"

    @property
    def tensorboard(self) -> epath.Path:
        return self.path / "tensorboard"

    @property
    def tokenizer(self) -> epath.Path:
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> epath.Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> epath.Path:
        return self.path / "samples"

    @property
    def template(self) -> epath.Path:
        return self.path / "chat_template.jinja"

    @property
    def generation(self) -> epath.Path:
        return self.path / "generation_config.json"

    @property
    def exports(self) -> epath.Path:
        return self.path / "exports"

    @property
    def evaluations(self) -> epath.Path:
        return self.path / "evaluations"


def existing(path: epath.PathLike) -> Workdir:
    """Return the workdir of a run that was started earlier.

    Raises:
        UserError: there is no such directory, or it holds no config.json.
    """
    workdir = Workdir(path)
    if not workdir.path.is_dir():
        raise UserError(f"workdir={str(path)!r} is not a directory; give the --workdir of a run that was trained")
    if not workdir.config.exists():
        raise UserError(f"workdir={str(path)!r} has no config.json, so it is not the workdir of a run")
    return workdir


def append_event(workdir: Workdir, event: str, **fields: Any) -> bool:
    """Append to events.jsonl what happened (a save, a restart, a health report), with the wall time in seconds."""
    return append_line(workdir.events, {"time": round(time.time(), 3), "event": event, **fields})
