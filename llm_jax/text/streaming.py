"""Text from ids that arrive one at a time, without ever showing half a character."""

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence

from llm_jax.text.base import Tokenizer
from llm_jax.text.normalize import REPLACEMENT

HELD_BACK = 16  # ids; a character has at most 4 bytes, so a longer broken end is broken for good


def stream(tokenizer: Tokenizer, ids: Iterable[int], before: Sequence[int] = ()) -> Iterator[str]:
    """Yield one piece of text for each id, "" while a character is incomplete, and last what was held back.

    The pieces joined are `tokenizer.decode` of all ids; after the ids `before`, what they add to the text of those.
    """
    push = decoder(tokenizer, before)
    for i in ids:
        yield push(i)
    yield push(None)


def decoder(tokenizer: Tokenizer, before: Sequence[int] = ()) -> Callable[[int | None], str]:
    """Return `push(id) -> piece`; `push(None)` ends the text and gives what was held back.

    before: ids that the text follows, which tell whether it begins with a space.
    """
    return _joining(tokenizer) if tokenizer.joins else _redecoding(tokenizer, before)


def _joining(tokenizer: Tokenizer) -> Callable[[int | None], str]:
    """Byte-level vocabularies: feed the bytes to an incremental UTF-8 decoder."""
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    return lambda i: utf8.decode(b"" if i is None else tokenizer.vocabulary[i], final=i is None)


def _redecoding(tokenizer: Tokenizer, before: Sequence[int]) -> Callable[[int | None], str]:
    """Other vocabularies: decode from the last safe id and show what is new, holding back a broken end.

    The ids from `start` to `shown` are context: they tell whether a space comes before the next piece.
    """
    ids = list(before[-HELD_BACK:])
    start, shown = 0, len(ids)

    def push(i: int | None) -> str:
        nonlocal start, shown
        ids.extend([] if i is None else [i])
        old, new = tokenizer.decode(ids[start:shown]), tokenizer.decode(ids[start:])
        waiting = i is not None and len(ids) - shown <= HELD_BACK
        if waiting and (new.endswith(REPLACEMENT) or len(new) <= len(old)):
            return ""
        start, shown = shown, len(ids)
        return new[len(old) :]

    return push
