"""Model families: one file each, one line each in `MODELS`; an entry is a frozen dataclass of plain fields."""

MODELS = {
    "deepseek_v3": "llm_jax.models.moe.deepseek_v3:DeepseekV3",
    "gemma": "llm_jax.models.gemma.gemma:Gemma",
    "gemma2": "llm_jax.models.gemma.gemma2:Gemma2",
    "gemma3": "llm_jax.models.gemma.gemma3:Gemma3",
    "gpt2": "llm_jax.models.decoder.gpt2:GPT2",
    "gpt_neox": "llm_jax.models.decoder.gpt_neox:GptNeoX",
    "gpt_oss": "llm_jax.models.moe.gpt_oss:GptOss",
    "llama": "llm_jax.models.decoder.llama:Llama",
    "mamba2": "llm_jax.models.recurrent.mamba2:Mamba2",
    "mistral": "llm_jax.models.decoder.mistral:Mistral",
    "mixtral": "llm_jax.models.moe.mixtral:Mixtral",
    "olmo2": "llm_jax.models.decoder.olmo2:Olmo2",
    "phi3": "llm_jax.models.decoder.phi3:Phi3",
    "qwen2": "llm_jax.models.decoder.qwen2:Qwen2",
    "qwen3": "llm_jax.models.decoder.qwen3:Qwen3",
    "qwen3_moe": "llm_jax.models.moe.qwen3_moe:Qwen3Moe",
    "vae": "llm_jax.models.latent.vae:Vae",
}
