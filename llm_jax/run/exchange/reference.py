"""The reference of a run that learns preferences: another model, whose log p of both answers come in each batch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax

from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Params
from llm_jax.objectives.preference.answers import PAIRED, answers
from llm_jax.run.build import Run
from llm_jax.run.exchange.pinned import Pinned, Pins, kept
from llm_jax.run.open_run import OpenRun
from llm_jax.text.base import Tokenizer

READ = (*PAIRED, *(f"rejected_{name}" for name in PAIRED))


def with_reference(run: Run, pins: Pins) -> Run:
    """Return the run whose batches, held-out ones too, have `reference_chosen` and `reference_rejected` [B], nats.

    An objective that has no `reference` needs none. Parameters are loaded at the first batch, onto the run's mesh.

    Args:
        run: as it is built.
        pins: which checkpoint it is, of a run that is resumed.

    Raises:
        UserError: no reference is named and the run begins from none, it has another tokenizer, or the checkpoint is
            gone.
    """
    if not hasattr(run.objective, "reference"):
        return run
    reference = _reference(run.config.values, run.tokenizer, pins)
    beside = _beside(reference)
    return replace(run, lesson=lambda batch, state: beside(batch), beside=beside, pins={**run.pins, **reference.pins})


def beside(opened: OpenRun) -> Callable[[Batch], Batch]:
    """Return what is added to a held-out batch to judge a checkpoint of a run as the run itself does.

    Raises:
        UserError: as `with_reference`.
    """
    if not hasattr(opened.objective, "reference"):
        return lambda batch: batch
    try:
        reference = _reference(opened.resolved.values, opened.tokenizer, kept(opened.workdir))
    except UserError as error:
        raise UserError(f"{error}; or judge with --without_reference") from None
    return _beside(reference)


def _reference(values: Mapping[str, Any], words: Tokenizer, pins: Pins) -> Pinned:
    path = values["objective"].get("reference") or values["init_from"]
    if path is None:
        raise UserError(
            "objective.reference is missing; give the workdir of the model to stay close to, or begin from it with "
            "--config.init_from=WORKDIR"
        )
    found = Pinned("reference", path, pins)
    if found.opened.tokenizer.fingerprint != words.fingerprint:
        raise UserError(
            f"objective.reference={path!r} has another tokenizer than this run; begin from it, or retrain it"
        )
    return found


def _beside(reference: Pinned) -> Callable[[Batch], Batch]:
    @jax.jit
    def known(params: Params, batch: Batch) -> Batch:
        pair = answers(reference.opened.model, params, batch, None)
        return {"reference_chosen": pair.chosen.log_prob, "reference_rejected": pair.rejected.log_prob}

    return lambda batch: batch | known(reference.params, {name: batch[name] for name in READ if name in batch})
