"""What other people's files have in common: how they are read, names of roles, and pieces with visible spaces."""

from typing import Any

from etils import epath

from llm_jax.core.table import UserError

ROLES = ("eos", "bos", "pad")
CONTROLS = "controls.json"
SPACE = "\u2581"  # sentencepiece's visible space


def content_of(path: Any) -> bytes:
    """Return the bytes of the file that `tokenizer.path` names.

    Raises:
        UserError: it is not there or cannot be read.
    """
    try:
        return epath.Path(path).expanduser().read_bytes()
    except (OSError, ValueError) as error:  # a NUL is no OSError
        why = getattr(error, "strerror", None) or error
        raise UserError(f"data.tokenizer.path={str(path)!r} cannot be read: {why}") from None


def spaced_bytes(token: str) -> bytes:
    """Return the bytes of a sentencepiece piece: "▁" is a space, "<0x0A>" a byte."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE, " ").encode()
