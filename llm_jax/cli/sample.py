"""sample: continue a text, streaming it as it is made; of an encoder-decoder, write one from it."""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TextIO

from llm_jax.cli.flags import Parser, add_huge_pages, add_step, add_workdir, with_huge_pages
from llm_jax.core import checks
from llm_jax.core.table import UserError

DRAWN = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
SEARCHED = ("beams", "length_penalty", "stopping")


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
    parser.add_argument("--seed", type=int, help="of the draws (default: 0)")
    parser.add_argument(
        "--beams", type=int, help="search for the most probable text, with so many beams; draws nothing"
    )
    parser.add_argument("--length_penalty", type=float, help="of beams: log-probability / length^this, 0 for none")
    parser.add_argument("--stopping", help="of beams: full, likely or sure, see decode/beam.py")
    parser.add_argument("--num", type=int, default=1, help="how many continuations; of beams the best, in their order")
    parser.add_argument("--to", help="of a model with latent vectors: --num texts on the way from --prompt to this")
    add_huge_pages(parser)
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("sample takes the configuration of the workdir; --config overrides belong to train")
    checks.positive("sample", num=flags.num)
    checks.non_negative("sample", seed=flags.seed)
    if flags.prompt is None:
        raise UserError('--prompt is missing; give the text to continue, such as --prompt="My fellow citizens"')
    _check_beams(flags)
    with_huge_pages(not flags.no_huge_pages)
    from llm_jax.mesh.join import joined

    with joined():
        return _sample(flags)


def _check_beams(flags: argparse.Namespace) -> None:
    """Refuse beams beside what says how tokens are drawn."""
    named = [name for name in SEARCHED if getattr(flags, name) is not None]
    drawn = [name for name in (*DRAWN, "seed", "to") if getattr(flags, name) is not None] + ["greedy"] * flags.greedy
    if named and drawn:
        raise UserError(
            f"--{named[0]} searches for the most probable text and draws nothing; leave out --{drawn[0]}, "
            f"or --{named[0]}"
        )


def _given(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the section that the flags give; drawing takes the place of searching, and the other way."""
    from llm_jax.run.parts.sampling import DRAWING, SEARCHING

    named = {name: value for name in ("tokens", *DRAWN, *SEARCHED) if (value := getattr(flags, name)) is not None}
    named |= {"temperature": 0.0} if flags.greedy else {}
    drawn = flags.seed is not None or any(name in named for name in DRAWN)
    others: dict[str, Any] = SEARCHING if drawn else DRAWING if flags.beams is not None else {}
    return others | named


def _sample(flags: argparse.Namespace) -> int:
    from llm_jax.core.types import Conditional, Samples
    from llm_jax.mesh import hosts
    from llm_jax.run.config import construct
    from llm_jax.run.open_run import open_run
    from llm_jax.run.parts.sampling import Sample
    from llm_jax.run.texts.continued import between, continuations, pieces, searched

    given = _given(flags)
    Sample(**({"beams": 4} if any(name in given for name in SEARCHED[1:]) else {}) | given)  # before a workdir is read
    if flags.beams is not None and flags.num > flags.beams:
        raise UserError(f"--num={flags.num} is above --beams={flags.beams}, the texts that are kept; give more beams")
    opened = open_run(flags.workdir)
    section, seed = construct(Sample, opened.resolved.values["sample"] | given), flags.seed or 0
    out = sys.stdout if hosts.is_first() else io.StringIO()
    with hosts.together().active():
        params = opened.params(flags.step)
        if flags.to is not None:
            ends = {"first": flags.prompt, "last": flags.to, "steps": flags.num, "tokens": section.tokens}
            out.write("\n".join(between(opened.model, params, opened.tokenizer, **ends)) + "\n")
        elif isinstance(opened.model, Samples):
            prompts = replace(section, prompts=[flags.prompt] * flags.num)
            texts = continuations(opened.model, params, opened.tokenizer, prompts, seed=seed)
            out.write("\n\n---\n\n".join(texts) + "\n")
        elif section.beams is not None:
            (texts,) = searched(
                opened.model, params, opened.tokenizer, [flags.prompt], section, stops=opened.stops, num=flags.num,
                starts=opened.starts,
            )  # fmt: skip
            lead = "" if isinstance(opened.model, Conditional) else flags.prompt
            out.write("\n\n---\n\n".join(lead + text for text in texts) + "\n")
        else:
            made = pieces(
                opened.model, params, opened.tokenizer, flags.prompt, section, seed=seed, num=flags.num,
                stops=opened.stops, starts=opened.starts,
            )  # fmt: skip
            _write(made, "" if isinstance(opened.model, Conditional) else flags.prompt, flags.num, out)
    return 0


def _write(made: Iterator[tuple[int, str]], prompt: str, num: int, to: TextIO) -> None:
    """Write one text as it is made, several when they are."""
    if num == 1:
        for at, (_, piece) in enumerate(made):  # what is refused is so before the first piece
            to.write(piece if at else prompt + piece)
            to.flush()
        to.write("\n")
        return
    texts = [prompt] * num
    for number, piece in made:
        texts[number] += piece
    to.write("\n\n---\n\n".join(texts) + "\n")
