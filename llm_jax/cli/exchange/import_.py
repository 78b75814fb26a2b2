"""import: a Hugging Face directory, a GGUF or an ARPA file as a workdir."""

import sys
from collections.abc import Sequence

from llm_jax.cli.flags import Parser, add_workdir

SHOWN = 10
NEXT = {
    "ask": 'ask --workdir={} --passage=FILE --question="…"',
    "classify": 'classify --workdir={} --text="…"',
    "embed": 'embed --workdir={} "a cat" "a kitten"',
    "sample": 'sample --workdir={} --prompt="My fellow citizens"',
}


def run(arguments: Sequence[str]) -> int:
    """Import a foreign model."""
    parser = Parser("import", "Make a workdir of a foreign model: evaluate, sample, chat, export, or train from it.")
    parser.add_argument(
        "source", metavar="SRC", help="a directory with config.json and *.safetensors, or a .gguf or .arpa file"
    )
    add_workdir(parser)
    parser.add_argument("--partial", action="store_true", help="take what fits; the rest keeps initial values")
    flags, overrides = parser.read(arguments)
    from llm_jax.interop.source import open_source
    from llm_jax.run.exchange.imported import import_run
    from llm_jax.run.resume import check_place

    check_place(flags.workdir)
    source = open_source(flags.source)
    made = import_run(source, flags.workdir, partial=flags.partial, overrides=overrides)
    print(f"imported {made.family}, {made.parameters:,} parameters, from {flags.source} into {flags.workdir}")
    for note in source.notes:
        print(f"warning: {note}", file=sys.stderr)
    if made.initial:
        shown = ", ".join(made.initial[:SHOWN]) + (" …" if len(made.initial) > SHOWN else "")
        print(f"{len(made.initial)} parameters were not in it and keep initial values: {shown}", file=sys.stderr)
    if source.tokenizer is None:
        print(
            "warning: it has no tokenizer, which sample, evaluate and chat need; "
            "put its tokenizer.json beside config.json and import it anew",
            file=sys.stderr,
        )
    else:
        print(f"next: python -m llm_jax {NEXT[made.verb].format(flags.workdir)}")
    return 0
