"""Gemma of Hugging Face: Llama's names and a tied head; norms hold what is added to 1, as ours do."""

from llm_jax.interop.fields import Entry, FieldMap, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.llama import LAYER, attention, gated, numbers, outside
from llm_jax.interop.rope import rope

HEAD = {"lm_head.weight": "model.embed_tokens.weight"}

NAMES = NameMap(
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # constants that old files carry
    copies=HEAD,
    rules=(*outside(), *attention("blocks"), *gated(f"{LAYER}.mlp", "blocks/mlp")),
)


def fixed() -> tuple[Entry, ...]:
    """What all generations share. The first files say "gelu" and mean its tanh form."""
    return (
        only("hidden_act", "gelu_pytorch_tanh", "gelu"),
        only("hidden_activation", "gelu_pytorch_tanh", None),
        only("tie_word_embeddings", True),
        only("attention_bias", False),
        only("use_bidirectional_attention", False, None),
    )


FIELDS = FieldMap(
    model_type="gemma",
    architecture="GemmaForCausalLM",
    entries=(*numbers("blocks", 16, 256, 1e-6), rope(), *fixed()),
)
