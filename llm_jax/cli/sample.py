"""sample: continue a text, streaming it as it is made."""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TextIO

from llm_jax.cli.flags import Parser, add_huge_pages, add_step, add_workdir, with_huge_pages
from llm_jax.core import checks
from llm_jax.core.table import UserError

DRAWN = ("tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def run(arguments: Sequence[str]) -> int:
    """Continue a prompt with a checkpoint."""
    parser = Parser("sample", "Continue a text with a checkpoint; defaults are those of its config.sample.")
    add_workdir(parser)
    add_step(parser)
    parser.add_argument("--prompt", help="the text to continue")
    parser.add_argument("--tokens", type=int, help="how many tokens")
    parser.add_argument("--temperature", type=float, help="divides the logits")
    parser.add_argument("--top_k", type=int, help="only the k most probable tokens")
    parser.add_argument("--top_p", type=float, help="only the most probable tokens up to this probability")
    parser.add_argument("--min_p", type=float, help="only tokens this probable beside the best one")
    parser.add_argument("--repetition_penalty", type=float, help="above 1: what was said is less likely")
    parser.add_argument("--greedy", action="store_true", help="always the most probable token")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--num", type=int, default=1, help="how many continuations")
    parser.add_argument("--to", help="of a model with latent vectors: --num texts on the way from --prompt to this")
    add_huge_pages(parser)
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("sample takes the configuration of the workdir; --config overrides belong to train")
    checks.positive("sample", num=flags.num)
    checks.non_negative("sample", seed=flags.seed)
    if flags.prompt is None:
        raise UserError('--prompt is missing; give the text to continue, such as --prompt="My fellow citizens"')
    with_huge_pages(not flags.no_huge_pages)
    from llm_jax.mesh.join import joined

    with joined():
        return _sample(flags)


def _sample(flags: argparse.Namespace) -> int:
    from llm_jax.core.types import Samples
    from llm_jax.mesh import hosts
    from llm_jax.run.config import construct
    from llm_jax.run.generate import between, continuations, pieces
    from llm_jax.run.open_run import open_run
    from llm_jax.run.sections import Sample

    given = {name: value for name in DRAWN if (value := getattr(flags, name)) is not None}
    given |= {"temperature": 0.0} if flags.greedy else {}
    Sample(**given)  # a wrong value is told before the workdir is looked for
    opened = open_run(flags.workdir)
    section = construct(Sample, opened.resolved.values["sample"] | given)
    out = sys.stdout if hosts.is_first() else io.StringIO()
    with hosts.together().active():
        params = opened.params(flags.step)
        if flags.to is not None:
            ends = {"first": flags.prompt, "last": flags.to, "steps": flags.num, "tokens": section.tokens}
            out.write("\n".join(between(opened.model, params, opened.tokenizer, **ends)) + "\n")
        elif isinstance(opened.model, Samples):
            prompts = replace(section, prompts=[flags.prompt] * flags.num)
            texts = continuations(opened.model, params, opened.tokenizer, prompts, seed=flags.seed)
            out.write("\n\n---\n\n".join(texts) + "\n")
        else:
            made = pieces(
                opened.model, params, opened.tokenizer, flags.prompt, section, seed=flags.seed, num=flags.num,
                stops=opened.stops,
            )  # fmt: skip
            _write(made, flags.prompt, flags.num, out)
    return 0


def _write(made: Iterator[tuple[int, str]], prompt: str, num: int, to: TextIO) -> None:
    """Write one text as it is made, several when they are."""
    if num == 1:
        to.write(prompt)
        for _, piece in made:
            to.write(piece)
            to.flush()
        to.write("\n")
        return
    texts = [prompt] * num
    for number, piece in made:
        texts[number] += piece
    to.write("\n\n---\n\n".join(texts) + "\n")
