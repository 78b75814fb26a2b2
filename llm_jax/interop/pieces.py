"""sentencepiece models as tokenizer.json of the `tokenizers` library: unigram (Kudo 2018) and scored pairs alike."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_jax.core.table import UserError
from llm_jax.text.adapters.files import SPACE
from llm_jax.text.adapters.sentencepiece import MODEL
from llm_jax.text.base import Tokenizer

UNIGRAM, PAIRS = 1, 2  # model types of sentencepiece's protocol
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of a piece, as in GGUF too


def from_sentencepiece(tokenizer: Tokenizer) -> str:
    """Return tokenizer.json of a sentencepiece model."""
    model = model_of(tokenizer)
    return scored(unigram=model.pop("kind") == UNIGRAM, start=tokenizer.bos_id, **model)


def model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the arguments of `scored`, and `kind`: the type of a sentencepiece model."""
    proto = _fields(tokenizer.files[MODEL])
    pieces = [_fields(raw) for raw in proto.get(1, [])]
    trainer, normalizer = _fields(_last(proto, 2, b"")), _fields(_last(proto, 3, b""))
    kind = _last(trainer, 3, UNIGRAM)
    if kind not in (UNIGRAM, PAIRS):
        raise UserError(f"a sentencepiece model of type {kind} cannot be exported; unigram and bpe can")
    return {
        "kind": kind,
        "tokens": [_last(p, 1, b"").decode() for p in pieces],
        "scores": [_float(_last(p, 2, bytes(4))) for p in pieces],
        "types": [_last(p, 3, NORMAL) for p in pieces],
        "prefix": bool(_last(normalizer, 3, 1)),
        "charsmap": _last(normalizer, 2, b""),
        "squeeze": bool(_last(normalizer, 4, 1)),
    }


def scored(
    *,
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    unigram: bool,
    prefix: bool,
    charsmap: bytes = b"",
    squeeze: bool = False,
    start: int | None = None,
) -> str:
    """Return tokenizer.json of pieces with scores.

    Args:
        tokens, scores, types: one each an id; "▁" is a space, types are those of the module.
        unigram: the most probable split; otherwise pairs are merged, best score first.
        prefix: a text begins with a space.
        charsmap: sentencepiece's compiled normalisation. squeeze: runs of spaces become one. start: the
            id that comes before a text.
    """
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, processors
    from tokenizers import Tokenizer as Engine

    unknown = list(types).index(UNKNOWN) if UNKNOWN in types else None
    fallback = BYTE in types
    model: Any
    if unigram:
        model = models.Unigram(list(zip(tokens, scores, strict=True)), unknown, fallback)
    else:
        vocab = {token: i for i, token in enumerate(tokens)}
        plain = {t: i for t, i in vocab.items() if types[i] in (NORMAL, USER)}
        name = None if unknown is None else tokens[unknown]
        model = models.BPE(vocab, merges(plain, scores), unk_token=name, fuse_unk=True, byte_fallback=fallback)
    engine = Engine(model)
    steps: list[Any] = [normalizers.Precompiled(charsmap)] if charsmap else []
    if squeeze:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if prefix else []
    engine.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    back: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    engine.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    engine.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types, strict=True) if kind == USER])
    engine.add_special_tokens([t for t, kind in zip(tokens, types, strict=True) if kind in (CONTROL, UNKNOWN)])
    if start is not None:
        token = tokens[start]
        engine.post_processor = processors.TemplateProcessing(f"{token} $A", special_tokens=[(token, start)])
    return str(engine.to_str())


def merges(vocab: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return all pairs of pieces that make a piece, the best score first."""
    found = [
        (-scores[i], vocab[token[:cut]], vocab[token[cut:]], token[:cut], token[cut:])
        for token, i in vocab.items()
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def _last(fields: Mapping[int, list[Any]], number: int, default: Any) -> Any:
    return fields[number][-1] if number in fields else default


def _float(raw: bytes) -> float:
    return float(struct.unpack("<f", raw)[0])


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Return {number: values} of a protocol buffer: ints, or bytes for everything else.

    Raises:
        UserError: it is not one.
    """
    found: dict[int, list[Any]] = {}
    try:
        for number, value in _walk(memoryview(message)):
            found.setdefault(number, []).append(value)
    except (IndexError, ValueError) as error:
        raise UserError(f"{MODEL} is not a sentencepiece model: {error}") from None
    return found


def _walk(data: memoryview) -> Iterator[tuple[int, Any]]:
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            yield number, varint()
            continue
        size = varint() if wire == 2 else {1: 8, 5: 4}.get(wire, -1)
        if size < 0 or at + size > len(data):
            raise ValueError(f"field {number} has no end")
        yield number, bytes(data[at : at + size])
        at += size
