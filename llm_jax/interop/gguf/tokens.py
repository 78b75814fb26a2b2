"""Tokenizers in GGUF's metadata, both ways: byte-level pairs ("gpt2") and sentencepiece's scored pairs ("llama")."""

import json
from collections.abc import Mapping
from typing import Any

from llm_jax.core.table import UserError, choices
from llm_jax.interop import tokenizers
from llm_jax.interop.gguf import scores
from llm_jax.interop.pieces import CONTROL, NORMAL, PAIRS, UNUSED, USER, model_of, scored
from llm_jax.text.adapters import huggingface
from llm_jax.text.adapters.files import CONTROLS
from llm_jax.text.adapters.tiktoken import PATTERNS
from llm_jax.text.base import Tokenizer
from llm_jax.text.bpe import FILE, PATTERN, load_engine

AT = "tokenizer.ggml."
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
DIGITS = {"type": "Digits", "individual_digits": True}


def _level(regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def _split(pattern: str) -> list[dict[str, Any]]:
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, _level(False)]


SPLITS = {
    "gpt-2": [_level(True)],
    "smollm": [DIGITS, _level(True)],
    "llama-bpe": _split(LLAMA3),
    "qwen2": _split(QWEN2),
}
"""`tokenizer.ggml.pre` -> the steps of `tokenizers` that split a text so."""

SAME = {
    PATTERN: "llama-bpe",
    LLAMA3: "llama-bpe",
    QWEN2: "qwen2",
    tokenizers.oniguruma(PATTERNS["gpt2"]): "gpt-2",
    tokenizers.oniguruma(PATTERNS["cl100k"]): "llama-bpe",
    tokenizers.oniguruma(PATTERNS["o200k"]): "gpt-4o",
}
"""Pattern of a split -> the `pre` under which llama.cpp splits alike."""


def tokenizer_of(metadata: Mapping[str, Any]) -> tuple[Tokenizer | None, tuple[str, ...]]:
    """Return the tokenizer that the metadata hold, if it is of a kind that is read here, and notes."""
    model, tokens = metadata.get(f"{AT}model"), metadata.get(f"{AT}tokens")
    if tokens is None:
        return None, ()
    types = metadata.get(f"{AT}token_type") or [NORMAL] * len(tokens)
    if model == "gpt2":
        pre = metadata.get(f"{AT}pre", "gpt-2")
        if pre not in SPLITS:
            return None, (f"its tokenizer splits texts by {pre!r}, which is not read here; {choices(SPLITS)} are",)
        text = _pairs(tokens, types, metadata.get(f"{AT}merges") or [], pre)
    elif model == "llama":
        said = metadata.get(f"{AT}scores") or [0.0] * len(tokens)
        prefix = bool(metadata.get(f"{AT}add_space_prefix", True))
        start = metadata.get(f"{AT}bos_token_id") if metadata.get(f"{AT}add_bos_token", True) else None
        text = scored(tokens=tokens, scores=said, types=types, unigram=False, prefix=prefix, start=start)
    else:
        return None, (f"its tokenizer is of the kind {model!r}, which is not read here; gpt2 and llama are",)
    starts = metadata.get(f"{AT}add_bos_token", model == "llama")
    keys = {"eos": "eos_token_id", "bos": "bos_token_id" if starts else "", "pad": "padding_token_id"}
    ids = {role: metadata.get(AT + key) for role, key in keys.items()}
    roles = {role: tokens[i] if isinstance(i, int) and i < len(tokens) else None for role, i in ids.items()}
    return huggingface.read({FILE: text.encode(), CONTROLS: json.dumps(roles).encode()}), ()


ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Keys of the ids that end a text, a turn, a message."""


def generation_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return generation_config.json as far as the metadata say it: all ids that end a text, if there are several.

    And the id that begins one, if the tokenizer puts it before none (its own start says all, where it does).
    """
    found = [metadata[AT + key] for key in ENDS if isinstance(metadata.get(AT + key), int)]
    ids, start = list(dict.fromkeys(found)), metadata.get(f"{AT}bos_token_id")
    named: dict[str, Any] = {"eos_token_id": ids} if len(ids) > 1 else {}
    if isinstance(start, int) and metadata.get(f"{AT}add_bos_token") is False:
        named["bos_token_id"] = start
    return {"_from_model_config": True, **named} if named else {}


