"""Tiny models of Hugging Face `transformers` with awkward corners, random, one family or more corners of it a case.

Grouped queries, heads of another size than width / heads, windows shorter than the text, stretched rotary positions,
tied and untied tables, an odd vocabulary; `CASES` are what the live comparisons run over, and the README's table.
"""

import json
from pathlib import Path
from typing import Any

LLAMA = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
SPARSE = LLAMA | {"moe_intermediate_size": 20, "num_experts_per_tok": 2}
YARN = {
    "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0,
    "beta_slow": 1.0,
}  # fmt: skip
# Their lengths lie between those of the greedy continuation and of the text whose logits are compared.
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 3.0}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 100.0, "factor": 2.0, "original_max_position_embeddings": 32,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.5],
}  # fmt: skip
HALF = {"rope_parameters": LONGROPE | {
    "partial_rotary_factor": 0.5, "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0],
}}  # fmt: skip
SMALL = {
    "gemma": LLAMA | {"head_dim": 12},
    "gemma2": LLAMA | {"head_dim": 12, "sliding_window": 6},
    "gemma3_text": LLAMA | {"head_dim": 12, "sliding_window": 6},
    "gpt2": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"},
    "deepseek_v3": SPARSE | {
        "num_key_value_heads": 4, "n_routed_experts": 6, "n_group": 3, "topk_group": 2, "first_k_dense_replace": 1,
        "kv_lora_rank": 14, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 10,
    },
    "gpt_oss": LLAMA | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 12, "sliding_window": 6, "num_hidden_layers": 3,
    },
    "llama": LLAMA,
    "mamba2": {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 12,
        "n_groups": 1,
    },
    "mistral": LLAMA | {"sliding_window": 6},
    "mixtral": LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": LLAMA,
    "phi3": LLAMA | {"sliding_window": 6, "pad_token_id": 0},
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 12},
    "qwen3_moe": SPARSE | {"num_experts": 4},
}  # fmt: skip
CASES = {
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0, "num_hidden_layers": 3}),
    "gemma2 as published": ("gemma2", {"query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0}),
    "gemma2 without caps": ("gemma2", {"final_logit_softcapping": None, "attn_logit_softcapping": None}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 20, "sliding_window_pattern": 2, "num_hidden_layers": 5}),
    "gemma3 stretched": (
        "gemma3_text",
        {"query_pre_attn_scalar": 12, "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    ),
    "gpt2": ("gpt2", {}),
    "gpt2 narrow mlp": ("gpt2", {"n_inner": 20, "layer_norm_epsilon": 1e-3}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox tied, turned whole": (
        "gpt_neox",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 9.0, "partial_rotary_factor": 1.0},
        },
    ),
    "llama": ("llama", {}),
    "llama tied, heads of another size": ("llama", {"tie_word_embeddings": True, "head_dim": 12}),
    "llama theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "rms_norm_eps": 1e-3}),
    "llama stretched": ("llama", {"rope_parameters": LLAMA3}),
    "llama stretched evenly": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 9.0, "factor": 3.0}}),
    "llama grown": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 32}),
    "llama of two lengths": ("llama", {"rope_parameters": LONGROPE}),
    "mistral": ("mistral", {}),
    "mistral by yarn": ("mistral", {"rope_parameters": YARN}),
    "mistral without window": ("mistral", {"sliding_window": None, "head_dim": 12}),
    "olmo2": ("olmo2", {}),
    "olmo2 by yarn": ("olmo2", {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False}}),
    "phi3": ("phi3", {}),
    "phi3 of two lengths, half turned": ("phi3", HALF | {"original_max_position_embeddings": 32}),
    "qwen2": ("qwen2", {}),
    "qwen2 by yarn": ("qwen2", {"rope_parameters": YARN | {"attention_factor": 1.2}}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3 grown": ("qwen3", {"rope_parameters": DYNAMIC, "max_position_embeddings": 32}),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True}),
    "mamba2": ("mamba2", {"tie_word_embeddings": True}),
    "mamba2 untied, groups": ("mamba2", {"n_groups": 2, "conv_kernel": 3, "layer_norm_epsilon": 1e-3}),
    "mixtral": ("mixtral", {}),
    "mixtral windowed, tied": ("mixtral", {"sliding_window": 6, "tie_word_embeddings": True, "head_dim": 12}),
    "qwen3_moe": ("qwen3_moe", {"norm_topk_prob": True}),  # as all that are published
    "qwen3_moe not renormalized": ("qwen3_moe", {}),
    "qwen3_moe some dense": (
        "qwen3_moe",
        {
            "num_hidden_layers": 5,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "norm_topk_prob": True,
            "head_dim": 12,
        },
    ),
    "gpt_oss": ("gpt_oss", {}),
    "gpt_oss stretched": ("gpt_oss", {"rope_parameters": YARN | {"truncate": False}, "swiglu_limit": 1.0}),
    "deepseek_v3": ("deepseek_v3", {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}}),
    "deepseek_v3 plain": (
        "deepseek_v3",
        {
            "q_lora_rank": None,
            "rope_interleave": False,
            "norm_topk_prob": False,
            "n_shared_experts": 2,
            "num_hidden_layers": 3,
        },
    ),
}


