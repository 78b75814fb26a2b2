"""What a training run says at its beginning and at its end."""

import math

from llm_jax.adapt.adapted import unadapted
from llm_jax.core.table import lookup
from llm_jax.core.types import Embeds, Samples
from llm_jax.learn.accountant import Accountant
from llm_jax.run.build import Run
from llm_jax.run.judge.kinds import evaluator, told
from llm_jax.run.train import Outcome
from llm_jax.store.workdir import Workdir
from llm_jax.text.tokenizers import TOKENIZERS


def parameters(run: Run) -> int:
    """Return the number of parameters, each counted once however few bits it is kept in."""
    return sum(math.prod(d.shape) for d in unadapted(run.model).declarations().values()) + adapter(run)


def adapter(run: Run) -> int:
    """Return the number of those parameters that are an adapter's."""
    return sum(math.prod(d.shape) for p, d in run.model.declarations().items() if p.startswith("adapter/"))


def opening(run: Run, workdir: Workdir, resumed: bool) -> str:
    """Return the line that a run begins with."""
    name = run.config.values["model"]["name"]
    rows, length = run.sections.data.batch_size, run.sections.data.seq_len
    verb = "going on with" if resumed else "training"
    few = adapter(run)
    count = f"{parameters(run):,} parameters" + (f" ({few:,} of them learnt)" if few else "")
    return f"{verb} {name}, {count}, {run.duration} of {rows} x {length} tokens, in {workdir.path}"


def promise(run: Run, counted: Accountant, step: int) -> str:
    """Return what a private run promises, of what, and what it does not cover."""
    words = "; the tokenizer was trained on the text, and is not covered"
    if run.config.values["init_from"] is not None:
        words = "; what it began from, the tokenizer too, is taken to be public"
    elif not lookup(TOKENIZERS, run.tokenizer.kind, "data.tokenizer.name").trains:
        words = ""
    return (
        f"private: epsilon {counted.epsilon(step):.3f} at delta {counted.delta:g}, for one row of "
        f"{run.sections.data.seq_len} tokens more or less, after {step} steps with noise {counted.noise:g} on Poisson "
        f"samples of 1 row in {1 / counted.rate:.0f}. Statistics in the log are not covered{words}"
    )


def following(run: Run) -> str:
    """Return the verb, and its flags, that shows what a run has learnt."""
    if hasattr(run.objective, "head"):
        asks = getattr(run.objective, "judged", None) == "spans"
        return 'ask --workdir={} --passage=FILE --question="…"' if asks else 'classify --workdir={} --text="…"'
    if run.template is not None:
        return "chat --workdir={}"
    if run.sections.data.form is not None:
        return "evaluate --workdir={}"
    model = unadapted(run.model)
    if isinstance(model, Embeds):
        return 'embed --workdir={} "a cat" "a kitten"'
    return "sample --workdir={} --prompt=" + ('"" --num=3' if isinstance(model, Samples) else '"My fellow citizens"')


def closing(run: Run, workdir: Workdir, outcome: Outcome) -> str:
    """Return the lines that a run ends with: what was measured beside what was expected, and what to try next."""
    if outcome.step == outcome.began and not outcome.evaluation:
        return f"step {outcome.step}: already finished; nothing to do in {workdir.path}"
    judge = evaluator(run.model, run.objective, run.sections.train.learner)
    judged = told(judge, outcome.evaluation) or "nothing is held out to judge it by"
    lines = [f"finished at step {outcome.step}: {judged}"]
    expected, measured = run.sections.eval.expected, outcome.evaluation.get("bits_per_byte")
    if expected.bits_per_byte is not None and measured is not None:
        gap = measured.value - expected.bits_per_byte
        verdict = "as expected" if abs(gap) <= expected.tolerance else "NOT as expected"
        lines.append(
            f"held-out bits per byte: expected {expected.bits_per_byte:.3f} ± {expected.tolerance:.3f}, "
            f"measured {measured.value:.3f}: {verdict}"
        )
    if run.accountant is not None:
        lines.append(promise(run, run.accountant, outcome.step))
    lines.append(f"next: python -m llm_jax {following(run).format(workdir.path)}")
    return "\n".join(lines)
