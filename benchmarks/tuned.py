"""Instruction tuning beside transformers and peft: the same model, rows, steps, rates and targets, in one run.

    python -m benchmarks.tuned --config=configs/chat.py:synopses --workdir=runs/synopses [--batches=16] [--tokens=24]

Trains the recipe (or goes on with, or takes, what the workdir holds) and then, in torch, the model that the recipe
begins from: that of transformers, with peft's LoRA where the recipe has it, the same masks, and AdamW. Held-out answers
are judged by their loss in nats a token, and written greedily and judged by rouge-score; in this there are also the
answer to the training prompt that is nearest by TF-IDF, and the first sentence of the prompt.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import verbs
from benchmarks.written import first_sentence, nearest
from llm_jax.data.examples.chats import Chat
from llm_jax.data.examples.opened import open_examples
from llm_jax.data.features import Fields
from llm_jax.evals import generation
from llm_jax.run import build, evaluate
from llm_jax.run.judge.kinds import evaluator
from llm_jax.run.open_run import OpenRun, open_run
from llm_jax.run.parts.models import form as form_of


def main() -> int:
    """Train on both sides and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.tuned")
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--batches", type=int, default=16, help="of held-out rows that are answered")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer at most")
    given, more = parser.parse_known_args()
    verbs.run("train", f"--config={given.config}", f"--workdir={given.workdir}", *more)
    run = open_run(given.workdir)
    values = run.resolved.values
    begun = open_run(values["init_from"])
    built = build.build(run.resolved, words=run.tokenizer, template=run.template)
    held_out, form, stops = built.data.validation, form_of(values["data"]["form"]), run.stops
    assert held_out is not None and isinstance(form, Chat)
    rows = values["eval"]["batch_size"] or values["data"]["batch_size"]
    table: list[tuple[str, float, list[str]]] = []
    for name, each in (("before", begun), (f"llm_jax, {values['adapt']['name']}", run)):
        params, judge = each.params(), evaluator(run.model, run.objective, values["train"]["learner"])
        loss = evaluate.held_out(judge, params, held_out, rows)["loss"].value
        made = list(
            evaluate.written(
                run.model, params, run.tokenizer, held_out, rows, tokens=given.tokens, stops=stops, limit=given.batches
            )
        )
        table.append((name, loss, [one.text for one in made]))
    references = [one.reference for one in made]
    asked = [pair for batch in held_out.once(rows, limit=given.batches) for pair in generation.pairs(batch)]
    steps = range(run.steps[-1])
    with tempfile.TemporaryDirectory() as folder:
        verbs.run("export", f"--workdir={values['init_from']}", f"--to={folder}")
        batches, rates = map(built.data.train.batch, steps), [float(built.rate(step)) for step in steps]
        model, seconds = foreign(folder, values, batches, rates)
    written = foreign_written(model, asked, given.tokens, stops)
    texts = [run.tokenizer.decode(i for i in ids if i not in stops) for ids in written]
    table.append((f"transformers, {values['adapt']['name']}", foreign_loss(model, held_out.once(rows)), texts))
    table += without_learning(run, form, [one.source for one in made])
    rouge = generation.judge().rouge
    print(f"\n{Path(given.config).name}, {len(references)} held-out answers; ROUGE-L with 95 % intervals\n")
    for name, loss, said in table:
        both = list(zip(references, said, strict=True))
        found = generation.resampled(100 * rouge.score(*pair)["rougeL"].fmeasure for pair in both)
        exact = 100 * np.mean([right.strip() == text.strip() for right, text in both])
        nats = "" if math.isnan(loss) else f"{loss:.4f} nats/token"
        print(f"  {name:34} {nats:18} ROUGE-L {found.value:.1f} [{found.low:.1f}, {found.high:.1f}]  exact {exact:.1f}")
    pace = built.tokens_per_step / run.metrics["tokens_per_second"].mean()
    print(f"\nseconds a step: llm_jax {pace:.1f}, transformers and peft {seconds:.1f}")
    return 0


