"""Mistral of Hugging Face: Llama's names, and a window."""

from llm_jax.interop.fields import FieldMap, field
from llm_jax.interop.names.llama import NAMES as LLAMA
from llm_jax.interop.names.llama import dense

NAMES = LLAMA

FIELDS = FieldMap(
    model_type="mistral",
    architecture="MistralForCausalLM",
    entries=(*dense(kv_heads=8), field("sliding_window", "window", default=4096)),
)
