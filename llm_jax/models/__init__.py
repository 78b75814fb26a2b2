"""Model families: one file each, one line each in `MODELS`; an entry is a frozen dataclass of plain fields."""

MODELS = {
    "deepseek_v3": "llm_jax.models.moe.deepseek_v3:DeepseekV3",
    "gpt2": "llm_jax.models.decoder.gpt2:GPT2",
    "gpt_oss": "llm_jax.models.moe.gpt_oss:GptOss",
    "llama": "llm_jax.models.decoder.llama:Llama",
    "mistral": "llm_jax.models.decoder.mistral:Mistral",
    "mixtral": "llm_jax.models.moe.mixtral:Mixtral",
    "olmo2": "llm_jax.models.decoder.olmo2:Olmo2",
    "phi3": "llm_jax.models.decoder.phi3:Phi3",
    "qwen2": "llm_jax.models.decoder.qwen2:Qwen2",
    "qwen3": "llm_jax.models.decoder.qwen3:Qwen3",
    "qwen3_moe": "llm_jax.models.moe.qwen3_moe:Qwen3Moe",
}
