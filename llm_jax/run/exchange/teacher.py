"""A teacher of a run: another run's model, whose logits are put into every batch before the step."""

from dataclasses import replace

import jax

from llm_jax.core.table import UserError
from llm_jax.core.types import Adversaries, Batch, Conditional, Latent, State
from llm_jax.run.build import Run
from llm_jax.run.exchange.pinned import Pinned, Pins

READ = ("tokens", "segments", "positions")


def with_teacher(run: Run, pins: Pins) -> Run:
    """Return the run whose batches have the `teacher_logits` [B,T,V] of the teacher that its objective names.

    An objective that has no `teacher` needs none. Its parameters are loaded at the first batch, onto the run's mesh.

    Raises:
        UserError: no teacher is named or it is no run, of another tokenizer, or no model of the next token, or the
            checkpoint that `pins` names is gone.
    """
    if not hasattr(run.objective, "teacher"):
        return run
    path = run.objective.teacher
    if path is None:
        raise UserError("objective.teacher is missing; give the workdir of the model to learn from")
    teacher = Pinned("teacher", path, pins)
    opened = teacher.opened
    if opened.tokenizer.fingerprint != run.tokenizer.fingerprint:
        raise UserError(
            f"objective.teacher={path!r} has another tokenizer ({opened.tokenizer.fingerprint[:12]}) than this run "
            f"({run.tokenizer.fingerprint[:12]}); train both on the same data.source with the same data.tokenizer"
        )
    model = opened.model
    sizes = (getattr(model, "vocab_size", None), getattr(run.model, "vocab_size", None))
    if isinstance(model, Adversaries | Latent | Conditional) or None in sizes or sizes[0] != sizes[1]:
        raise UserError(
            f"objective.teacher={path!r} is a {type(model).__name__} of {sizes[0]} ids, this model has {sizes[1]}; "
            "a teacher predicts the next of the same ids"
        )

    logits = jax.jit(lambda params, batch: model.apply(params, batch).logits)

    def lesson(batch: Batch, state: State) -> Batch:
        return batch | {"teacher_logits": logits(teacher.params, {name: batch[name] for name in READ if name in batch})}

    return replace(run, lesson=lesson, pins={**run.pins, **teacher.pins})