def _pairs(tokens: list[str], types: list[int], merges: list[str], pre: str) -> str:
    """Return tokenizer.json of byte-level pairs."""
    added = [
        {
            "id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": kind == CONTROL,
        }
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER)
    ]  # fmt: skip
    spec = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": SPLITS[pre]}, "post_processor": None,
        "decoder": _level(True),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": pre == "llama-bpe",
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip
    return json.dumps(spec, ensure_ascii=False)


def metadata_of(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """Return the metadata that hold a tokenizer, without their prefix; rows that no id has are filled up.

    Raises:
        UserError: the format has no kind like it.
    """
    found = _model_metadata(tokenizer) if tokenizer.kind == "sentencepiece" else _file_metadata(tokenizer)
    missing = range(len(found["tokens"]), vocab_size)
    found["tokens"] += [f"[PAD{i}]" for i in missing]
    found["token_type"] += [UNUSED for _ in missing]
    if "scores" in found:
        found["scores"] += [-1e4 for _ in missing]
    ids = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id, "padding_token_id": tokenizer.pad_id}
    found |= {key: i for key, i in ids.items() if i is not None}
    return found | {"add_bos_token": tokenizer.bos_id is not None, "add_eos_token": False}


def _file_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    """Of what can be written as tokenizer.json: byte-level pairs, or pieces that show their spaces."""
    text = tokenizers.files(tokenizer, context=0)[FILE]
    spec = json.loads(text)
    model, level = spec["model"], '"ByteLevel"' in json.dumps(spec.get("decoder"))
    if model.get("type") != "BPE" or not model["merges"] or not (level or scores.spaced(spec)):
        raise _cannot(tokenizer, "it is of neither byte-level pairs nor sentencepiece's")
    tokens, types = _listed(spec)
    if level:
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
        pre = _pre(tokenizer, spec["pre_tokenizer"])
        return {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": merges}
    try:
        return scores.metadata(spec, load_engine(text), tokens, types)
    except scores.Unlike as error:
        raise _cannot(tokenizer, str(error)) from None


def _listed(spec: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Return the token and the type of each id."""
    tokens = {i: token for token, i in spec["model"]["vocab"].items()}
    special = {t["id"]: t["special"] for t in spec["added_tokens"]}
    tokens |= {t["id"]: t["content"] for t in spec["added_tokens"]}
    size = range(max(tokens) + 1)
    kinds = [CONTROL if special.get(i) else USER if i in special else NORMAL for i in size]
    return [tokens.get(i, f"[PAD{i}]") for i in size], [kinds[i] if i in tokens else UNUSED for i in size]


def _pre(tokenizer: Tokenizer, steps: Any) -> str:
    """Return llama.cpp's name of a way to split a text."""
    listed = steps.get("pretokenizers", [steps]) if steps else []
    kinds = [step["type"] for step in listed]
    patterns = [step["pattern"].get("Regex", "") for step in listed if step["type"] == "Split"]
    if kinds == ["Split", "ByteLevel"] and patterns[0] in SAME and not listed[1].get("use_regex", True):
        return SAME[patterns[0]]
    digits = kinds[:1] == ["Digits"] and listed[0].get("individual_digits")
    level = kinds[-1:] == ["ByteLevel"] and listed[-1].get("use_regex", True) and not listed[-1]["add_prefix_space"]
    if level and len(kinds) == 1 + bool(digits):
        return "smollm" if digits else "gpt-2"
    raise _cannot(tokenizer, f"llama.cpp has no name for how it splits a text, {patterns or kinds}")


def _model_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    model = model_of(tokenizer)
    if model.pop("kind") != PAIRS or model["squeeze"]:
        raise _cannot(tokenizer, "only sentencepiece's scored pairs that keep their spaces are")
    return {
        "model": "llama", "pre": "default", "tokens": list(model["tokens"]), "scores": list(model["scores"]),
        "token_type": list(model["types"]), "add_space_prefix": model["prefix"],
    }  # fmt: skip


def _cannot(tokenizer: Tokenizer, why: str) -> UserError:
    return UserError(
        f"this {tokenizer.kind} tokenizer cannot be written into GGUF: {why}; "
        "export with --format=hf, or the model alone with --no_tokenizer"
    )
