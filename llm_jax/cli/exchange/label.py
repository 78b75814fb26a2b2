"""label: answers of a service to the prompts of a file, as examples to learn from."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llm_jax.cli.flags import Parser
from llm_jax.core import checks
from llm_jax.core.table import UserError

KEY = "OPENAI_API_KEY"


def run(arguments: Sequence[str]) -> int:
    """Ask a service."""
    parser = Parser(
        "label",
        "Ask a service that speaks OpenAI's HTTP interface for answers to the prompts of a file, and write them as "
        "examples for data.form.name=chat or pairs (sequence-level distillation), with --top for soft too. Run again, "
        "it asks for the rest.",
    )
    parser.add_argument("--url", required=True, help="of the interface, such as https://api.openai.com/v1")
    parser.add_argument("--model", required=True, help="the name of the model at the service")
    parser.add_argument("--prompts", required=True, metavar="FILE", help=".csv, .tsv or .jsonl: prompt, or messages")
    parser.add_argument("--to", required=True, metavar="FILE", help="JSON lines, made or gone on with")
    parser.add_argument("--endpoint", default="chat", help="chat (default) or completions")
    parser.add_argument("--prompt", default="prompt", metavar="FIELD", help="that holds the question")
    parser.add_argument("--response", default="response", metavar="FIELD", help="that gets the answer")
    parser.add_argument("--system", help="what the model is told before each conversation; not written")
    parser.add_argument("--max_tokens", type=int, default=512, help="of an answer (default: 512)")
    parser.add_argument("--temperature", type=float, help="default: the service's own")
    parser.add_argument("--top", type=int, default=0, help="also keep so many likeliest tokens at each place")
    parser.add_argument("--extra", default="{}", metavar="JSON", help='more fields of a request, such as {"seed": 1}')
    parser.add_argument("--key_from", default=KEY, metavar="NAME", help=f"environment variable of the key ({KEY})")
    parser.add_argument("--concurrency", type=int, default=8, help="questions at once (default: 8)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for an answer (default: 300)")
    parser.add_argument("--retries", type=int, default=6, help="when it is busy or away (default: 6)")
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("label takes no --config overrides; they belong to train")
    checks.positive("label", concurrency=flags.concurrency)
    from llm_jax.data.examples.readers import by_suffix
    from llm_jax.data.service.client import Service, key_from
    from llm_jax.data.service.label import Labelled, label
    from llm_jax.data.service.questions import Questions

    service = Service(flags.url, key_from(flags.key_from), flags.timeout, flags.retries)
    questions = Questions(
        model=flags.model, endpoint=flags.endpoint, prompt=flags.prompt, response=flags.response, system=flags.system,
        max_tokens=flags.max_tokens, temperature=flags.temperature, top=flags.top,
        extra=_extra(flags.extra),
    )  # fmt: skip
    try:
        records = list(by_suffix(Path(flags.prompts)))
    except OSError as error:
        raise UserError(f"--prompts={flags.prompts} cannot be read: {error.strerror}") from None
    if not records:
        raise UserError(f"--prompts={flags.prompts} has no rows")

    def tell(done: Labelled) -> None:
        if sys.stderr.isatty():
            told = done.before + done.added + done.empty
            print(f"\r{told} of {len(records)}", end="\n" * (told == len(records)), file=sys.stderr, flush=True)

    done = label(records, questions, service, Path(flags.to), concurrency=flags.concurrency, tell=tell)
    print(f"{done.added} answers added to the {done.before} of {flags.to}, of {len(records)} prompts")
    if done.empty:
        print(f"{done.empty} answers were empty and left out", file=sys.stderr)
    if done.cut:
        print(f"{done.cut} were cut at {flags.max_tokens} tokens (finish_reason); raise --max_tokens", file=sys.stderr)
    recipe = "soft" if flags.top else "chat"
    learn = f"python -m llm_jax train --config=configs/{recipe}.py --workdir=DIR"
    print(f"next: {learn} --config.data.options.train={flags.to}")
    return 0


def _extra(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--extra={text!r} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"--extra={text!r} must be an object with fields of the request")
    return found
