"""Group-relative policy optimisation beside TRL: the same start, questions, groups, rates and checker, in one run.

    python -m benchmarks.rewarded --workdir=runs/reinforce [--config=configs/reinforce.py:dr_grpo]

Trains the recipe's start and the recipe (or goes on with, or takes, what the workdirs hold), and then transformers'
model of the same start with TRL's GRPOTrainer. The likeliest answers to the held-out questions are scored alike, each
side's as it writes them itself; the start's by both, which tells that both begin with the same.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import verbs
from benchmarks.tuned import foreign_written
from llm_jax.data.examples.opened import open_examples
from llm_jax.data.examples.records import Record
from llm_jax.evals import generation
from llm_jax.evals.bootstrap import bootstrap
from llm_jax.run import build
from llm_jax.run.judge import suites
from llm_jax.run.open_run import OpenRun, open_run
from llm_jax.run.texts.prompts import decoding

SCALED = {"grpo": "group", "dr_grpo": "none"}  # how TRL calls what divides an advantage

Rewards = Callable[[Sequence[Sequence[int]], Sequence[Record]], list[float | None]]  # of ids, which answer records


def main() -> int:
    """Train on both sides and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.rewarded")
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "configs/reinforce.py"))
    parser.add_argument("--workdir", required=True)
    given, more = parser.parse_known_args()
    start = f"{given.workdir}_start"
    verbs.run("train", f"--config={given.config.partition(':')[0]}:start", f"--workdir={start}")
    verbs.run("train", f"--config={given.config}", f"--workdir={given.workdir}", f"--config.init_from={start}", *more)
    run = open_run(given.workdir)
    values, words, stops = run.resolved.values, run.tokenizer, run.stops
    data, told = values["data"], values["objective"]
    built = build.build(run.resolved, words=words, template=run.template)
    checked, held_out = suites.checked(data, data["form"], run.objective, stops), built.data.validation
    assert checked is not None and held_out is not None
    reward, held, most = checked.reward, checked.records, told["tokens"]
    asked = [pair for batch in held_out.once(data["batch_size"]) for pair in generation.pairs(batch)]

    def rewards(made: Sequence[Sequence[int]], of: Sequence[Record]) -> list[float | None]:
        texts = (words.decode(i for i in ids if i not in stops) for ids in made)
        return [reward(*each) for each in zip(texts, of, strict=True)]

    def ours(each: OpenRun) -> list[list[int]]:
        limits: Any = {"max_new_tokens": most, "stop_ids": stops, "vocab_size": words.vocab_size}
        return generation.written(decoding(each.model), each.params(), asked, **limits)

    written = {"start, llm_jax": ours(open_run(start)), "llm_jax": ours(run)}
    with tempfile.TemporaryDirectory() as folder:
        verbs.run("export", f"--workdir={start}", f"--to={folder}")
        trainer = foreign(folder, run, built, rewards)
        written["start, transformers"] = foreign_written(trainer.model.eval(), asked, most, stops, at_once=64)
        began = time.perf_counter()
        trainer.train()
        seconds = (time.perf_counter() - began) / run.steps[-1]
        written["TRL"] = foreign_written(trainer.model.eval(), asked, most, stops, at_once=64)
    got = {name: np.array(rewards(made, held)) for name, made in written.items()}
    print(f"\n{told['name']}, {run.steps[-1]} steps; mean reward of {len(asked)} held-out questions\n")
    for name, each in [*got.items(), ("llm_jax - TRL, of the same question", got["llm_jax"] - got["TRL"])]:
        found = bootstrap(np.mean, each)
        print(f"  {name:36} {found.value:.4f} ± {found.error:.4f}")
    rows = run.metrics[run.metrics.split == "train"]
    drawn = rows.reward.iloc[-1], [row["reward"] for row in trainer.state.log_history if "reward" in row][-1]
    print(f"\ndrawn in the last {values['log']['every']} steps: llm_jax {drawn[0]:.4f}, TRL {drawn[1]:.4f}")
    pace = (built.tokens_per_step / rows.tokens_per_second.dropna()).mean()
    print(f"seconds a step: llm_jax {pace:.2f}, TRL {seconds:.2f}")
    return 0


def foreign(folder: str, run: OpenRun, built: build.Run, rewards: Rewards) -> Any:
    """Return TRL's trainer of the model of a folder, which learns as a run did, from the same questions in order."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    values, steps = run.resolved.values, run.steps[-1]
    data, told, about = values["data"], values["objective"], values["optimizer"]
    assert told["updates"] == 1 and not about["weight_decay"]
    records = list(open_examples(data["source"], data["options"], "train", data["normalization"]) or ())
    words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    batches = [built.data.train.batch(step) for step in range(steps)]
    prompts = [pair.prompt for batch in batches for pair in generation.pairs(batch)]
    texts = [run.tokenizer.decode(ids) for ids in prompts]
    assert words(texts)["input_ids"] == prompts, "TRL would read other tokens"
    rows = Dataset.from_dict({"prompt": texts, "item": np.concatenate([batch["item"] for batch in batches])})
    betas = about["b1"], about["b2"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=betas, eps=about["eps"], weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(built.rate(step)))
    settings = GRPOConfig(
        output_dir=f"{folder}/trl", max_steps=steps, per_device_train_batch_size=data["batch_size"] * told["group"],
        num_generations=told["group"], max_completion_length=told["tokens"], temperature=told["temperature"],
        beta=told["beta"], epsilon=told["clip"], epsilon_high=told["clip_high"], loss_type=told["name"],
        scale_rewards=SCALED[told["name"]], max_grad_norm=about["clip_norm"], shuffle_dataset=False,
        seed=values["seed"], use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
        report_to="none", disable_tqdm=True, logging_steps=values["log"]["every"],
    )  # fmt: skip

    def scored(completion_ids: Any, item: Any, **_: Any) -> list[float | None]:
        return rewards(completion_ids, [records[i] for i in item])

    return GRPOTrainer(model, scored, settings, rows, processing_class=words, optimizers=(optimizer, rate))


if __name__ == "__main__":
    sys.exit(main())
