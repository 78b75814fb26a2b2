"""safetensors: a strict reader and a streaming writer, with no other library.

A file is 8 bytes (the header's length, little-endian), the header (JSON: name -> dtype, shape, [begin, end]) and the
data, without a gap. Everything that a header claims is compared with the file's length before anything is allocated.
A large model is split: `model.safetensors.index.json` says which of the files beside it holds which tensor.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np

from llm_jax.core.table import UserError, choices

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class Info(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Tensors(Protocol):
    """Named arrays of a file or several, each read when it is asked for."""

    @property
    def infos(self) -> Mapping[str, Info]: ...
    def read(self, name: str) -> np.ndarray: ...


class File:
    """One safetensors file, its header read and checked."""

    def __init__(self, path: Path):
        self._path = path
        header, self._start = _header(path)
        header.pop("__metadata__", None)
        self.infos: dict[str, Info] = {}
        self._begins: dict[str, int] = {}
        for name, entry in header.items():
            self.infos[name], self._begins[name] = _entry(path, name, entry)
        self._check_spans(path.stat().st_size - self._start)

    def read(self, name: str) -> np.ndarray:
        """Return a tensor, in an array of its own."""
        info = self.infos[name]
        array = np.fromfile(self._path, info.dtype, math.prod(info.shape), offset=self._start + self._begins[name])
        if array.nbytes != info.nbytes:
            raise UserError(f"{self._path} became shorter while it was read")
        return array.reshape(info.shape)

    def _check_spans(self, size: int) -> None:
        """Refuse data that overlap, leave gaps, or do not fill the file."""
        end = 0
        for name in sorted(self._begins, key=lambda n: (self._begins[n], self.infos[n].nbytes)):
            begin = self._begins[name]
            if begin != end:
                what = "overlaps the one before it" if begin < end else f"leaves a gap of {begin - end} bytes before it"
                raise _lie(self._path, f"tensor {name!r} {what}")
            end += self.infos[name].nbytes
        if end != size:
            raise _lie(self._path, f"its tensors take {end} bytes, and {size} follow the header")


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the JSON header and where the data begin."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise _lie(path, f"a header of {length} bytes does not fit in a file of {size} (at most {LONGEST_HEADER})")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _lie(path, f"its header is not JSON ({str(error)[:200]})") from None
    if not isinstance(header, dict) or not text.startswith(b"{"):
        raise _lie(path, "its header is not a JSON object")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _lie(path, "__metadata__ is not an object of texts")
    return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _entry(path: Path, name: str, entry: Any) -> tuple[Info, int]:
    """Return a tensor's Info and the offset of its first byte."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _lie(path, f"tensor {name!r} does not have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPES if isinstance(dtype, str) else True:
        raise UserError(f"{path}: tensor {name!r} has dtype {dtype!r}, which is not read here; {choices(DTYPES)} are")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise _lie(path, f"tensor {name!r} has shape {shape!r:.80} at {offsets!r:.80}")
    info = Info(tuple(shape), np.dtype(DTYPES[dtype]))
    if len(offsets) != 2 or offsets[1] - offsets[0] != info.nbytes:
        raise _lie(path, f"tensor {name!r}: {dtype}{shape} takes {info.nbytes} bytes, and data_offsets are {offsets}")
    return info, offsets[0]


def _lie(path: Path, what: str) -> UserError:
    return UserError(f"{path} is not a whole safetensors file: {what}; get it anew")


class Directory:
    """The tensors of a directory: of `model.safetensors`, or of the files that its index names."""

    def __init__(self, path: Path):
        self._files: dict[str, File] = {}
        weights = _shards(path)
        for file in sorted(set(weights.values())) if weights else [FILE]:
            opened = File(path / file)
            named = {n for n, f in weights.items() if f == file} if weights else set(opened.infos)
            if named != set(opened.infos):
                raise UserError(
                    f"{path / INDEX} and {file} disagree on {sorted(named ^ set(opened.infos))[:5]}; get them anew"
                )
            self._files |= dict.fromkeys(opened.infos, opened)
        self.infos = {name: file.infos[name] for name, file in self._files.items()}

    def read(self, name: str) -> np.ndarray:
        """Return a tensor, in an array of its own."""
        return self._files[name].read(name)


