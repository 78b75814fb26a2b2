"""Mamba-2 of Hugging Face: gate, x, B, C and dt in one kernel, one filter a channel of x, B and C."""

import math

from llm_jax.interop.fields import Entry, FieldMap, Fields, Shapes, field, harmless, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.rules import depthwise, linear, same, vector

MIXER, OURS = "backbone.layers.{layer}.mixer", "blocks/mixer"

NAMES = NameMap(
    prefix="backbone.",
    copies={"lm_head.weight": "backbone.embeddings.weight"},
    rules=(
        same("backbone.embeddings.weight", "embed/tokens"),
        same("backbone.layers.{layer}.norm.weight", "blocks/norm/scale"),
        linear(f"{MIXER}.in_proj.weight", *(f"{OURS}/{part}" for part in ("gate", "x", "bc", "dt"))),
        depthwise(f"{MIXER}.conv1d.weight", f"{OURS}/conv_x", f"{OURS}/conv_bc"),
        vector(f"{MIXER}.conv1d.bias", f"{OURS}/conv_x_bias", f"{OURS}/conv_bc_bias"),
        same(f"{MIXER}.dt_bias", f"{OURS}/dt_bias"),
        same(f"{MIXER}.A_log", f"{OURS}/A_log"),
        same(f"{MIXER}.D", f"{OURS}/D"),
        vector(f"{MIXER}.norm.weight", f"{OURS}/norm_scale"),
        linear(f"{MIXER}.out_proj.weight", f"{OURS}/out", inputs=2),
        same("backbone.norm_f.weight", "final_norm/scale"),
        same("lm_head.weight", "head/tokens"),
    ),
)


def _expand(fields: Fields, shapes: Shapes) -> dict[str, int]:
    """Their width as a multiple of the model's: `transformers` refuses any other."""
    heads, size, width = shapes[f"{OURS}/out"][-3:]
    return {"expand": heads * size // width}


FIELDS = FieldMap(
    model_type="mamba2",
    architecture="Mamba2ForCausalLM",
    entries=(
        field("vocab_size", "vocab_size", default=32_768),
        field("num_hidden_layers", "num_layers", default=64),
        field("hidden_size", "embed_dim", default=4096),
        field("num_heads", "num_heads", default=128, size=(f"{OURS}/dt", -1)),
        field("head_dim", "head_dim", default=64),
        field("state_size", "state_dim", default=128),
        field("n_groups", "num_groups", default=8),
        field("conv_kernel", "conv_width", default=4),
        field("tie_word_embeddings", "tied", default=False),
        field("layer_norm_epsilon", "norm_eps", default=1e-5),
        Entry(("expand",), lambda config: {}, _expand),
        only("hidden_act", "silu"),
        only("use_bias", False),
        only("use_conv_bias", True),
        only("time_step_limit", [0.0, math.inf], (0.0, math.inf), [0.0, {"__float__": "Infinity"}]),
        harmless("chunk_size", "residual_in_fp32", "rescale_prenorm_residual", "rms_norm", "norm_before_gate"),
        harmless("time_step_rank", "time_step_min", "time_step_max", "time_step_floor"),
    ),
)
