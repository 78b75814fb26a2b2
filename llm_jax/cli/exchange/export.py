"""export: a checkpoint for transformers or llama.cpp."""

from collections.abc import Sequence

from llm_jax.cli.flags import Parser, add_step, add_workdir
from llm_jax.core.table import UserError


def run(arguments: Sequence[str]) -> int:
    """Write a checkpoint in a foreign format."""
    parser = Parser("export", "Write a checkpoint as other programs read it.")
    add_workdir(parser)
    add_step(parser)
    parser.add_argument("--to", required=True, metavar="OUT", help="a directory that is not there yet, or is empty")
    parser.add_argument(
        "--format",
        default="hf",
        choices=("hf", "gguf", "peft", "arpa"),
        help="hf (transformers), gguf (llama.cpp), peft (an adapter), arpa (n-grams, one file)",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="of the tensors (default: float32)",
    )
    parser.add_argument("--no_tokenizer", action="store_true", help="the model alone")
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("export takes the configuration of the workdir; --config overrides belong to train")
    from llm_jax.run.exchange.exported import arpa, export
    from llm_jax.run.open_run import open_run

    opened = open_run(flags.workdir)
    if flags.format == "arpa":
        print(f"exported {arpa(opened, flags.to, flags.step):,} n-grams to {flags.to}")
        return 0
    words = not flags.no_tokenizer
    found = export(opened, flags.to, form=flags.format, step=flags.step, dtype=flags.dtype, words=words)
    print(f"exported {found.family}, {flags.dtype}, to {flags.to}")
    if words and found.tokenizer is None:
        print(f"{flags.workdir} has no tokenizer, so none was exported")
    return 0
