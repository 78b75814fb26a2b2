"""manifest.json: what a checkpoint holds, written last, so that a step with one is whole.

The file carries the SHA-256 of its own content (as canonical JSON): a damaged manifest is told from a wrong one. Paths
in it are names of leaves and are never opened; file names are compared with a listing and never opened either.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from etils import epath

from llm_jax.core.table import UserError
from llm_jax.store.files import write_text

FORMAT = 1
NAME = "manifest.json"


class CorruptCheckpointError(RuntimeError):
    """A checkpoint's content is not what was saved: the message names the step and the file or leaf."""


@dataclass(frozen=True)
class Leaf:
    """One array: its shape, its dtype's name (such as "bfloat16"; "key<fry>" for a PRNG key) and its digest."""

    shape: tuple[int, ...]
    dtype: str
    digest: int = 0


@dataclass(frozen=True)
class Manifest:
    """All that is known of a checkpoint besides its arrays.

    leaves: path -> Leaf, in the tree's order.
    files: name within the checkpoint -> size in bytes.
    prng: path of each PRNG key -> {"impl": its algorithm, "data": its words, where they are few}.
    config_hash: of the run's config. data_position: the step of the data. code_version: of the program that saved it.
    notes: whatever else its writer wants to find again (JSON values).
    """

    step: int
    leaves: dict[str, Leaf]
    files: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    prng: dict[str, dict[str, Any]] = field(default_factory=dict)
    config_hash: str = ""
    data_position: int = 0
    code_version: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What tells its arrays from those of other checkpoints: 16 hexadecimal digits."""
        each = {path: (leaf.shape, leaf.dtype, leaf.digest) for path, leaf in self.leaves.items()}
        return hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()[:16]


def dump(manifest: Manifest) -> str:
    """Return the text of manifest.json."""
    content = {"format": FORMAT, **asdict(manifest)}
    content["leaves"] = {path: _leaf_out(leaf) for path, leaf in manifest.leaves.items()}
    content["metrics"] = {k: v if math.isfinite(v) else str(v) for k, v in manifest.metrics.items()}
    return _one_entry_a_line({"sha256": _checksum(content), **content})


def parse(text: str, where: str) -> Manifest:
    """Read the text of a manifest; `where` names it in errors.

    Raises:
        CorruptCheckpointError: it is not JSON, not the text that was written, or not a manifest.
        UserError: it was written by a later version of the program.
    """
    try:
        content = json.loads(text)
        stated = content.pop("sha256")
        intact = stated == _checksum(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError(f"{where} is damaged: {error!r}") from error
    if not intact:
        raise CorruptCheckpointError(f"{where} is damaged: its content does not match its own checksum")
    version = content.pop("format", None)
    if isinstance(version, int) and version > FORMAT:
        raise UserError(f"{where} has format {version}; this program reads up to {FORMAT}: update it to open this run")
    try:
        return _checked(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptCheckpointError(f"{where} is not a manifest of format {FORMAT}: {error}") from error


def write(directory: epath.Path, manifest: Manifest) -> None:
    """Write manifest.json into a directory, atomically and synced."""
    write_text(directory / NAME, dump(manifest))


def read(directory: epath.Path) -> Manifest:
    """Read and check manifest.json of a checkpoint.

    Raises:
        CorruptCheckpointError, UserError: as `parse`; a missing or undecodable file is corrupt too.
    """
    path = directory / NAME
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError) as error:
        raise CorruptCheckpointError(f"{path} is missing or damaged: {error}") from error
    return parse(text, str(path))


def check_path(path: str) -> str:
    """Return a leaf's path, or raise ValueError where it could be taken for a way out of a directory."""
    if re.search(r"[\x00-\x1f\x7f\\]", path) or not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{path!r} is not the path of a leaf")
    return path


def _one_entry_a_line(content: Mapping[str, Any]) -> str:
    """Return JSON with a line for each field and for each entry of a dictionary, to be read and compared by eye."""
    lines = []
    for name, value in content.items():
        entries = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()] if isinstance(value, dict) else []
        text = "{\n" + ",\n".join(entries) + "\n }" if entries else json.dumps(value)
        lines.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _leaf_out(leaf: Leaf) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": leaf.dtype, "digest": f"{leaf.digest:016x}"}


def _leaf_in(shape: Any, dtype: Any, digest: Any) -> Leaf:
    if not isinstance(dtype, str) or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"shape {shape!r} with dtype {dtype!r}")
    return Leaf(tuple(shape), dtype, int(digest, 16))


def _checked(content: dict[str, Any]) -> Manifest:
    """Build the Manifest from parsed JSON; any surprise is a ValueError, TypeError, KeyError or AttributeError."""
    names = {f.name for f in fields(Manifest)}
    if set(content) != names:
        raise ValueError(f"fields {sorted(set(content) ^ names)} are missing or unknown")
    if any(type(content[k]) is not int for k in ("step", "data_position")):
        raise ValueError("step and data_position must be whole numbers")
    content["leaves"] = {check_path(path): _leaf_in(**leaf) for path, leaf in content["leaves"].items()}
    content["metrics"] = {k: float(v) for k, v in content["metrics"].items()}
    return Manifest(**content)
