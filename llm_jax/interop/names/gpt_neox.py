"""GPT-NeoX of Hugging Face: query, key and value in one kernel, head by head; the head is a table of its own."""

from typing import Any

from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, Shapes, field, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.rules import Rule, by_head, linear, same, vector
from llm_jax.interop.rope import rope, rope_parameters

H = "gpt_neox.layers.{layer}"
A = "blocks/attention"


def _layer_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (same(f"{theirs}.weight", f"{ours}/scale"), same(f"{theirs}.bias", f"{ours}/bias"))


NAMES = NameMap(
    ignored=(r"gpt_neox\.layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",),  # constants in old files
    copies={"embed_out.weight": "gpt_neox.embed_in.weight"},
    rules=(
        same("gpt_neox.embed_in.weight", "embed/tokens"),
        *_layer_norm(f"{H}.input_layernorm", "blocks/attention_norm"),
        *_layer_norm(f"{H}.post_attention_layernorm", "blocks/mlp_norm"),
        by_head(f"{H}.attention.query_key_value.weight", f"{A}/query", f"{A}/key", f"{A}/value", inputs=1),
        by_head(f"{H}.attention.query_key_value.bias", f"{A}/query_bias", f"{A}/key_bias", f"{A}/value_bias"),
        linear(f"{H}.attention.dense.weight", f"{A}/out", inputs=2),
        vector(f"{H}.attention.dense.bias", f"{A}/out_bias"),
        linear(f"{H}.mlp.dense_h_to_4h.weight", "blocks/mlp/up"),
        vector(f"{H}.mlp.dense_h_to_4h.bias", "blocks/mlp/up_bias"),
        linear(f"{H}.mlp.dense_4h_to_h.weight", "blocks/mlp/down"),
        vector(f"{H}.mlp.dense_4h_to_h.bias", "blocks/mlp/down_bias"),
        *_layer_norm("gpt_neox.final_layer_norm", "final_norm"),
        same("embed_out.weight", "head/tokens"),
    ),
)

_ROPE = rope()


def _read(config: Json) -> Fields:
    """The share that turns stands among the wavelengths, or beside them under a name of its own."""
    base = config.get("rotary_emb_base", 10_000.0)
    said = rope_parameters(config, base)
    share = said.pop("partial_rotary_factor", config.get("rotary_pct", 0.25))
    return _ROPE.read({**config, "rope_parameters": said}) | {"rotary": share}


def _write(fields: Fields, shapes: Shapes) -> dict[str, Any]:
    said, share = _ROPE.write(fields, shapes), fields["rotary"]
    nested = said["rope_parameters"] | {"partial_rotary_factor": share}
    return said | {"rope_parameters": nested, "rotary_pct": share, "rotary_emb_base": said["rope_theta"]}


FIELDS = FieldMap(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    entries=(
        field("vocab_size", "vocab_size"),
        field("num_hidden_layers", "num_layers"),
        field("hidden_size", "embed_dim"),
        field("num_attention_heads", "num_heads"),
        field("intermediate_size", "mlp_dim", default=24_576, size=("blocks/mlp/up", -1)),
        field("layer_norm_eps", "norm_eps", default=1e-5),
        field("hidden_dropout", "dropout", default=0.0),
        field("tie_word_embeddings", "tied", default=False),
        Entry((*_ROPE.keys, "rotary_pct", "rotary_emb_base", "partial_rotary_factor"), _read, _write),
        only("hidden_act", "gelu"),
        only("use_parallel_residual", True),
        only("attention_bias", True),
    ),
)
