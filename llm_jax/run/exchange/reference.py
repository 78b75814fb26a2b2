"""The reference of a run that learns preferences: another model, whose log p of both answers come in each batch."""

from dataclasses import replace
from functools import cache

import jax

from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Params
from llm_jax.objectives.preference.answers import PAIRED, answers
from llm_jax.run.build import Run
from llm_jax.run.open_run import open_run

READ = (*PAIRED, *(f"rejected_{name}" for name in PAIRED))


def with_reference(run: Run) -> Run:
    """Return the run whose batches, held-out ones too, have `reference_chosen` and `reference_rejected` [B], nats.

    An objective that has no `reference` needs none. Parameters are loaded at the first batch, onto the run's mesh.

    Raises:
        UserError: no reference is named and the run begins from none, or it has another tokenizer.
    """
    if not hasattr(run.objective, "reference"):
        return run
    path = run.objective.reference or run.config.values["init_from"]
    if path is None:
        raise UserError(
            "objective.reference is missing; give the workdir of the model to stay close to, or begin from it with "
            "--config.init_from=WORKDIR"
        )
    opened = open_run(path)
    if opened.tokenizer.fingerprint != run.tokenizer.fingerprint:
        raise UserError(
            f"objective.reference={path!r} has another tokenizer than this run; begin from it, or retrain it"
        )
    model = opened.model

    @cache
    def params() -> Params:
        return opened.params()

    @jax.jit
    def known(params: Params, batch: Batch) -> Batch:
        pair = answers(model, params, batch, None)
        return {"reference_chosen": pair.chosen.log_prob, "reference_rejected": pair.rejected.log_prob}

    def beside(batch: Batch) -> Batch:
        return batch | known(params(), {name: batch[name] for name in READ if name in batch})

    return replace(run, lesson=lambda batch, state: beside(batch), beside=beside)
