"""Pieces with visible spaces in GGUF: they come back, and what llama.cpp would split otherwise is refused."""

import pytest
import spaced

from llm_jax.core.table import UserError
from llm_jax.interop.gguf import tokens


@pytest.mark.parametrize("style", spaced.STYLES)
def test_pieces_come_back_from_the_metadata(tmp_path, style):
    made = spaced.tokenizer(spaced.specification(style, tmp_path), tmp_path)
    found = tokens.metadata_of(made, 400)
    assert found["model"] == "llama" and found["add_space_prefix"] == (style == "llama")
    assert len(found["tokens"]) == len(found["scores"]) == len(found["token_type"]) == 400
    again, notes = tokens.tokenizer_of({tokens.AT + key: value for key, value in found.items()})
    assert not notes and (again.eos_id, again.bos_id) == (made.eos_id, made.bos_id)
    for text in (*spaced.TEXTS, "a <table>  b", "\x01 unseen: ‰"):
        ids = made.encode(text).tolist()
        assert again.encode(text).tolist() == ids
        assert again.decode(ids) == made.decode(ids)


def without_the_pairs_of(spec, piece):
    spec["model"]["merges"] = [pair for pair in spec["model"]["merges"] if "".join(pair) != piece]


def with_apart_pairs(spec):
    """One of the pairs of a piece that has two comes last."""
    merges = spec["model"]["merges"]
    joined = ["".join(pair) for pair in merges]
    first = next(i for i, piece in enumerate(joined[:-1]) if joined[i + 1] == piece)
    merges.append(merges.pop(first))


WRONG = {
    "the piece '▁the' is not what its pairs make": lambda spec: without_the_pairs_of(spec, "▁the"),
    "the pairs that make .* do not follow each other": with_apart_pairs,
    "does not become its bytes": lambda spec: spec["model"].update(byte_fallback=False),
    "takes words past its pairs": lambda spec: spec["model"].update(ignore_merges=True),
    r"no word for its steps \['NFC'": lambda spec: spec["normalizer"]["normalizers"].insert(0, {"type": "NFC"}),
    r"no word for its steps \['Metaspace'\]": lambda spec: spec.update(
        normalizer=None,
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False},
    ),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_llama_cpp_would_split_otherwise_is_refused(tmp_path, told):
    spec = spaced.specification("llama", tmp_path)
    WRONG[told](spec)
    with pytest.raises(UserError, match=f"cannot be written into GGUF: .*{told}.*--no_tokenizer"):
        tokens.metadata_of(spaced.tokenizer(spec, tmp_path), 400)
