"""embed: vectors of texts by an encoder, and how alike the texts are by them."""

import sys
from collections.abc import Sequence
from pathlib import Path

from llm_jax.cli.flags import Parser, add_step, add_workdir
from llm_jax.core.table import UserError


def run(arguments: Sequence[str]) -> int:
    """Print the cosine similarities of texts, or write their vectors."""
    parser = Parser("embed", "Print how alike texts are (cosines of an encoder's vectors), or write the vectors.")
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="a text; - stands for the lines of standard input")
    add_workdir(parser)
    add_step(parser)
    parser.add_argument("--out", metavar="FILE.npy", help="write the vectors there, float32 [texts, width]")
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("embed takes the configuration of the workdir; --config overrides belong to train")
    if flags.out is not None and not Path(flags.out).parent.is_dir():
        raise UserError(f"--out={flags.out}: there is no directory {Path(flags.out).parent}")
    if flags.texts.count("-") > 1:
        raise UserError("- is given twice; standard input can be read once")
    import numpy as np

    from llm_jax.evals.vectors import embedding, vectors
    from llm_jax.mesh.join import joined
    from llm_jax.run.open_run import open_run

    with joined():
        opened = open_run(flags.workdir)
        embedding(opened.model)
        lines = (sys.stdin.read().splitlines() if text == "-" else [text] for text in flags.texts)
        texts = [text for group in lines for text in group]
        if not texts:
            raise UserError("standard input has no line; give a text")
        found = vectors(opened.model, opened.params(flags.step), opened.tokenizer, texts)
    if flags.out is not None:
        with open(flags.out, "wb") as out:  # np.save would add an ending to a name without one
            np.save(out, found)
        print(f"{len(texts)} vectors of {found.shape[1]} numbers in {flags.out}")
        return 0
    for text, row in zip(texts, found @ found.T, strict=True):
        print(" ".join(f"{value:7.4f}" for value in row), "", text)
    return 0
