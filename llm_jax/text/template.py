"""The program that renders a chat template: JSON in, JSON out, in a process of its own.

A template comes with a model, so it is other people's code. It runs in jinja2's sandbox as it does in `transformers`
(the same environment, filters and functions), and this process may take only so much time and memory: a sandbox bounds
what a template reaches, not what it costs. Nothing but jinja2 is imported, as the process starts anew for each chat.
"""

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

MEMORY = 1 << 29  # bytes of address space
SECONDS = 5  # of the processor's time


def limit() -> None:
    """Bound the time and memory of this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows; the caller's clock remains
        return
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def compiled(template: str) -> Any:
    """Return a template, in jinja2's language, compiled.

    Raises:
        Exception: it is wrong.
    """
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what a model wrote, for training; here it is as if it were not there."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    house = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    for unused in ("lipsum", "cycler", "joiner"):
        del house.globals[unused]
    house.filters["tojson"] = tojson
    house.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: datetime.now().strftime(form)}
    return house.from_string(template)


def render(template: str, values: Mapping[str, Any], most: int) -> str:
    """Return the rendered template.

    Args:
        template: in jinja2's language.
        values: what its names stand for, as `transformers` gives them.
        most: characters of the result.

    Raises:
        Exception: whatever the template raises, or it is longer.
    """
    return written(compiled(template), values, most)


def written(program: Any, values: Mapping[str, Any], most: int) -> str:
    """Return what a compiled template writes; otherwise as `render`."""
    from jinja2 import TemplateError

    pieces: list[str] = []
    length = 0
    for piece in program.generate(values):
        length += len(piece)
        if length > most:
            raise TemplateError(f"it writes more than {most} characters")
        pieces.append(piece)
    return "".join(pieces)


def main() -> None:
    """Read {"template", "values": [...], "most": [...]}, write {"texts": [...]}, up to an "error" if there is one."""
    limit()
    answer: dict[str, Any] = {"texts": []}
    try:
        asked = json.load(sys.stdin)
        program = compiled(asked["template"])
        for values, most in zip(asked["values"], asked["most"], strict=True):
            answer["texts"].append(written(program, values, most))
    except MemoryError:
        answer["error"] = f"it takes more than {MEMORY >> 20} MiB of memory"
    except Exception as error:  # a template can raise anything
        answer["error"] = f"{error}"[:500] or type(error).__name__
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