def _shards(path: Path) -> dict[str, str]:
    """Return {tensor: name of the file beside the index}; nothing when there is no index.

    Raises:
        UserError: the index is not one, or names what is not a plain file beside it.
    """
    index = path / INDEX
    if not index.exists():
        return {}
    try:
        weights = json.loads(index.read_text("utf-8"), object_pairs_hook=_once)["weight_map"]
        files = set(weights.values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of safetensors files ({error!r:.200}); get it anew") from None
    there = {file.name for file in path.iterdir() if file.name.endswith(".safetensors") and file.is_file()}
    strange = [file for file in files if file not in there]
    if strange or not files:
        raise UserError(f"{index} names {strange[:5]!r}, which are no safetensors files in {path}; get them anew")
    outside = [file for file in files if not _inside(path, path / file)]
    if outside:
        raise UserError(f"{path / outside[0]} is a link out of {path}; copy the file there")
    return dict(weights)


def _inside(path: Path, file: Path) -> bool:
    """Say whether a file lies in the directory, or is a link of Hugging Face's cache: snapshots/X/NAME -> blobs/Y."""
    target, home = file.resolve(), path.resolve()
    return target.parent == home or (home.parent.name == "snapshots" and target.parent == home.parents[1] / "blobs")


def write(
    directory: Path,
    infos: Mapping[str, Info],
    tensors: Iterable[tuple[str, np.ndarray]],
    max_shard_bytes: int = 5 << 30,
) -> None:
    """Write tensors as they come, in any order, each cast to its Info's dtype; one is held at a time.

    Args:
        directory: there already; it gets `model.safetensors`, or several files and their index.
        infos: all tensors that will come.
        tensors: (name, array).
        max_shard_bytes: of data in a file; a larger tensor has a file of its own.

    Raises:
        ValueError: a tensor that was not announced, has another shape, comes twice, or did not come.
    """
    shards = _split(infos, max_shard_bytes)
    count = len(shards)
    files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)] if count > 1 else [FILE]
    left: dict[str, tuple[Path, int]] = {}
    for file, names in zip(files, shards, strict=True):
        left |= {n: (directory / file, at) for n, at in _begin(directory / file, {n: infos[n] for n in names}).items()}
    for name, tensor in tensors:
        if name not in left or tensor.shape != infos[name].shape:
            raise ValueError(f"tensor {name!r} {tensor.shape} was not announced so, or comes twice")
        path, at = left.pop(name)
        with open(path, "r+b") as out:
            out.seek(at)
            np.ascontiguousarray(tensor, infos[name].dtype).tofile(out)
    if left:
        raise ValueError(f"these tensors did not come: {sorted(left)}")
    if count > 1:
        weights = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        total = sum(info.nbytes for info in infos.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}, indent=2)
        (directory / INDEX).write_text(text + "\n")


def _split(infos: Mapping[str, Info], limit: int) -> list[list[str]]:
    """Return the names of each file, in order."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in infos.items():
        if shards[-1] and size + info.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.nbytes
    return shards


def _begin(path: Path, infos: Mapping[str, Info]) -> dict[str, int]:
    """Write a file's header, make room for its data, and return where each tensor begins in it."""
    begins, end = {}, 0
    for name in sorted(infos, key=lambda n: -infos[n].dtype.itemsize):  # wide ones first keeps all aligned
        begins[name] = end
        end += infos[name].nbytes
    entries = {
        name: {
            "dtype": NAMES[infos[name].dtype], "shape": list(infos[name].shape),
            "data_offsets": [begin, begin + infos[name].nbytes],
        }
        for name, begin in begins.items()
    }  # fmt: skip
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + end)
    return {name: 8 + len(text) + begin for name, begin in begins.items()}