def without_learning(run: OpenRun, form: Chat, prompts: Sequence[str]) -> list[tuple[str, float, list[str]]]:
    """Return what can be answered without learning to write."""
    data = run.resolved.values["data"]
    records = open_examples(data["source"], data["options"], "train", data["normalization"])
    known = [form.texts(record)[-2:] for record in records or ()]
    sources = [prompt.rpartition(form.prefix)[2].partition("<|im_end|>")[0] for prompt in prompts]
    taught = [(asked.removeprefix(form.prefix), answer) for asked, answer in known]
    return [
        ("scikit-learn, nearest by TF-IDF", math.nan, nearest(taught, sources)),
        ("first sentence of the prompt", math.nan, [first_sentence(source) for source in sources]),
    ]


def foreign(
    folder: str, values: Any, batches: Iterator[Fields], rates: Sequence[float], sums: Callable[..., Any] | None = None
) -> tuple[Any, float]:
    """Return the model of a folder when it has learnt batches at these rates, and the seconds a step.

    sums: (model, batch) -> the sum to descend and its weight; `nats` if there is none.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(values["seed"])
    adapt, about = values["adapt"], values["optimizer"]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapt["name"] == "lora":
        every = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        model = get_peft_model(model, LoraConfig(r=adapt["rank"], lora_alpha=adapt["alpha"], **every))
    learnt = [p for p in model.parameters() if p.requires_grad]
    betas = (about["b1"], about["b2"])
    optimizer = torch.optim.AdamW(learnt, betas=betas, eps=about["eps"], weight_decay=about["weight_decay"])
    began = time.perf_counter()
    for batch, rate in zip(batches, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        total, weight = (sums or nats)(model, batch)
        (total / weight).backward()
        torch.nn.utils.clip_grad_norm_(learnt, about["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), (time.perf_counter() - began) / len(rates)


def nats(model: Any, batch: Fields) -> tuple[Any, Any]:
    """Return the weighted sum of -log p of a batch's targets, and of its weights."""
    import torch

    targets, weights = (torch.from_numpy(np.asarray(batch[name])).flatten() for name in ("targets", "weights"))
    flat = logits(model, batch).flatten(0, 1), targets.long()  # which torch has fast code for
    return (torch.nn.functional.cross_entropy(*flat, reduction="none") * weights).sum(), weights.sum()


def logits(model: Any, batch: Fields) -> Any:
    """Return the logits [B,T,V] of rows of several texts that do not see each other."""
    import torch

    names = ("tokens", "segments", "positions")
    tokens, segments, positions = (torch.from_numpy(np.asarray(batch[name])) for name in names)
    width = tokens.shape[1]
    seen = (segments[:, :, None] == segments[:, None, :]) & torch.ones(width, width, dtype=torch.bool).tril()
    return model(input_ids=tokens.long(), attention_mask=seen[:, None], position_ids=positions.long()).logits


def foreign_loss(model: Any, batches: Iterator[Fields]) -> float:
    """Return the mean loss of batches, nats a token."""
    import torch

    with torch.no_grad():
        sums = [[float(part) for part in nats(model, batch)] for batch in batches]
    return float(np.divide(*np.sum(sums, 0)))


def foreign_written(
    model: Any, asked: Sequence[generation.Pair], tokens: int, stops: Sequence[int], at_once: int = 8
) -> list[list[int]]:
    """Return the ids that transformers writes greedily after each prompt."""
    import torch

    made: list[list[int]] = []
    for i in range(0, len(asked), at_once):
        prompts = [pair.prompt for pair in asked[i : i + at_once]]
        width = max(map(len, prompts))
        ids = torch.tensor([[stops[0]] * (width - len(p)) + p for p in prompts])
        seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=seen, max_new_tokens=tokens, do_sample=False, eos_token_id=list(stops),
                pad_token_id=stops[0],
            )  # fmt: skip
        made += out[:, width:].tolist()
    return made


if __name__ == "__main__":
    sys.exit(main())
