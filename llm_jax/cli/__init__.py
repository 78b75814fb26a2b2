"""The command line: a literal table of verbs, one module each with `run(arguments) -> exit code`.

| code | meaning |
|---|---|
| 0 | done (or already done) |
| 1 | our fault: a traceback, with what to report |
| 2 | the user's input: one message, no traceback, nothing written |
| 75 | stopped by a signal with everything saved: run the same command again |
| 130 | a second signal: ended at once, the last checkpoint stands |
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from llm_jax.core.table import UserError, nearest

VERBS = {
    "train": "train a recipe in a workdir, or go on with what the workdir holds",
    "evaluate": "held-out loss, perplexity and bits per byte of a checkpoint",
    "sample": "continue a text",
    "embed": "how alike texts are, by the vectors of an encoder",
    "classify": "the class, number or tags that a tuned model gives to typed texts",
    "ask": "the words of a passage that answer typed questions, by a tuned model",
    "chat": "talk with a model in the terminal, by the chat template of its workdir",
    "import": "make a workdir of a Hugging Face directory or a GGUF file",
    "export": "write a checkpoint as transformers or llama.cpp read it",
    "compress": "make a workdir of a smaller model: weights in few bits, or pruned",
    "label": "examples to learn from: answers of a service to the prompts of a file",
    "fetch": "get real weights or data by name",
    "configs": "list the recipes",
    "launch": "train in several processes here, by Slurm, on TPU VMs or by Kubernetes",
    "plan": "what a recipe needs and costs on a slice of chips, compiled without one",
    "describe": "print a recipe resolved: every value and its origin, the parameters, the FLOPs",
}
MODULES = {
    "import": "exchange.import_",
    "export": "exchange.export",
    "compress": "exchange.compress",
    "label": "exchange.label",
    "fetch": "exchange.fetch",
}
STOPPED = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    verb, *rest = words
    try:
        if verb not in VERBS:
            raise UserError(f"{verb!r} is not a command; the commands are {', '.join(VERBS)}{nearest(verb, VERBS)}")
        return importlib.import_module(f"llm_jax.cli.{MODULES.get(verb, verb)}").run(rest)
    except UserError as error:
        print(f"llm_jax {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"llm_jax {verb}: interrupted; nothing was lost", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        print(f"llm_jax {verb}: this is our fault; please report it with the lines above", file=sys.stderr)
        return 1


def usage() -> str:
    """The list of verbs."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    return "\n".join(["usage: python -m llm_jax VERB [flags]    (VERB --help lists its flags)", "", *lines])
