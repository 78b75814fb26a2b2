"""Other people's tokenizers, read from their files: Hugging Face, sentencepiece, tiktoken."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from etils import epath

from llm_jax.core.table import UserError
from llm_jax.text.base import Added, Files, Kind, Tokenizer, join_bytes, read_json
from llm_jax.text.bpe import EOS, FILE, byte_characters, engine_ids, load_engine

Encode = Callable[[str], np.ndarray]

ROLES = ("eos", "bos", "pad")
CONTROLS = "controls.json"
MODEL = "tokenizer.model"
RANKS = "vocabulary.tiktoken"
SPACE = "\u2581"  # sentencepiece's visible space
PIECE_CHARACTERS = 50_000

PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s"
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def content_of(path: Any) -> bytes:
    """Return the bytes of the file that `tokenizer.path` names.

    Raises:
        UserError: it is not there or cannot be read.
    """
    try:
        return epath.Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"data.tokenizer.path={str(path)!r} cannot be read: {error.strerror or error}") from None


def make_huggingface(
    texts: Iterable[str], *, path: str, eos: str | None = None, bos: str | None = None, pad: str | None = None
) -> Files:
    """Read a `tokenizer.json`, or a folder with one and perhaps a `tokenizer_config.json` that names control tokens.

    `eos`, `bos` and `pad` name them otherwise; an end of document that nobody names is looked for by usual names. A
    start that the tokenizer itself does not put before a text is none.
    """
    where = epath.Path(path).expanduser()
    file = where / FILE if where.is_dir() else where
    content, config = content_of(file), file.parent / "tokenizer_config.json"
    named = read_json({config.name: config.read_bytes()}, config.name, str(config.parent)) if config.exists() else {}
    tokens = [(named.get(f"{role}_token"), given) for role, given in zip(ROLES, (eos, bos, pad), strict=True)]
    if not _starts_texts(content, named):
        tokens[1] = (None, bos)
    texts_of = [given or (old["content"] if isinstance(old, dict) else old) for old, given in tokens]
    return {FILE: content, CONTROLS: json.dumps(dict(zip(ROLES, texts_of, strict=True))).encode()}


def _starts_texts(content: bytes, named: Any) -> bool:
    """Say whether a tokenizer.json, or the configuration beside it, puts the token `bos` before a text."""
    bos = named.get("bos_token")
    text = bos["content"] if isinstance(bos, dict) else bos
    if isinstance(named.get("add_bos_token"), bool):
        return bool(named["add_bos_token"])
    try:
        steps = json.dumps((json.loads(content) or {}).get("post_processor"), ensure_ascii=False)
    except (ValueError, AttributeError, RecursionError):
        return False
    return bool(text) and json.dumps(text, ensure_ascii=False) in steps


def read_huggingface(files: Files) -> Tokenizer:
    """Return any tokenizer of the `tokenizers` library.

    The raw bytes of its ids are exact for byte-level and sentencepiece-like vocabularies; a WordPiece that starts a
    word counts the space before it.
    """
    engine = load_engine(files[FILE])
    spec = read_json(files, FILE, "tokenizer 'huggingface'")
    control = {token["id"] for token in spec.get("added_tokens", []) if token["special"]}
    plain = {token["id"] for token in spec.get("added_tokens", [])} - control
    kinds = json.dumps(spec.get("decoder"))
    piece_bytes = _piece_bytes(kinds)
    tokens = {i: token for token, i in engine.get_vocab(with_added_tokens=True).items()}
    vocabulary = [b""] * (max(tokens) + 1)
    for i, token in tokens.items():
        vocabulary[i] = b"" if i in control else token.encode() if i in plain else piece_bytes(token)
    joins = '"ByteLevel"' in kinds
    roles = read_json(files, CONTROLS, "tokenizer 'huggingface'")
    return Tokenizer(
        kind="huggingface",
        files=files,
        vocabulary=vocabulary,
        to_ids=_without_controls(engine_ids(engine), spec, control),
        to_text=join_bytes(vocabulary) if joins else lambda ids: engine.decode(ids, skip_special_tokens=True),
        joins=joins,
        added={t["content"]: _added(t) for t in spec.get("added_tokens", []) if t["content"]},
        **{f"{role}_id": _control_id(engine, role, roles[role]) for role in ROLES},
    )


def _added(token: Any) -> Added:
    return Added(token["id"], token["special"], bool(token.get("lstrip")), bool(token.get("rstrip")))


def _without_controls(to_ids: Encode, spec: Any, control: set[int]) -> Encode:
    """Return `to_ids` such that a model whose own vocabulary holds control tokens never finds them in a text.

    Where it does, the literal is cut after its first character and the parts are encoded one by one.
    """
    own = spec["model"].get("vocab", ())
    known = set(own) if isinstance(own, dict) else {entry[0] for entry in own}
    literals = {token["content"] for token in spec.get("added_tokens", []) if token["id"] in control} & known
    if not literals:
        return to_ids
    pattern = re.compile("|".join(f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in sorted(literals)))
    forbidden = np.array(sorted(control), np.int32)

    def safe(text: str) -> np.ndarray:
        ids = to_ids(text)
        if pattern.search(text) and np.isin(ids, forbidden).any():
            return np.concatenate([to_ids(part) for part in pattern.split(text)])
        return ids

    return safe


def _control_id(engine: Any, role: str, token: str | None) -> int | None:
    """Return the id of the control token, or None where there is none."""
    usual = (EOS, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]") if role == "eos" else ()
    found = [engine.token_to_id(name) for name in ((token,) if token else usual)]
    if token and found == [None]:
        raise UserError(f"data.tokenizer.{role}={token!r} is not in the tokenizer's vocabulary")
    return next((i for i in found if i is not None), None)


def _piece_bytes(decoder: str) -> Callable[[str], bytes]:
    """Return the map from a token to the raw bytes that it stands for, by the decoder that its JSON names."""
    if '"ByteLevel"' in decoder:
        to_byte = byte_characters()
        return lambda t: bytes(to_byte[c] for c in t) if all(c in to_byte for c in t) else t.encode()
    if '"WordPiece"' in decoder:
        return lambda t: t[2:].encode() if t.startswith("##") else b" " + t.encode()
    return _spaced_bytes


def _spaced_bytes(token: str) -> bytes:
    """Return the bytes of a sentencepiece piece: "▁" is a space, "<0x0A>" a byte."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE, " ").encode()


