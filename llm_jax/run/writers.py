"""What a run tells: metrics.jsonl, TensorBoard events, and one live line (plain lines where there is no terminal)."""

import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from llm_jax.store.files import write_text
from llm_jax.store.workdir import Workdir


class Metrics:
    """Appends one JSON object a line, `step, split, name: value, weight, time`, and mirrors it to TensorBoard.

    Rows after `from_step` are forgotten, and what judges that step unless it is `judged`: they are written again. Only
    the `first` process of a run touches the files.
    """

    def __init__(self, workdir: Workdir, from_step: int, tensorboard: bool, first: bool = True, *, judged: bool = True):
        self._path = workdir.metrics
        self._board = str(workdir.tensorboard) if tensorboard else None
        self._writer: Any = None
        self._rows = ""
        if first:
            drop_after(self._path, from_step, judged=judged)

    def write(self, step: int, split: str, values: Mapping[str, float], weight: float) -> None:
        """Add a row; `weight` is the number of tokens that the values were counted over."""
        plain = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        row = {"step": step, "split": split, **plain, "weight": weight, "time": time.time()}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._board:
            for name in (n for n in values if n.count("/") < 2):  # not of pairs of classes
                value = values[name]
                self._events().add_scalar(f"{split}/{name}", value, step)

    def _events(self) -> Any:
        if self._writer is None:
            from tensorboardX import SummaryWriter  # 0.3 s to import: after the first steps

            self._writer = SummaryWriter(self._board, flush_secs=30)
        return self._writer

    def close(self) -> None:
        """Flush everything."""
        if self._writer is not None:
            self._writer.close()


def drop_after(path: epath.Path, step: int, *, judged: bool = True) -> None:
    """Forget rows of steps after `step`: a resumed run writes them again; a torn last line goes too.

    Of the step itself those of training stay, and others if it is `judged`.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            if row["step"] < step or (row["step"] == step and (judged or row["split"] == "train")):
                kept.append(line)
        except ValueError:
            continue
    write_text(path, "".join(f"{line}\n" for line in kept))


class Line:
    """The live line: step, loss, tokens/s, MFU, time left."""

    def __init__(self, total: int | None):
        self._total = total
        self._live: Any = None
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(refresh_per_second=8, transient=False)
            self._live.start()

    def show(self, step: int, values: Mapping[str, float], seconds_left: float | None) -> None:
        """Replace the live line, or print a plain one; a value that is not known yet is left out."""
        of = f"/{self._total}" if self._total else ""
        parts = [f"step {step}{of}", _first(values)]
        if "accuracy" in values:
            parts.append(f"accuracy {values['accuracy']:.4f}")
        if "tokens_per_second" in values:
            parts.append(f"{values['tokens_per_second']:,.0f} tokens/s")
        if math.isfinite(values.get("mfu", math.nan)):
            parts.append(f"MFU {values['mfu']:.1%}")
        if seconds_left is not None:
            parts.append(f"{clock(seconds_left)} left")
        text = "  ".join(parts)
        if self._live is None:
            print(text, flush=True)
        else:
            self._live.update(text)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._live is None:
            print(text, flush=True)
        else:
            self._live.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()


def clock(seconds: float) -> str:
    """Return "1:02:03" or "2:03"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def _first(values: Mapping[str, float]) -> str:
    """The loss, or what a learner without one says first."""
    name = "loss" if "loss" in values else next(iter(values))
    return f"{name} {values[name]:,.4f}" if name == "loss" else f"{name} {values[name]:,.0f}"
