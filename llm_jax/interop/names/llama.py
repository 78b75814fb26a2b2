"""Llama of Hugging Face: `Linear` kernels [out, in], rotary halves as ours; a tied model has no `lm_head`.

Other families use its names too: `outside` of the layers, the `attention` of a stack with its `norms` and `kernels`, a
`gated` mlp; and its keys of config.json: `widths`, `numbers`, and `dense`, which is all of them.
"""

from llm_jax.interop.fields import Entry, FieldMap, field, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.rules import Rule, linear, same
from llm_jax.interop.rope import rope

LAYER = "model.layers.{layer}"


TIED, SILU = field("tie_word_embeddings", "tied", default=False), only("hidden_act", "silu")


def shape(stack: str, kv_heads: int | None, head_dim: int | None) -> tuple[Entry, ...]:
    """The sizes of attention, for blocks under the path `stack`; what is taken where the two are missing."""
    return (
        field("vocab_size", "vocab_size"),
        field("num_hidden_layers", "num_layers"),
        field("hidden_size", "embed_dim"),
        field("num_attention_heads", "num_heads"),
        field("num_key_value_heads", "num_kv_heads", default=kv_heads, size=(f"{stack}/attention/key", -2)),
        field("head_dim", "head_dim", default=head_dim, size=(f"{stack}/attention/key", -1)),
    )


def widths(*, kv_heads: int | None = None, head_dim: int | None = None, eps: float = 1e-6) -> tuple[Entry, ...]:
    """`dense` but for the mlp and the wavelengths: what families with experts share."""
    return (*shape("blocks", kv_heads, head_dim), field("rms_norm_eps", "norm_eps", default=eps), TIED, SILU)


def numbers(stack: str, kv_heads: int | None, head_dim: int | None, eps: float) -> tuple[Entry, ...]:
    """The keys that are sizes, and the norms' epsilon, for blocks under the path `stack`."""
    return (
        *shape(stack, kv_heads, head_dim),
        field("intermediate_size", "mlp_dim", size=(f"{stack}/mlp/up", -1)),
        field("rms_norm_eps", "norm_eps", default=eps),
    )


def dense(
    *, kv_heads: int | None = None, head_dim: int | None = None, eps: float = 1e-6, wavelengths: Entry | None = None
) -> tuple[Entry, ...]:
    """The keys of every family like it; what transformers takes where the three are missing; those of wavelengths."""
    return (*numbers("blocks", kv_heads, head_dim, eps), TIED, wavelengths or rope(), SILU)


def outside() -> tuple[Rule, ...]:
    """The token table, the last norm and the head."""
    return (
        same("model.embed_tokens.weight", "embed/tokens"),
        same("model.norm.weight", "final_norm/scale"),
        same("lm_head.weight", "head/tokens"),
    )


def norms(stack: str) -> tuple[Rule, ...]:
    """The norms before the two parts of a block."""
    return (
        same(f"{LAYER}.input_layernorm.weight", f"{stack}/attention_norm/scale"),
        same(f"{LAYER}.post_attention_layernorm.weight", f"{stack}/mlp_norm/scale"),
    )


def attention(stack: str) -> tuple[Rule, ...]:
    """The norms and the four kernels of attention."""
    return (*norms(stack), *kernels(stack))


def kernels(stack: str) -> tuple[Rule, ...]:
    """The four kernels of attention."""
    return (
        linear(f"{LAYER}.self_attn.q_proj.weight", f"{stack}/attention/query"),
        linear(f"{LAYER}.self_attn.k_proj.weight", f"{stack}/attention/key"),
        linear(f"{LAYER}.self_attn.v_proj.weight", f"{stack}/attention/value"),
        linear(f"{LAYER}.self_attn.o_proj.weight", f"{stack}/attention/out", inputs=2),
    )


def gated(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Gate, up and down of one gated mlp."""
    return tuple(linear(f"{theirs}.{part}_proj.weight", f"{ours}/{part}") for part in ("gate", "up", "down"))


NAMES = NameMap(
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # constants that old files carry
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(*outside(), *attention("blocks"), *gated(f"{LAYER}.mlp", "blocks/mlp")),
)

FIELDS = FieldMap(
    model_type="llama",
    architecture="LlamaForCausalLM",
    entries=(*dense(), only("attention_bias", False), only("mlp_bias", False)),
)