def make_sentencepiece(texts: Iterable[str], *, path: str) -> Files:
    """Read a sentencepiece `.model` file."""
    return {MODEL: content_of(path)}


def read_sentencepiece(files: Files) -> Tokenizer:
    """Return a sentencepiece model; its own normaliser applies, so that decoding gives the normalised text."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise UserError("data.tokenizer.name='sentencepiece' needs `pip install sentencepiece`") from None
    model = SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(files[MODEL])
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{MODEL} is not a sentencepiece model: {error}") from None
    silent = [model.IsControl(i) or model.IsUnknown(i) or model.IsUnused(i) for i in range(model.GetPieceSize())]
    return Tokenizer(
        kind="sentencepiece",
        files=files,
        vocabulary=[b"" if quiet else _spaced_bytes(model.IdToPiece(i)) for i, quiet in enumerate(silent)],
        to_ids=lambda text: np.array(model.EncodeAsIds(text), np.int32),
        to_text=model.DecodeIds,
        joins=False,
        added={model.IdToPiece(i): Added(i) for i in range(model.GetPieceSize()) if model.IsControl(i)},
        **{f"{role}_id": i if (i := getattr(model, f"{role}_id")()) >= 0 else None for role in ROLES},
    )


def make_tiktoken(texts: Iterable[str], *, path: str, pattern: str = "cl100k", eos_id: int | None = None) -> Files:
    """Read a `.tiktoken` file; `pattern` is one of `PATTERNS` or a regular expression; eos follows the last rank."""
    meta = {"pattern": PATTERNS.get(pattern, pattern), "eos_id": eos_id}
    return {RANKS: content_of(path), CONTROLS: json.dumps(meta).encode()}


def read_tiktoken(files: Files) -> Tokenizer:
    """Return a tiktoken encoding of ranks and a pattern.

    A text on which its regular expressions give up is encoded in pieces of 50,000 characters, with other ids at most
    at their seams.
    """
    try:
        import tiktoken
    except ImportError:
        raise UserError("data.tokenizer.name='tiktoken' needs `pip install tiktoken`") from None
    meta, ranks = read_json(files, CONTROLS, "tokenizer 'tiktoken'"), _ranks(files[RANKS])
    eos = max(ranks.values()) + 1 if meta["eos_id"] is None else meta["eos_id"]
    if eos in set(ranks.values()):
        raise UserError(f"data.tokenizer.eos_id={eos} is already the id of a token")
    vocabulary = [b""] * (max(*ranks.values(), eos) + 1)
    for piece, rank in ranks.items():
        vocabulary[rank] = piece
    try:
        engine = tiktoken.Encoding("file", pat_str=meta["pattern"], mergeable_ranks=ranks, special_tokens={EOS: eos})
    except ValueError as error:
        raise UserError(f"data.tokenizer.pattern={meta['pattern']!r} is not a regular expression: {error}") from None

    def to_ids(text: str) -> np.ndarray:
        try:
            return engine.encode_to_numpy(text, disallowed_special=()).view(np.int32)
        except ValueError:
            if len(text) <= PIECE_CHARACTERS:
                raise
            starts = range(0, len(text), PIECE_CHARACTERS)
            return np.concatenate([to_ids(text[i : i + PIECE_CHARACTERS]) for i in starts])

    return Tokenizer(
        kind="tiktoken", files=files, vocabulary=vocabulary, to_ids=to_ids, to_text=join_bytes(vocabulary), eos_id=eos,
        added={EOS: Added(eos)},
    )  # fmt: skip


def _ranks(content: bytes) -> dict[bytes, int]:
    """Return {bytes: rank} from lines of "base64 rank"."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(f"{RANKS}: line {number} is not 'base64 rank': {line[:40]!r}") from None
    if any(bytes([i]) not in ranks for i in range(256)) or len(set(ranks.values())) != len(ranks):
        raise UserError(f"{RANKS}: the ranks repeat or do not cover all 256 bytes")
    return ranks


HUGGINGFACE = Kind(make_huggingface, read_huggingface, trains=False)
SENTENCEPIECE = Kind(make_sentencepiece, read_sentencepiece, trains=False)
TIKTOKEN = Kind(make_tiktoken, read_tiktoken, trains=False)
