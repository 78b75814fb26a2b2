"""Mistral of Hugging Face: Llama's names, and a window."""

from llm_jax.interop.configs import FieldMap, field
from llm_jax.interop.names.llama import NAMES as LLAMA
from llm_jax.interop.names.llama import sizes

NAMES = LLAMA

FIELDS = FieldMap(
    model_type="mistral",
    architecture="MistralForCausalLM",
    entries=(*sizes(kv_heads=8), field("sliding_window", "window", default=4096)),
)
