"""compress: a workdir whose model is another's made smaller."""

import argparse
from collections.abc import Sequence

from llm_jax.cli.flags import Parser, add_step, add_workdir
from llm_jax.core.table import UserError

MEGABYTE = 1e6
CHANNEL = "channel"


def run(arguments: Sequence[str]) -> int:
    """Write a smaller model."""
    parser = Parser("compress", "Make a smaller model of a run: evaluate, sample and chat open it like any other.")
    add_workdir(parser)
    add_step(parser)
    parser.add_argument("--to", required=True, metavar="OUT", help="a directory that is not there yet, or is empty")
    parser.add_argument("--quantize", choices=("int8", "int4", "nf4"), help="keep the kernels of layers in so few bits")
    parser.add_argument(
        "--group", metavar="N", type=_group, help="inputs that share a scale, or channel: all of an output "
        "(default: channel for int8, 64 for int4 and nf4)",
    )  # fmt: skip
    parser.add_argument(
        "--embeddings", choices=("int8", "float32"), help="how --quantize keeps embeddings and the output head "
        "(default: int8, a scale for each token)",
    )  # fmt: skip
    parser.add_argument("--prune", metavar="SHARE|N:M", help="the smallest weights become 0: 0.5 of them, or 2:4")
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("compress takes the configuration of the workdir; --config overrides belong to train")
    if flags.quantize is None and flags.prune is None:
        raise UserError("nothing to do: give --quantize=int8, --quantize=int4 or --prune=0.5")
    if flags.quantize is None and flags.group is not None:
        raise UserError("--group is of the scales of --quantize=int8 or int4; give that, or leave out --group")
    if flags.quantize is None and flags.embeddings is not None:
        raise UserError("--embeddings is of --quantize=int8 or int4; give that, or leave out --embeddings")
    from llm_jax.optim.sparsity import parse
    from llm_jax.run.exchange.compressed import compress
    from llm_jax.run.open_run import open_run
    from llm_jax.run.resume import check_place
    from llm_jax.run.sections import Compress

    check_place(flags.to)
    sparsity = None if flags.prune is None else parse(flags.prune, "--prune")
    usual = None if flags.quantize in (None, "int8") else 64
    group = usual if flags.group is None else flags.group or None
    embeddings = "float32" if flags.quantize is None else flags.embeddings or "int8"
    section = Compress(flags.quantize, group, embeddings)
    found = compress(open_run(flags.workdir), flags.to, compress=section, sparsity=sparsity, step=flags.step)
    sizes = f"{found.before / MEGABYTE:.2f} MB of parameters became {found.after / MEGABYTE:.2f} MB"
    print(sizes + (f"; {found.zeros:.1%} of the kernels of layers are 0" if sparsity else "") + f", in {flags.to}")
    if flags.quantize is None:
        print("zeros are stored as they are: this checkpoint is as large as before")
    print(f"next: python -m llm_jax evaluate --workdir={flags.to}")
    return 0


def _group(text: str) -> int:
    """Return so many inputs; 0 for a channel."""
    if text == CHANNEL:
        return 0
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of inputs, such as 64, or {CHANNEL}")
    return int(text)
