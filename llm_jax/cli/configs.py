"""configs: the recipes, a line each."""

import ast
from collections.abc import Sequence
from pathlib import Path

from llm_jax.cli.flags import Parser
from llm_jax.core.table import UserError


def run(arguments: Sequence[str]) -> int:
    """Print each recipe's path and the first line of its docstring."""
    parser = Parser("configs", "List the recipes.")
    parser.add_argument("--under", default="configs", help="the folder to look in (default: configs)")
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("configs takes no --config overrides; they belong to train and describe")
    files = sorted(Path(flags.under).rglob("*.py"))
    if not files:
        raise UserError(f"--under={flags.under} holds no recipe; run this where the folder configs/ is")
    width = max(len(str(file)) for file in files)
    for file in files:
        print(f"{file!s:<{width}}  {_told(file)}")
    return 0


def _told(file: Path) -> str:
    """Return the first line of a recipe's docstring."""
    try:
        text = ast.get_docstring(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError) as error:
        return f"(not Python: {error})"
    return text.splitlines()[0] if text else "(no docstring)"
