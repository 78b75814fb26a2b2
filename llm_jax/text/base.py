"""What a tokenizer is: its content as files, the raw bytes that each id stands for, and two functions.

Every kind of tokenizer is a pair of functions, `make(texts, **options) -> files` and `read(files) -> Tokenizer`, so
that training, adapting, saving and loading are one path, and a saved tokenizer is data only.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from llm_jax.core.table import UserError
from llm_jax.text.normalize import well_formed

Files = Mapping[str, bytes]  # file name -> content
META = "tokenizer_meta.json"
PARALLEL_CHARACTERS = 1 << 18  # below this, threads cost more than they bring


class Added(NamedTuple):
    """A literal outside the merges. control: special. left, right: takes the white space before, after it along."""

    id: int
    control: bool = True
    left: bool = False
    right: bool = False


@dataclass(frozen=True)
class Tokenizer:
    """A reversible map between text and ids.

    Literal special tokens within a text (such as "<|endoftext|>") are encoded as plain text: control ids come only
    from `eos_id`, `bos_id`, `pad_id`. Lone surrogates are encoded as U+FFFD.

    Attributes:
        kind: its name in `TOKENIZERS`.
        files: everything that is needed to build it again.
        vocabulary: the raw UTF-8 bytes that each id stands for; b"" for control ids.
        to_ids: well-formed text -> int32 [N].
        to_text: ids -> text; control ids are skipped, broken UTF-8 becomes U+FFFD.
        added: literal -> what it stands for in a chat template; control tokens and others that are found as a whole.
        frame: ids that a model of single texts has before and after each: `[CLS]`, `[SEP]`.
        between: ids that it has between two texts; None where that is not known.
        joins: the decoding of ids is the decoding of their joined `vocabulary` (all byte-level kinds).
    """

    kind: str
    files: Files
    vocabulary: Sequence[bytes]
    to_ids: Callable[[str], np.ndarray]
    to_text: Callable[[Sequence[int]], str]
    eos_id: int | None = None
    bos_id: int | None = None
    pad_id: int | None = None
    joins: bool = True
    added: Mapping[str, Added] = field(default_factory=dict)
    frame: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    between: tuple[int, ...] | None = None

    @property
    def vocab_size(self) -> int:
        """The number of ids, control ids included."""
        return len(self.vocabulary)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 [V]: the number of raw UTF-8 bytes that each id stands for; 0 for control ids."""
        return np.fromiter((len(piece) for piece in self.vocabulary), np.int32, self.vocab_size)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the kind and the content."""
        return fingerprint(self.kind, self.files)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text: int32 [N], without any control id."""
        return self.to_ids(well_formed(text))

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[np.ndarray]:
        """Return the ids of each text; long batches are spread over threads (default: one a processor)."""
        threads = threads or os.cpu_count() or 1
        if threads == 1 or len(texts) < 2 or sum(map(len, texts)) < PARALLEL_CHARACTERS:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.encode, texts))

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end a text: one, or none."""
        return () if self.eos_id is None else (self.eos_id,)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; control ids are skipped.

        Raises:
            UserError: an id lies outside the vocabulary.
        """
        plain = [int(i) for i in ids]
        wrong = next((i for i in plain if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise UserError(f"token id {wrong} lies outside the vocabulary of {self.vocab_size} ids")
        return self.to_text(plain)

    def save(self, directory: Any) -> None:
        """Write the tokenizer's files and its `tokenizer_meta.json` into `directory`."""
        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        meta = {"kind": self.kind, "files": sorted(self.files), "fingerprint": self.fingerprint}
        (folder / META).write_text(json.dumps(meta, indent=1) + "\n")


class Kind(NamedTuple):
    """A kind of tokenizer: `make(texts, *, options) -> files` and `read(files) -> Tokenizer`; `trains` uses texts."""

    make: Callable[..., Files]
    read: Callable[[Files], Tokenizer]
    trains: bool


def fingerprint(kind: str, files: Files) -> str:
    """Return the sha256 of a kind and its files, names included."""
    digest = hashlib.sha256(kind.encode())
    for name in sorted(files):
        digest.update(f"\0{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()


def join_bytes(vocabulary: Sequence[bytes]) -> Callable[[Sequence[int]], str]:
    """Return the decoder of a byte-level vocabulary: join, then read as UTF-8."""
    return lambda ids: b"".join([vocabulary[i] for i in ids]).decode("utf-8", "replace")


def read_json(files: Files, name: str, what: str) -> Any:
    """Return the JSON value in a tokenizer's file.

    Raises:
        UserError: the file is missing or not JSON.
    """
    try:
        return json.loads(files[name])
    except KeyError:
        raise UserError(f"{what}: {name} is missing; found: {', '.join(sorted(files)) or 'nothing'}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what}: {name} is not valid JSON ({error})") from None
