"""What the names and fields of BART and Marian share: blocks, the table, the bias of logits, keys of both sides."""

from collections.abc import Collection

from llm_jax.interop.fields import Entry, Fields, field, harmless, only
from llm_jax.interop.names.encoder.parts import norm
from llm_jax.interop.names.rules import Rule, conv1d, linear, same, vector
from llm_jax.interop.names.seq2seq.sides import DECODING, alike, layers

BIAS = "final_logits_bias"
TABLE = "model.shared.weight"
COPIES = dict.fromkeys(
    ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"), TABLE
)
OUTSIDE = (BIAS, "lm_head.")
OLD = r"model\.(en|de)coder\.version"  # a buffer of old files


def rules() -> tuple[Rule, ...]:
    """Rules of all but the positions."""
    return (
        same(TABLE, "embed/tokens"),
        *_blocks("encoder", {"self_attn": "attention"}),
        *_blocks("decoder", {"self_attn": "attention", "encoder_attn": "cross"}),
        conv1d(BIAS, "head/bias", inputs=0),
    )


def _blocks(side: str, attentions: dict[str, str]) -> tuple[Rule, ...]:
    layer, stack = f"model.{side}.layers.{{layer}}", f"{side}_blocks"
    found: list[Rule] = []
    for theirs, ours in attentions.items():
        for name, part, inputs in (("q", "query", 1), ("k", "key", 1), ("v", "value", 1), ("out", "out", 2)):
            kernel = f"{layer}.{theirs}.{name}_proj"
            found.append(linear(f"{kernel}.weight", f"{stack}/{ours}/{part}", inputs=inputs))
            found.append(vector(f"{kernel}.bias", f"{stack}/{ours}/{part}_bias"))
        found += norm(f"{layer}.{theirs}_layer_norm", f"{stack}/{ours}_norm")
    for name, part in (("fc1", "up"), ("fc2", "down")):
        found.append(linear(f"{layer}.{name}.weight", f"{stack}/mlp/{part}"))
        found.append(vector(f"{layer}.{name}.bias", f"{stack}/mlp/{part}_bias"))
    return (*found, *norm(f"{layer}.final_layer_norm", f"{stack}/mlp_norm"))


def parts(names: Collection[str]) -> Fields:
    """Whether logits have a bias: files of an encoder and decoder alone have none."""
    return {"logits_bias": BIAS in names}


def fields() -> tuple[Entry, ...]:
    """Entries of the keys that both have, with what transformers takes where they are missing."""
    return (
        field("vocab_size", "vocab_size"),
        layers("encoder_layers", "decoder_layers", default=12),
        field("d_model", "embed_dim", default=1024),
        alike("num_heads", "encoder_attention_heads", "decoder_attention_heads", default=16),
        alike("mlp_dim", "encoder_ffn_dim", "decoder_ffn_dim", default=4096, size=("decoder_blocks/mlp/up", -1)),
        field("scale_embedding", "scaled", default=False),
        field("dropout", "dropout", default=0.1),
        only("tie_word_embeddings", True),
        only("normalize_before", False),
        only("add_bias_logits", False),
        only("add_final_layer_norm", False),
        harmless("activation_dropout", "classif_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std"),
        harmless("num_hidden_layers", "extra_pos_embeddings"),
        harmless("forced_eos_token_id", write={"forced_eos_token_id": None}),  # else transformers has one of its own
        DECODING,
    )
