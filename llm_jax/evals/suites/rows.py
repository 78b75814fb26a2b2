"""JSON lines that a user wrote: each object with its place, and whatever is wrong named by file and line."""

import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from llm_jax.core.table import UserError


def objects(path: epath.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("FILE:LINE", object) of each line that is not blank.

    Raises:
        UserError: there is no such file, or a line is no JSON object.
    """
    try:
        lines = epath.Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not a JSON object ({error})") from None
        if not isinstance(value, dict):
            raise UserError(f"{where}: a {type(value).__name__}, not a JSON object")
        yield where, value
