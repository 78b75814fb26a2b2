"""The training loop: batches in, states out; it knows nothing of models, only a Learner.

Step n is dispatched before the statistics of step n - 1 are read, so that devices never wait for the log.
"""

import math
import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, State, Stats
from llm_jax.cost.chips import peak_flops
from llm_jax.evals.perplexity import Estimate
from llm_jax.learn.counting import ready
from llm_jax.learn.ema import averaged
from llm_jax.mesh import hosts
from llm_jax.run import evaluate as evaluation
from llm_jax.run import resume
from llm_jax.run.build import Run
from llm_jax.run.exchange import exported
from llm_jax.run.judge.kinds import evaluator
from llm_jax.run.meter import Meter
from llm_jax.run.signals import Stop
from llm_jax.run.writers import Line, Metrics
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.manifest import Manifest
from llm_jax.store.workdir import Workdir


@dataclass(frozen=True)
class Outcome:
    """Where training ended and began: the steps, and the last full evaluation, {} where nothing is held out."""

    step: int
    began: int
    evaluation: dict[str, Estimate]


def train(run: Run, workdir: Workdir, stop: Stop) -> Outcome:
    """Train from where the workdir stands to the end of the run's duration, saving on the way.

    Raises:
        UserError: the loss is no longer finite; nothing of that state is saved.
        Stopped: a signal came; everything is saved.
    """
    with ExitStack() as open_things:
        open_things.enter_context(run.plan.active())
        saved = open_things.enter_context(resume.checkpoints(run, workdir))
        begun = None if saved.steps() or run.config.values["init_from"] else _begin_compiling(run)
        state, about = resume.state(run, workdir, saved)
        start = about.data_position
        ended = run.steps is not None and start >= run.steps
        judged = not ended or bool(about.metrics) or run.data.validation is None
        if ended and judged:
            return Outcome(start, start, {})
        loop = open_things.enter_context(closing(Loop(run, workdir, saved, stop, about, judged=judged)))
        if ended:  # in a process that was killed while it judged what training had come to
            loop.attend(start, state, last=True)
            resume.complain(saved)
            return Outcome(start, start, loop.evaluation)
        batches = open_things.enter_context(closing(_placed(run, start)))
        if start == 0 and run.config.values["init_from"]:
            loop.begin(state)
        update = _jitted(run) if begun is None else begun.result()
        pending: Stats | None = None
        for step, batch in enumerate(batches, start + 1):
            state, stats = update(state, run.lesson(batch, state))
            if pending is not None:
                loop.read(step - 1, pending)
            pending = stats
            last = loop.is_last(step)
            if last or loop.is_due(step) or stop.after(step - start):
                loop.read(step, pending)
                pending = None
                loop.attend(step, state, last)
            if last:
                break
        resume.complain(saved)
        return Outcome(step, start, loop.evaluation)


def _jitted(run: Run) -> Any:
    places = (run.state_shardings, None) if run.plan.mesh else None
    return jax.jit(run.learner.update, donate_argnums=0, out_shardings=places)


def _begin_compiling(run: Run) -> Future:
    """Compile the update in a thread, while a new state is made: nothing in that can be the user's mistake."""

    def compiled() -> Any:
        with run.plan.active(), closing(_placed(run, 0)) as batches:
            return _jitted(run).lower(state := resume.abstract_state(run), run.lesson(next(batches), state)).compile()

    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(compiled)
    finally:
        pool.shutdown(wait=False)


def _placed(run: Run, start: int) -> Generator[Batch, None, None]:
    rows = run.sections.data.batch_size
    depth = 0 if jax.default_backend() == "cpu" else 2  # a thread would take its time from the step itself
    local = run.data.train.prefetch(start, *hosts.share(rows), depth)
    try:
        for batch in local:
            yield hosts.to_devices(batch, rows)
    finally:
        local.close()  # type: ignore[attr-defined]  # a generator