def save_random(case: str, folder: Path) -> Any:
    """Write a model of `CASES` with `save_pretrained` and return it, on torch."""
    model = random(*CASES[case])
    model.save_pretrained(folder)
    return model


def random(family: str, fields: dict[str, Any]) -> Any:
    """Return a model of a family on torch, of `SMALL` and further fields; every weight is random, biases too."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SMALL[family] | fields)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in (*model.parameters(), *(b for n, b in model.named_buffers() if "bias" in n)):
            p.add_(torch.randn(p.shape) * 0.2)
    return model


BLOCK = [8, 16]
QUANTIZED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fp8": ("deepseek_v3", {}, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": BLOCK}),
    "fp8 in whole blocks": ("qwen3", {}, {"quant_method": "fp8", "weight_block_size": BLOCK}),
    "mxfp4": ("gpt_oss", {"intermediate_size": 64}, {"quant_method": "mxfp4"}),
}
"""Name -> family, fields beside those of `SMALL`, `quantization_config`. Many blocks of the first are cut."""


def save_quantized(case: str, folder: Path, **fields: Any) -> Any:
    """Write a random model of `QUANTIZED` in few bits; return it on torch, as transformers' own functions unpack it."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    family, own, said = QUANTIZED[case]
    random(family, own | fields).save_pretrained(folder)
    file, described = folder / "model.safetensors", folder / "config.json"
    kept, stored, meant = load_file(file), {}, {}
    pack = {"fp8": _fp8, "mxfp4": _mxfp4}[said["quant_method"]]
    for name in [name for name in kept if "_proj" in name and kept[name].ndim > 1 and "bias" not in name]:
        if said["quant_method"] == "fp8" or "experts" in name:
            packed, meant[name] = pack(kept.pop(name))
            stored |= {name + suffix: tensor for suffix, tensor in packed.items()}
    save_file(kept | meant, file, metadata={"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    save_file(kept | stored, file, metadata={"format": "pt"})
    described.write_text(json.dumps(json.loads(described.read_text()) | {"quantization_config": said}))
    return model


def _fp8(weight: Any) -> tuple[dict[str, Any], Any]:
    """Return {end of the name: tensor} of a matrix in blocks, the largest code of each 448, and what they mean."""
    import torch
    from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

    cells = [torch.arange(size) // step for size, step in zip(weight.shape, BLOCK, strict=True)]
    scales = torch.zeros(*(int(at[-1]) + 1 for at in cells))
    at = cells[0][:, None].expand(weight.shape), cells[1].expand(weight.shape)
    flat = at[0] * scales.shape[1] + at[1]
    scales = scales.flatten().scatter_reduce(0, flat.flatten(), weight.abs().flatten(), "amax").view_as(scales) / 448
    codes = (weight / scales[at]).to(torch.float8_e4m3fn)
    return {"": codes, "_scale_inv": scales}, _dequantize_fp8_weight(codes, scales, BLOCK, torch.float32)


def _mxfp4(weight: Any) -> tuple[dict[str, Any], Any]:
    """Return {end of the name: tensor} of random codes for experts [E,I,O], and what they mean."""
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    experts, inputs, outputs = weight.shape
    blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
    scales = torch.randint(122, 127, blocks.shape[:-1], dtype=torch.uint8)
    return {"_blocks": blocks, "_scales": scales}, convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
