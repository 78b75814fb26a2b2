"""Our tokenizers in other programs' files: the same ids for any text, and the same text back."""

import base64
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.core.table import UserError
from llm_jax.interop import tokenizers
from llm_jax.interop.gguf import tokens as gguf_tokens
from llm_jax.text import tokenizers as ours
from llm_jax.text.bpe import EOS

TEXTS = [
    "Fellow citizens of the Senate, it's 1790; we're told that he'll say 'no'.\n\n",
    "  The year 12345 was 3.14 good\t\n",
    "naïve café, Straße. 東京 привет мир 🙂", "and the people of the union in that it is was for on as his " * 3,
]  # fmt: skip
KINDS = ["bytes", "characters", "bpe", "huggingface", "sentencepiece bpe", "sentencepiece unigram", "tiktoken"]


def sentencepiece(kind):
    import sentencepiece as library

    out = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_writer=out, vocab_size=330 if kind == "bpe" else 340, model_type=kind,
        byte_fallback=True, character_coverage=1.0, hard_vocab_limit=False, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=kind != "bpe",
    )  # fmt: skip
    return out.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tokenizer of each kind."""
    folder = tmp_path_factory.mktemp("tokenizers")
    bpe = ours.build("bpe", {"vocab_size": 300}, lambda: TEXTS)
    (folder / "tokenizer.json").write_bytes(bpe.files["tokenizer.json"])
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS}))
    for kind in ("bpe", "unigram"):
        (folder / f"{kind}.model").write_bytes(sentencepiece(kind))
    ranks = [piece for piece in bpe.vocabulary if piece]
    lines = [base64.b64encode(piece).decode() + f" {i}" for i, piece in enumerate(ranks)]
    (folder / "ranks.tiktoken").write_text("\n".join(lines))
    return {
        "bytes": ours.build("bytes"),
        "characters": ours.build("characters", {}, lambda: TEXTS),
        "bpe": bpe,
        "huggingface": ours.build("huggingface", {"path": str(folder)}),
        "sentencepiece bpe": ours.build("sentencepiece", {"path": str(folder / "bpe.model")}),
        "sentencepiece unigram": ours.build("sentencepiece", {"path": str(folder / "unigram.model")}),
        "tiktoken": ours.build("tiktoken", {"path": str(folder / "ranks.tiktoken"), "eos_id": 305}),
    }


def engine(tokenizer):
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizers.files(tokenizer, context=64)["tokenizer.json"].decode())


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_file_gives_the_same_ids_and_texts(made, kind):
    tokenizer, foreign = made[kind], engine(made[kind])

    @settings(max_examples=60, deadline=None)
    @given(st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(TEXTS))
    def same(text):
        ids = tokenizer.encode(text).tolist()
        assert foreign.encode(text, add_special_tokens=False).ids == ids
        assert foreign.decode(ids) == tokenizer.decode(ids)

    same()


@pytest.mark.parametrize("kind", KINDS)
def test_the_control_tokens_are_named(made, kind):
    tokenizer, foreign = made[kind], engine(made[kind])
    config = json.loads(tokenizers.files(tokenizer, context=64)["tokenizer_config.json"])
    for role in ("eos", "bos", "pad"):
        wanted = getattr(tokenizer, f"{role}_id")
        assert (foreign.token_to_id(config[f"{role}_token"]) if wanted is not None else None) == wanted
        assert (f"{role}_token" in config) == (wanted is not None)
    assert config["model_max_length"] == 64


def test_a_start_that_the_tokenizer_has_comes_before_a_text(made):
    tokenizer = made["sentencepiece bpe"]
    assert engine(tokenizer).encode("that is").ids == [tokenizer.bos_id, *tokenizer.encode("that is").tolist()]
    assert engine(made["bpe"]).encode("that is").ids == made["bpe"].encode("that is").tolist()


def test_what_would_give_other_ids_is_refused(made, monkeypatch):
    monkeypatch.setattr(tokenizers, "from_bytes", lambda tokenizer: tokenizers.from_json(made["bpe"]))
    with pytest.raises(UserError, match="cannot be written"):
        tokenizers.files(made["bytes"], context=64)


@pytest.mark.parametrize("kind", ["bpe", "huggingface", "sentencepiece bpe", "tiktoken"])
def test_a_tokenizer_comes_back_from_the_metadata_of_gguf(made, kind):
    tokenizer = made[kind]
    metadata = {gguf_tokens.AT + k: v for k, v in gguf_tokens.metadata_of(tokenizer, 400).items()}
    again, notes = gguf_tokens.tokenizer_of(metadata)
    assert not notes and again.vocab_size == 400
    assert (again.eos_id, again.bos_id) == (tokenizer.eos_id, tokenizer.bos_id)
    for text in TEXTS:
        ids = tokenizer.encode(text).tolist()
        assert again.encode(text).tolist() == ids
        assert again.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["bytes", "characters", "sentencepiece unigram"])
def test_what_gguf_cannot_hold_is_refused(made, kind):
    with pytest.raises(UserError, match=r"cannot be written into GGUF.*--no_tokenizer"):
        gguf_tokens.metadata_of(made[kind], 400)


@pytest.mark.parametrize(("wrong", "told"), [({"model": "t5"}, "'t5'"), ({"pre": "mystery"}, "'mystery'")])
def test_a_foreign_tokenizer_that_is_not_read_is_noted(made, wrong, told):
    metadata = {gguf_tokens.AT + k: v for k, v in (gguf_tokens.metadata_of(made["bpe"], 300) | wrong).items()}
    found, notes = gguf_tokens.tokenizer_of(metadata)
    assert found is None and told in notes[0]