class Loop:
    """What happens beside the steps: log, evaluation, samples, checkpoints, exports, each at its own interval."""

    def __init__(self, run: Run, workdir: Workdir, saved: Checkpoints, stop: Stop, about: Manifest, *, judged: bool):
        self._run, self._workdir, self._saved, self._stop = run, workdir, saved, stop
        self._start = start = about.data_position
        self._metrics = Metrics(workdir, start, run.sections.log.tensorboard, hosts.is_first(), judged=judged)
        self._line = Line(run.steps)
        self._meter = Meter(about.notes.get("sums", {}))
        self._began = time.perf_counter() - about.notes.get("seconds", 0.0)
        self._peak: float | None = None
        self._flops = run.flops_per_token()
        self._rates = jax.jit(run.rate)
        self._block = self._rates_from(start)  # before the first step, behind which it would wait
        self._evaluate = evaluator(run.model, run.objective, run.sections.train.learner)
        self.evaluation: dict[str, Estimate] = {}

    def close(self) -> None:
        """Leave the log whole and the screen as it is."""
        self._line.close()
        self._metrics.close()

    def begin(self, state: State) -> None:
        """Evaluate what training begins from, where evaluations are wanted."""
        if evaluation.due(self._run, 0):
            self._judge(0, state, self._run.sections.eval.batches)

    def is_last(self, step: int) -> bool:
        """Whether this step ends the duration."""
        seconds = self._run.duration.seconds
        return step == self._run.steps or (seconds is not None and hosts.agreed(self._seconds() >= seconds))

    def is_due(self, step: int) -> bool:
        """Whether something other than training happens after this step."""
        others = (self._run.sections.checkpoint.every, self._run.sections.export.every)
        return evaluation.due(self._run, step) or any(n and step % n == 0 for n in others)

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
        judged: dict[str, Estimate] = {}
        if not last and evaluation.due(self._run, step):
            judged = self._judge(step, state, parts.eval.batches)
        stopping = self._stop.after(step - self._start)  # once: a signal after the save waits for the next step
        if last or step % parts.checkpoint.every == 0 or stopping:
            self._save(step, state, judged)
        if last:  # which may take long: only what is saved already is judged on all that is held out
            self.evaluation = self._judge(step, state, None)
            self._saved.add_metrics(step, {name: e.value for name, e in self.evaluation.items()})
        if parts.export.every and step % parts.export.every == 0:
            exported.during(self._run, self._workdir, step, state)
        go_on()
        if stopping and not last:
            resume.complain(self._saved)
            self._stop.leave(step)

    def _refuse_nan(self, step: int) -> None:
        for name, mean in self._meter.sums.items():
            if not math.isfinite(mean.total):
                rate = self._run.config.values["optimizer"]["learning_rate"]
                slower = f"Lower optimizer.learning_rate={rate} or clip with optimizer.clip_norm, in a new workdir"
                raise UserError(
                    f"{name} is {mean.total} at step {step}; the last checkpoint is of step {self._saved.latest()}. "
                    f"{self._run.learner.advice.get(name, slower)}"
                )

    def _log(self, step: int) -> None:
        means, tokens, pace = self._meter.take()
        values = {**means, "learning_rate": self._rate(step - 1), **self._run.spent(step)}
        if pace is not None:
            self._peak = self._peak or (peak_flops(jax.devices()[0]) or math.nan) * len(jax.devices())
            speed = self._run.tokens_per_step / pace
            values |= {"tokens_per_second": speed, "mfu": speed * self._flops / self._peak}
        if hosts.is_first():
            self._metrics.write(step, "train", values, tokens)
            self._line.show(step, values, None if pace is None else self._left(step, pace))

    def _rate(self, step: int) -> float:
        """The learning rate of a step (from 0); many at a time, since a single one would wait behind the next step."""
        if not 0 <= step - self._block[0] < len(self._block[1]):
            self._block = self._rates_from(step)
        return float(self._block[1][step - self._block[0]])

    def _rates_from(self, step: int) -> tuple[int, np.ndarray]:
        return step, np.broadcast_to(self._rates(np.arange(step, step + 1000)), 1000)

    def _left(self, step: int, pace: float) -> float:
        if self._run.steps is not None:
            return (self._run.steps - step) * pace
        return max(0.0, (self._run.duration.seconds or 0.0) - self._seconds())

    def _judge(self, step: int, state: State, limit: int | None) -> dict[str, Estimate]:
        if (loader := self._run.data.validation) is None:
            return {}
        rows = self._run.sections.eval.batch_size or self._run.sections.data.batch_size
        params = ready(self._run.model, averaged(state))
        found = evaluation.held_out(self._evaluate, params, loader, rows, limit, self._run.beside)
        if hosts.is_first():
            self._metrics.write(step, "validation", evaluation.values(found), found["loss"].count)
            self._line.say(evaluation.reported(self._run, self._evaluate, step, found))
        evaluation.beside(self._run, self._workdir, step, params, limit, self._metrics, self._line.say)
        return found

    def _save(self, step: int, state: State, judged: Mapping[str, Estimate]) -> None:
        if step in self._saved.steps():
            return
        meta = {
            "config_hash": self._run.config.hash(),
            "data_position": step,
            "code_version": resume.VERSION,
            "notes": {"seconds": round(self._seconds(), 3), "sums": self._meter.sums},
        }
        self._saved.save(step, state, meta=meta, metrics={name: e.value for name, e in judged.items()})

    def _seconds(self) -> float:
        return time.perf_counter() - self._began
