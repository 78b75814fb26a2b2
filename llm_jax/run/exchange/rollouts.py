"""Rollouts: what a run that learns by rewards makes of a batch of questions, before each step.

Every question is continued `group` times by the model as it is at this step, the texts are scored, and what the
objective reads of them is put into an ordinary batch of that many more rows. What is drawn follows from (seed, step,
question, number of the text) alone, so that a run that is resumed writes the same texts.
"""

from dataclasses import replace
from typing import Any, cast

import jax
import numpy as np

from llm_jax.adapt.adapted import merged
from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Conditional, State
from llm_jax.data.examples.forms import Form
from llm_jax.data.examples.opened import open_examples
from llm_jax.data.tasks.prompts import ChatPrompts, Prompts
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate
from llm_jax.decode.score import laid_out
from llm_jax.evals import generation
from llm_jax.evals.tuned import rewards
from llm_jax.mesh import hosts
from llm_jax.run.build import Run
from llm_jax.run.exchange.pinned import Pinned, Pins
from llm_jax.run.parts.models import form as formed
from llm_jax.run.texts.prompts import decoding

CHECKED = 256  # questions at a time


def with_rollouts(run: Run, pins: Pins) -> Run:
    """Return the run whose batches are texts that the model writes, with `advantages` and the like.

    An objective without a `verifier` needs none. The reference is the model that the run begins from.

    Raises:
        UserError: the run begins from none, its model or tokenizer cannot, its data are no questions, something of
            it does not go with texts that are written on the way, or the checkpoint that `pins` names is gone.
    """
    if not hasattr(run.objective, "verifier"):
        return run
    data, objective, words = run.sections.data, cast(Any, run.objective), run.tokenizer
    _refuse(run, objective.tokens)
    records = list(open_examples(str(data.source), data.options, "train", data.normalization) or ())
    form = cast(Form, formed(data.form))
    reward = rewards.reward(form, str(data.source), data.options, objective.verifier, objective.answer)
    known = jax.jit(objective.known, static_argnums=0)
    reference = Pinned("reference", run.config.values["init_from"], pins) if objective.beta else None
    sampling = Sampling(temperature=objective.temperature)

    def lesson(batch: Batch, state: State) -> Batch:
        group = objective.group
        rows = {name: hosts.whole(values) for name, values in batch.items()}  # every process writes all of the texts
        asked = list(generation.pairs(rows))
        model, params = merged(run.model, state.params)
        made = generate(
            decoding(model), params, [pair.prompt for pair in asked], max_new_tokens=objective.tokens,
            settings=sampling, seed=drawn(state), num=group, stop_ids=run.stops, vocab_size=words.vocab_size,
        )  # fmt: skip
        told = [words.decode(i for i in ids if i not in run.stops) for ids in made]
        of = [records[item] for item in np.repeat(rows["item"], group)]
        got = np.array([reward(*each) for each in zip(told, of, strict=True)], np.float64).reshape(-1, group)
        prompts = [pair.prompt for pair in asked for _ in range(group)]
        texts = [[*prompt, *ids] for prompt, ids in zip(prompts, made, strict=True)]
        fields = laid_out(texts, list(map(len, made)), (len(made), data.seq_len))
        fields["advantages"] = objective.advantages(got).reshape(-1)
        fields["rewards"] = got.reshape(-1).astype(np.float32)
        fields["spreads"] = np.repeat(got.std(1, ddof=1), group).astype(np.float32)
        placed = hosts.to_devices(fields, len(made))
        if objective.updates > 1:  # else it is the model's own, at this step
            placed["behaviour"] = known(run.model, state.params, placed)
        if reference:
            placed["reference"] = known(reference.opened.model, reference.params, placed)
        return placed

    return replace(run, lesson=lesson, pins={**run.pins, **reference.pins} if reference else run.pins)


def drawn(state: State) -> int:
    """Return the seed of a step's draws, which follows from the run's seed and the step."""
    return int(jax.random.bits(keys.fold(state.key, "rollouts", state.step)))


def _refuse(run: Run, tokens: int) -> None:
    data, name = run.sections.data, run.config.values["objective"]["name"]
    if run.config.values["init_from"] is None:
        raise UserError(
            f"objective.name={name!r} needs a model that sometimes answers right; begin from one that has learnt "
            "right answers, with --config.init_from=WORKDIR"
        )
    if data.mixture is not None or not isinstance(formed(data.form), Prompts | ChatPrompts):
        raise UserError(
            f'objective.name={name!r} asks the questions of one data.source with data.form={{"name": "prompts"}} or '
            f'"chat_prompts"; here are data.form={data.form} and data.mixture={data.mixture}'
        )
    if run.sections.train.learner != "gradient" or run.sections.local.name != "none":
        raise UserError(
            f'objective.name={name!r} goes with train.learner="gradient" and local.name="none"; here are '
            f"{run.sections.train.learner!r} and {run.sections.local.name!r}"
        )
    decoding(getattr(run.model, "base", run.model))
    if isinstance(run.model, Conditional):
        raise UserError(f"objective.name={name!r} continues questions, and this model reads them apart; take a decoder")
    if run.tokenizer.eos_id is None:
        raise UserError("data.tokenizer has no id that ends a text, so that no answer would end; take another")
    for batch in run.data.train.once(CHECKED):
        lengths = np.where(batch["weights"].any(1), batch["weights"].argmax(1) + 1, 0)
        if (row := int(lengths.argmax())) >= 0 and lengths[row] + tokens > data.seq_len:
            raise UserError(
                f"question {batch['item'][row]} of data.source={data.source!r} has {lengths[row]} tokens, and with "
                f"objective.tokens={tokens} of an answer more than data.seq_len={data.seq_len}; set it to at least "
                f"{lengths[row] + tokens}"
            )
