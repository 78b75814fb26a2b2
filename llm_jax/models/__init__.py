"""Model families: one file each, one line each in `MODELS`; an entry is a frozen dataclass of plain fields."""

MODELS = {
    "gpt2": "llm_jax.models.decoder.gpt2:GPT2",
    "llama": "llm_jax.models.decoder.llama:Llama",
}
