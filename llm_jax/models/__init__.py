"""Model families: one file each, one line each in `MODELS`; an entry is a frozen dataclass of plain fields."""

MODELS = {
    "deepseek_v3": "llm_jax.models.moe.deepseek_v3:DeepseekV3",
    "gpt2": "llm_jax.models.decoder.gpt2:GPT2",
    "gpt_oss": "llm_jax.models.moe.gpt_oss:GptOss",
    "llama": "llm_jax.models.decoder.llama:Llama",
    "mamba2": "llm_jax.models.recurrent.mamba2:Mamba2",
    "mixtral": "llm_jax.models.moe.mixtral:Mixtral",
    "qwen3_moe": "llm_jax.models.moe.qwen3_moe:Qwen3Moe",
}
