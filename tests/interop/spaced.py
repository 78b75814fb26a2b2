"""Small tokenizers whose pieces show their spaces, in the styles of published tokenizer.json files."""

import io
import json

from llm_jax.interop import pieces
from llm_jax.text import tokenizers

TEXTS = [
    "Fellow citizens of the Senate, it's 1790; we're told that he'll say 'no'.\n\n",
    "  The year 12345 was 3.14 good\t\n",
    "naïve café, Straße. 東京 привет мир 🙂", "and the people of the union in that it is was for on as his " * 3,
]  # fmt: skip
STYLES = ("llama", "gemma", "whole")


def specification(style, folder):
    """tokenizer.json: a text begins with a space of its own (Llama 2), or not (Gemma), or steps are those of v5."""
    import sentencepiece as library

    out = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_writer=out, vocab_size=390, model_type="bpe", byte_fallback=True,
        character_coverage=1.0, hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )  # fmt: skip
    (folder / "spaced.model").write_bytes(out.getvalue())
    spec = json.loads(pieces.from_sentencepiece(tokenizers.build("sentencepiece", {"path": f"{folder}/spaced.model"})))
    shown = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if style == "gemma":
        idle = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        spec |= {"normalizer": shown, "pre_tokenizer": idle}
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        spec["added_tokens"].append({"id": len(spec["model"]["vocab"]), "content": "<table>", **plain})
    if style == "whole":
        never = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
        spec |= {"normalizer": None, "pre_tokenizer": never}
    if style != "llama":
        spec["decoder"]["decoders"] = spec["decoder"]["decoders"][:3]
    return spec


def tokenizer(spec, folder):
    """The tokenizer of a specification, with the usual control tokens."""
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return tokenizers.build("huggingface", {"path": str(folder)})
