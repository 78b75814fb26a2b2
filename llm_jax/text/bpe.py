"""Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019), trained with `tokenizers`.

Encoding runs on tiktoken's engine where its ids are *proven* equal to those of the trained tokenizer, else on
`tokenizers`. The two engines differ in one thing: `tokenizers` merges the listed pairs, tiktoken any pair whose join
is in the vocabulary; both take the lowest rank first, leftmost first. Suppose that every entry of the vocabulary,
merged by the listed pairs alone, ends as itself, and that ranks follow the order of the list. Take the first step at
which tiktoken merges an unlisted pair (x, y). No merge has crossed the ends of that span before, so the entry xy,
merged alone, goes through the same steps and is stuck at (x, y): a contradiction. `provably_equal` checks the premise.
What remains is the pattern, which both run with Unicode tables of their own; the tests compare them over all scripts.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.text.base import Added, Files, Kind, Tokenizer, join_bytes, read_json
from llm_jax.text.normalize import well_formed

FILE = "tokenizer.json"
EOS = "<|endoftext|>"

# Words with a leading space or mark, up to three digits, punctuation with its newlines, newlines, other white space:
# the split that GPT-4's tokenizer made common, in a form that Oniguruma and fancy-regex read alike.
PATTERN = (
    r"'(?:[sdmtSDMT]|ll|LL|ve|VE|re|RE)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_characters() -> dict[str, int]:
    """Return GPT-2's printable character of each byte, as {character: byte}."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def make(texts: Iterable[str], *, vocab_size: int = 4096) -> Files:
    """Train on `texts`; ids are the 256 bytes, then the merges in order, then the end of document.

    The result is a function of the texts' multiset alone.

    Raises:
        UserError: `vocab_size` leaves no room for the bytes and the end of document.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Engine

    if vocab_size < 257:
        raise UserError(
            f"data.tokenizer.vocab_size={vocab_size} is too small; 256 bytes and an end of document need 257"
        )
    engine = Engine(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), byte_level])
    engine.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator(map(well_formed, texts), trainer)
    engine.add_special_tokens([EOS])
    return {FILE: engine.to_str().encode()}


def read(files: Files) -> Tokenizer:
    """Return the trained tokenizer, on the faster engine where that is proven to give the same ids."""
    spec = read_json(files, FILE, "tokenizer 'bpe'")
    to_byte = byte_characters()
    ids: dict[str, int] = spec["model"]["vocab"]
    ranks = {bytes(to_byte[c] for c in token): rank for token, rank in ids.items()}
    eos = len(ranks)  # added after the merges
    vocabulary = [*sorted(ranks, key=ranks.__getitem__), b""]
    engine = load_engine(files[FILE])
    return Tokenizer(
        kind="bpe",
        files=files,
        vocabulary=vocabulary,
        to_ids=encoder(engine, spec["model"], ranks, eos),
        to_text=join_bytes(vocabulary),
        eos_id=eos,
        added={EOS: Added(eos)},
    )


def load_engine(content: bytes) -> Any:
    """Return `tokenizers`' own object, which takes special tokens in a text for plain text.

    Raises:
        UserError: the content is not a tokenizer of that library.
    """
    from tokenizers import Tokenizer as Engine

    try:
        engine = Engine.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{FILE} is not a tokenizer that the `tokenizers` library can read: {error}") from None
    engine.encode_special_tokens = True
    engine.no_truncation()
    engine.no_padding()
    return engine


def engine_ids(engine: Any) -> Callable[[str], np.ndarray]:
    """Return text -> int32 ids on `tokenizers`' engine; UserError where nothing stands for what its model lacks."""

    def to_ids(text: str) -> np.ndarray:
        try:
            return np.array(engine.encode(text, add_special_tokens=False).ids, np.int32)
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"the tokenizer cannot encode {text[:40]!r}: {error}") from None

    return to_ids


def encoder(engine: Any, model: Any, ranks: dict[bytes, int], eos: int) -> Callable[[str], np.ndarray]:
    """Return text -> int32 ids: tiktoken's engine if it is installed and proven equal, else `tokenizers`'."""
    slow = engine_ids(engine)
    try:
        import tiktoken
    except ImportError:
        return slow
    if not provably_equal(engine, model["vocab"], model["merges"]):
        return slow
    # Without any special token tiktoken's search for them matches everywhere and halves the speed.
    fast = tiktoken.Encoding("bpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={EOS: eos})

    def to_ids(text: str) -> np.ndarray:
        try:
            return fast.encode_to_numpy(text, disallowed_special=()).view(np.int32)
        except ValueError:  # its regular expressions give up on a run of a million spaces
            return slow(text)

    return to_ids


def provably_equal(engine: Any, vocab: dict[str, int], merges: Sequence[Any]) -> bool:
    """Return whether ranks follow the merges and each entry, merged alone, ends as itself (see the module)."""
    joined = ["".join(pair if isinstance(pair, list) else pair.split(" ")) for pair in merges]
    in_order = len(vocab) == 256 + len(merges) and all(vocab.get(t) == 256 + i for i, t in enumerate(joined))
    tokenize = engine.model.tokenize
    return in_order and all([piece.id for piece in tokenize(token)] == [i] for token, i in vocab.items())


BPE = Kind(make, read, trains=True)
