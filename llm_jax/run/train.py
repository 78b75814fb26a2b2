"""The training loop: batches in, states out; it knows nothing of models, only a Learner.

Step n is dispatched before the statistics of step n - 1 are read, so that devices never wait for the log.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import jax

from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Mean, State, Stats
from llm_jax.cost.chips import peak_flops
from llm_jax.evals.perplexity import Estimate
from llm_jax.learn.ema import averaged
from llm_jax.mesh import hosts
from llm_jax.run import evaluate as evaluation
from llm_jax.run import resume
from llm_jax.run.build import Run
from llm_jax.run.signals import Stop
from llm_jax.run.writers import Line, Metrics
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.workdir import Workdir


@dataclass(frozen=True)
class Outcome:
    """Where training ended: the step, whether that is the end of its duration, and the last full evaluation."""

    step: int
    finished: bool
    evaluation: dict[str, Estimate]


class Meter:
    """Sums statistics between two rows of the log, and measures the pace; times are of wall clocks, in seconds."""

    def __init__(self, sums: Mapping[str, tuple[float, float]]):
        self._sums = {name: Mean(*pair) for name, pair in sums.items()}
        self._since: float | None = None
        self._steps = 0

    def add(self, stats: Stats) -> None:
        """Add a step, waiting until it is done. The first one, mostly compiling, has no part in the pace."""
        for name, mean in jax.device_get(stats).items():
            old = self._sums.get(name)
            self._sums[name] = Mean(float(mean.total), float(mean.weight)) if old is None else _add(old, mean)
        self._steps += self._since is not None
        self._since = self._since or time.perf_counter()

    @property
    def sums(self) -> dict[str, Mean]:
        """What was added since the last row: a checkpoint keeps it, so that a resumed run writes the same rows."""
        return dict(self._sums)  # a copy: saves are written later

    def take(self) -> tuple[dict[str, float], float, float | None]:
        """Return (means, tokens counted, seconds a step, None when not known) since the last call; start anew."""
        now = time.perf_counter()
        means = {name: m.total / m.weight if m.weight else 0.0 for name, m in self._sums.items()}
        tokens = self._sums["loss"].weight if "loss" in self._sums else 0.0
        pace = (now - (self._since or now)) / self._steps if self._steps else None
        self._sums, self._since, self._steps = {}, now, 0
        return means, tokens, pace

    def pause(self) -> Callable[[], None]:
        """Leave the time until the returned function is called out of the pace (evaluation, sampling)."""
        began = time.perf_counter()

        def go_on() -> None:
            if self._since is not None:
                self._since += time.perf_counter() - began

        return go_on


def _add(old: Mean, new: Mean) -> Mean:
    return Mean(old.total + float(new.total), old.weight + float(new.weight))


def train(run: Run, workdir: Workdir, stop: Stop) -> Outcome:
    """Train from where the workdir stands to the end of the run's duration, saving on the way.

    Raises:
        UserError: the loss is no longer finite; nothing of that state is saved.
        Stopped: a signal came; everything is saved.
    """
    log = run.sections.log
    with ExitStack() as open_things:
        open_things.enter_context(run.plan.active())
        saved = open_things.enter_context(resume.checkpoints(run, workdir))
        state, start, notes = resume.state(run, workdir, saved)
        if run.steps is not None and start >= run.steps:
            return Outcome(start, True, {})
        metrics = open_things.enter_context(closing(Metrics(workdir, from_step=start, tensorboard=log.tensorboard)))
        line = open_things.enter_context(closing(Line(run.steps)))
        loop = Loop(run, workdir, saved, metrics, line, stop, notes)
        batches = open_things.enter_context(closing(_placed(run, start)))
        update = jax.jit(
            run.learner.update, donate_argnums=0, out_shardings=(run.state_shardings, None) if run.plan.mesh else None
        )
        pending: Stats | None = None
        step = start
        for step, batch in enumerate(batches, start + 1):
            state, stats = update(state, batch)
            if pending is not None:
                loop.read(step - 1, pending)
            pending = stats
            last = loop.is_last(step)
            if last or loop.is_due(step) or stop.requested:
                loop.read(step, pending)
                pending = None
                loop.attend(step, state, last)
            if last:
                break
        saved.wait()
        resume.complain(saved)
        return Outcome(step, True, loop.evaluation)


def _placed(run: Run, start: int) -> Generator[Batch, None, None]:
    rows = run.sections.data.batch_size
    local = run.data.train.prefetch(start, jax.process_index(), jax.process_count())
    try:
        for batch in local:
            yield hosts.to_devices(batch, rows)
    finally:
        local.close()  # type: ignore[attr-defined]  # a generator


class Loop:
    """What happens beside the steps: log, evaluation, samples, checkpoints, each at its own interval."""

    def __init__(
        self,
        run: Run,
        workdir: Workdir,
        saved: Checkpoints,
        metrics: Metrics,
        line: Line,
        stop: Stop,
        notes: Mapping[str, Any],
    ):
        self._run, self._workdir, self._saved = run, workdir, saved
        self._metrics, self._line, self._stop = metrics, line, stop
        self._meter = Meter(notes.get("sums", {}))
        self._began = time.perf_counter() - notes.get("seconds", 0.0)
        self._peak: float | None = None
        self._rate = jax.jit(run.rate)
        self._evaluate = evaluation.evaluator(run.model)
        self.evaluation: dict[str, Estimate] = {}

    def is_last(self, step: int) -> bool:
        """Whether this step ends the duration."""
        seconds = self._run.duration.seconds
        return step == self._run.steps or (seconds is not None and self._seconds() >= seconds)

    def is_due(self, step: int) -> bool:
        """Whether something other than training happens after this step."""
        parts = self._run.sections
        return step % parts.checkpoint.every == 0 or bool(parts.eval.every and step % parts.eval.every == 0)

    def read(self, step: int, stats: Stats) -> None:
        """Take in the statistics of a step, and log them when a row is due.

        Raises:
            UserError: one of them is not finite.
        """
        self._meter.add(stats)
        self._refuse_nan(step)
        if step % self._run.sections.log.every == 0 or self.is_last(step):
            self._log(step)

    def attend(self, step: int, state: State, last: bool) -> None:
        """Evaluate, sample and save as this step demands; leave when a signal has come.

        Raises:
            Stopped: after saving, when a signal has come.
        """
        parts, go_on = self._run.sections, self._meter.pause()
        metrics = {}
        if last or (parts.eval.every and step % parts.eval.every == 0):
            self.evaluation = self._judge(step, state, None if last else parts.eval.batches)
            metrics = {name: e.value for name, e in self.evaluation.items()}
        stopping = self._stop.requested  # once: a signal after the save waits for the next step
        if last or step % parts.checkpoint.every == 0 or stopping:
            self._save(step, state, metrics)
        go_on()
        if stopping and not last:
            self._saved.wait()
            resume.complain(self._saved)
            self._stop.leave(step)

    def _refuse_nan(self, step: int) -> None:
        for name, mean in self._meter.sums.items():
            if not math.isfinite(mean.total):
                rate = self._run.config.values["optimizer"]["learning_rate"]
                raise UserError(
                    f"{name} is {mean.total} at step {step}; the last checkpoint is of step {self._saved.latest()}. "
                    f"Lower optimizer.learning_rate={rate} or clip with optimizer.clip_norm, in a new workdir"
                )

    def _log(self, step: int) -> None:
        means, tokens, pace = self._meter.take()
        values = {**means, "learning_rate": float(self._rate(step - 1))}
        if pace is not None:
            self._peak = self._peak or (peak_flops(jax.devices()[0]) or math.nan) * len(jax.devices())
            speed = self._run.tokens_per_step / pace
            mfu = speed * self._run.flops_per_token() / self._peak
            values |= {"tokens_per_second": speed, "mfu": mfu}
        if hosts.is_first():
            self._metrics.write(step, "train", values, tokens)
            self._line.show(step, values, None if pace is None else self._left(step, pace))

    def _left(self, step: int, pace: float) -> float:
        if self._run.steps is not None:
            return (self._run.steps - step) * pace
        return max(0.0, (self._run.duration.seconds or 0.0) - self._seconds())

    def _judge(self, step: int, state: State, limit: int | None) -> dict[str, Estimate]:
        loader, parts = self._run.data.validation, self._run.sections
        if loader is None:
            return {}
        rows = parts.eval.batch_size or parts.data.batch_size
        found = evaluation.held_out(self._evaluate, averaged(state), loader, rows, limit)
        if hosts.is_first():
            values = {name: e.value for name, e in found.items()}
            errors = {f"{name}_error": e.error for name, e in found.items() if math.isfinite(e.error)}
            self._metrics.write(step, "validation", {**values, **errors}, found["loss"].count)
            self._line.say(f"step {step}  held-out {evaluation.told(found)}")
        evaluation.write_samples(self._run, self._workdir, step, state, self._line.say)
        return found

    def _save(self, step: int, state: State, metrics: dict[str, float]) -> None:
        if step in self._saved.steps():
            return
        meta = {
            "config_hash": self._run.config.hash(),
            "data_position": step,
            "code_version": resume.VERSION,
            "notes": {"seconds": round(self._seconds(), 3), "sums": self._meter.sums},
        }
        self._saved.save(step, state, meta=meta, metrics=metrics)

    def _seconds(self) -> float:
        return time.perf_counter() - self._began
