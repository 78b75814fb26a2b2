"""Any tokenizer of Hugging Face's `tokenizers` library, from its tokenizer.json."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from etils import epath

from llm_jax.core.table import UserError
from llm_jax.text.adapters.files import CONTROLS, ROLES, content_of, spaced_bytes
from llm_jax.text.base import Added, Files, Kind, Tokenizer, join_bytes, read_json
from llm_jax.text.bpe import EOS, FILE, byte_characters, engine_ids, load_engine

Encode = Callable[[str], np.ndarray]


def make(
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
    if not isinstance(named, dict):
        raise UserError(f"{config} must be a JSON object, with eos_token and the like")
    tokens = {role: _text(named.get(f"{role}_token"), f"{config}: {role}_token") for role in ROLES}
    if not _starts_texts(content, named, tokens["bos"]):
        tokens["bos"] = None
    texts_of = {role: given or tokens[role] for role, given in zip(ROLES, (eos, bos, pad), strict=True)}
    return {FILE: content, CONTROLS: json.dumps(texts_of).encode()}


def _text(token: Any, where: str) -> str | None:
    """Return the text of a token, which is one or an object with one as its `content`."""
    text = token.get("content", token) if isinstance(token, dict) else token
    if not isinstance(text, str | None):
        raise UserError(f"{where}={token!r} is no token; write its text, or null")
    return text


def _starts_texts(content: bytes, named: Any, text: str | None) -> bool:
    """Say whether a tokenizer.json, or the configuration beside it, puts the token `text` before a text."""
    if isinstance(named.get("add_bos_token"), bool):
        return bool(named["add_bos_token"])
    try:
        steps = json.dumps((json.loads(content) or {}).get("post_processor"), ensure_ascii=False)
    except (ValueError, AttributeError, RecursionError):
        return False
    return bool(text) and json.dumps(text, ensure_ascii=False) in steps


def read(files: Files) -> Tokenizer:
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
    if not tokens:
        raise UserError(f"{FILE} has no token in its vocabulary; give the file of a trained tokenizer")
    vocabulary = [b""] * (max(tokens) + 1)
    for i, token in tokens.items():
        vocabulary[i] = b"" if i in control else token.encode() if i in plain else piece_bytes(token)
    joins = '"ByteLevel"' in kinds
    roles = read_json(files, CONTROLS, "tokenizer 'huggingface'")
    try:
        frame, between = _frame(engine), _between(engine)
    except Exception:  # "a" is not in its vocabulary, and nothing stands for what is not
        frame, between = ((), ()), None
    return Tokenizer(
        kind="huggingface",
        files=files,
        vocabulary=vocabulary,
        to_ids=_without_controls(engine_ids(engine), spec, control),
        to_text=join_bytes(vocabulary) if joins else lambda ids: engine.decode(ids, skip_special_tokens=True),
        joins=joins,
        added={t["content"]: _added(t) for t in spec.get("added_tokens", []) if t["content"]},
        frame=frame,
        between=between,
        **{f"{role}_id": _control_id(engine, role, roles[role]) for role in ROLES},
    )


def _frame(engine: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the tokenizer's own post-processor puts before and after a text."""
    bare, framed = (engine.encode("a", add_special_tokens=special) for special in (False, True))
    inside = [i for i, control in enumerate(framed.special_tokens_mask) if not control]
    if len(inside) != len(bare.ids) or not inside:
        return (), ()
    return tuple(framed.ids[: inside[0]]), tuple(framed.ids[inside[-1] + 1 :])


def _between(engine: Any) -> tuple[int, ...] | None:
    """Return the ids that the post-processor puts between two texts, None where they cannot be told."""
    found, bare = engine.encode("a", "a"), engine.encode("a", add_special_tokens=False)
    inside = [i for i, control in enumerate(found.special_tokens_mask) if not control]
    if len(inside) != 2 * len(bare.ids) or not inside:
        return None
    return tuple(found.ids[inside[len(bare.ids) - 1] + 1 : inside[len(bare.ids)]])


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
        return bytes_of
    if '"WordPiece"' in decoder:
        return lambda t: t[2:].encode() if t.startswith("##") else b" " + t.encode()
    return spaced_bytes


FOREIGN = 0x100  # in no Latin-1
TO_LATIN = dict.fromkeys(range(256), FOREIGN) | {ord(c): byte for c, byte in byte_characters().items()}


def bytes_of(token: str) -> bytes:
    """Return the bytes of which each character stands for one; a token with any other character is plain text."""
    try:
        return token.translate(TO_LATIN).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


HUGGINGFACE = Kind(make, read, trains=False)
