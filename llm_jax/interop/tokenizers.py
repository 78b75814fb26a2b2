"""Our tokenizers as files that `transformers.AutoTokenizer` loads with no code of ours, giving the same ids."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from llm_jax.core.table import UserError, lookup
from llm_jax.text.adapters.files import CONTROLS
from llm_jax.text.base import Tokenizer, read_json
from llm_jax.text.bpe import EOS, FILE, byte_characters
from llm_jax.text.normalize import REPLACEMENT

CONFIG = "tokenizer_config.json"
PROBES = (
    "Fellow citizens of the Senate, it's 1790!\n\n  He'll say: 'no'.\t#3,141,592\r\n  ",
    "naïve café, Straße, 東京の人口は何人ですか。 привет мир  🙂👩‍👩‍👧 \u00a0x\u3000y  end  ",
    "def f(x):\n    return {x: [1, 22, 333, 4444]}  # ok\n\n\n",
    "A  b   c    d ",
)

ENGINES = {
    "bytes": "llm_jax.interop.tokenizers:from_bytes",
    "characters": "llm_jax.interop.tokenizers:from_characters",
    "bpe": "llm_jax.interop.tokenizers:from_json",
    "huggingface": "llm_jax.interop.tokenizers:from_json",
    "sentencepiece": "llm_jax.interop.pieces:from_sentencepiece",
    "tiktoken": "llm_jax.interop.tokenizers:from_tiktoken",
}
"""Kind of tokenizer -> function that returns tokenizer.json, as text."""


Frame = tuple[Sequence[int], Sequence[int]]


def files(
    tokenizer: Tokenizer, *, context: int, frame: Frame = ((), ()), pads: bool = True, typed: bool = True
) -> dict[str, bytes]:
    """Return {file name: content} of a tokenizer for `transformers`.

    Args:
        tokenizer: of any kind.
        context: the longest text of the model, in tokens.
        frame: the ids that are put before a text and after it (and after a second one), unless it puts some itself.
        pads: whether its token of padding is said.
        typed: whether the model is told which of two texts a token is of.

    Raises:
        UserError: it cannot be expressed so that it gives the same ids.
    """
    text = lookup(ENGINES, tokenizer.kind, "tokenizer")(tokenizer)
    _check(tokenizer, text)
    names = {i: token for token, i in _engine(text).get_vocab(with_added_tokens=True).items()}
    if any(frame) and tokenizer.frame == ((), ()):
        text = framed(text, *([(names[i], i) for i in part] for part in frame))
    roles = {"eos": tokenizer.eos_id, "bos": tokenizer.bos_id, "pad": tokenizer.pad_id if pads else None}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": names[i] for role, i in roles.items() if i is not None},
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        **({} if typed else {"model_input_names": ["input_ids", "attention_mask"]}),
    }
    return {FILE: text.encode(), CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()}


def framed(text: str, before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]) -> str:
    """Return a tokenizer.json that puts tokens (name, id) before a text and after it, and after a second one."""
    from tokenizers import processors

    engine = _engine(text)
    single = [*(f"{name}:0" for name, _ in before), "$A:0", *(f"{name}:0" for name, _ in after)]
    pair = [*single, "$B:1", *(f"{name}:1" for name, _ in after)]
    template = processors.TemplateProcessing(single, pair, list({*before, *after}))
    kept = [] if engine.post_processor is None else [engine.post_processor]
    engine.post_processor = processors.Sequence([*kept, template])
    return str(engine.to_str())


def _engine(text: str) -> Any:
    from tokenizers import Tokenizer as Engine

    return Engine.from_str(text)


def _check(tokenizer: Tokenizer, text: str) -> None:
    """Refuse an expression that splits the probes otherwise than the tokenizer does."""
    engine = _engine(text)
    for probe in PROBES:
        if engine.encode(probe, add_special_tokens=False).ids != tokenizer.encode(probe).tolist():
            raise UserError(
                f"this {tokenizer.kind} tokenizer cannot be written as a {FILE} that gives the same ids: {probe!r} "
                "comes out otherwise; --no_tokenizer exports the model alone"
            )


def from_json(tokenizer: Tokenizer) -> str:
    """Return the file that the tokenizer is made of; one that cuts or pads texts, without that."""
    text = tokenizer.files[FILE].decode()
    spec = json.loads(text)
    if not (spec.get("truncation") or spec.get("padding")):
        return text
    return json.dumps(spec | {"truncation": None, "padding": None}, ensure_ascii=False)


def from_bytes(tokenizer: Tokenizer) -> str:
    """Return byte-level pairs with no merge: each byte is its own id."""
    return _byte_level({c: i for c, i in byte_characters().items()}, [], None, {EOS: 256})


def from_characters(tokenizer: Tokenizer) -> str:
    """Return a word-level model of words of one character; U+FFFD is the unknown one, as here."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Engine

    known = [piece.decode() for piece in tokenizer.vocabulary[:-2]]
    vocab = {character: i for i, character in enumerate([*known, REPLACEMENT, EOS])}
    engine = Engine(models.WordLevel(vocab, unk_token=REPLACEMENT))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    engine.decoder = decoders.Fuse()
    engine.add_special_tokens([EOS])
    return str(engine.to_str())


def from_tiktoken(tokenizer: Tokenizer) -> str:
    """Return byte-level pairs: each token is the last merge of its own bytes by the ranks below it."""
    to_character = {b: c for c, b in byte_characters().items()}
    ranks = {piece: i for i, piece in enumerate(tokenizer.vocabulary) if piece}

    def shown(piece: bytes) -> str:
        return "".join(to_character[b] for b in piece)

    merges = [(shown(a), shown(b)) for a, b in (halves(piece, ranks) for piece in ranks if len(piece) > 1)]
    pattern = read_json(tokenizer.files, CONTROLS, "tokenizer 'tiktoken'")["pattern"]
    vocab = {shown(piece): i for piece, i in ranks.items()}
    return _byte_level(vocab, merges, oniguruma(pattern), {EOS: tokenizer.eos_id or 0})


def halves(piece: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two parts whose merge makes a token, when its bytes are merged by ranks below its own."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        found = [(ranks.get(a + b, 1 << 62), i) for i, (a, b) in enumerate(pairwise(parts))]
        rank, i = min(found)
        if rank >= ranks[piece]:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    if len(parts) != 2:
        raise UserError(f"this tiktoken vocabulary cannot be written as {FILE}: {piece!r} is no merge of two tokens")
    return parts[0], parts[1]


def oniguruma(pattern: str) -> str:
    """Return a tiktoken pattern in the dialect of `tokenizers`: no possessive repeats, the end of the text as `\\z`."""
    return re.sub(r"([+*?]|\{\d+(?:,\d*)?\})\+", r"\1", pattern).replace("$", r"\z")


def _byte_level(
    vocab: Mapping[str, int], merges: list[tuple[str, str]], pattern: str | None, controls: Mapping[str, int]
) -> str:
    """Return byte-pair encoding over the characters that stand for bytes."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Engine

    engine = Engine(models.BPE({**vocab, **controls}, merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    engine.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(list(controls))
    return str(engine.to_str())
