"""GPT-2 of Hugging Face: `Conv1D` kernels [in, out], query, key and value in one; the head is the token table."""

from typing import Any

from llm_jax.core.table import UserError
from llm_jax.interop.fields import FieldMap, Fields, Shapes, field, harmless, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.rules import conv1d, same, vector

H = "transformer.h.{layer}"

NAMES = NameMap(
    prefix="transformer.",
    ignored=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),  # causal masks that old files carry
    copies={"lm_head.weight": "transformer.wte.weight"},
    rules=(
        same("transformer.wte.weight", "embed/tokens"),
        same("transformer.wpe.weight", "embed/positions"),
        same(f"{H}.ln_1.weight", "blocks/attention_norm/scale"),
        same(f"{H}.ln_1.bias", "blocks/attention_norm/bias"),
        conv1d(f"{H}.attn.c_attn.weight", "blocks/attention/query", "blocks/attention/key", "blocks/attention/value"),
        vector(
            f"{H}.attn.c_attn.bias",
            "blocks/attention/query_bias",
            "blocks/attention/key_bias",
            "blocks/attention/value_bias",
        ),
        conv1d(f"{H}.attn.c_proj.weight", "blocks/attention/out", inputs=2),
        vector(f"{H}.attn.c_proj.bias", "blocks/attention/out_bias"),
        same(f"{H}.ln_2.weight", "blocks/mlp_norm/scale"),
        same(f"{H}.ln_2.bias", "blocks/mlp_norm/bias"),
        conv1d(f"{H}.mlp.c_fc.weight", "blocks/mlp/up"),
        vector(f"{H}.mlp.c_fc.bias", "blocks/mlp/up_bias"),
        conv1d(f"{H}.mlp.c_proj.weight", "blocks/mlp/down"),
        vector(f"{H}.mlp.c_proj.bias", "blocks/mlp/down_bias"),
        same("transformer.ln_f.weight", "final_norm/scale"),
        same("transformer.ln_f.bias", "final_norm/bias"),
    ),
)


def _write_heads(fields: Fields, shapes: Shapes) -> dict[str, Any]:
    width, heads, size = fields["embed_dim"], fields["num_heads"], fields.get("head_dim")
    if size is not None and size * heads != width:
        raise UserError(
            f"model.head_dim={size}: other programs read a gpt2 whose heads have model.embed_dim={width} / "
            f"model.num_heads={heads} dimensions, and no others; leave model.head_dim out of a run to be exported, or "
            "choose a family whose files say it, such as llama"
        )
    return {"n_head": heads}


FIELDS = FieldMap(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    context="n_positions",
    entries=(
        field("vocab_size", "vocab_size"),
        field("n_positions", "max_positions", default=1024),
        field("n_layer", "num_layers"),
        field("n_embd", "embed_dim"),
        field("n_head", "num_heads")._replace(write=_write_heads),
        field("n_inner", "mlp_dim", default=None),
        field("layer_norm_epsilon", "norm_eps", default=1e-5),
        field("resid_pdrop", "dropout", default=0.1),
        only("activation_function", "gelu_new", "gelu_pytorch_tanh"),
        only("scale_attn_weights", True),
        only("scale_attn_by_inverse_layer_idx", False),
        only("add_cross_attention", False),
        only("tie_word_embeddings", True),
        harmless("embd_pdrop", "attn_pdrop", "summary_type", "summary_use_proj", "summary_activation"),
        harmless("summary_proj_to_labels", "summary_first_dropout"),
    ),
)
