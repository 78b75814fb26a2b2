"""Make moe.npz: single mixture-of-experts layers of Hugging Face `transformers` on torch, with gradients.

Run with torch and transformers installed: python tests/golden/make_moe.py. Each case holds an input, a direction, the
foreign weights by their own names, the output, and the gradient of (output · direction).sum() by the input and by every
weight; `balance` is `load_balancing_loss_func` of the logits of two layers, with a mask and without.
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

HERE = Path(__file__).parent
SIZES = {"hidden_size": 8, "num_experts_per_tok": 2}
QWEN = SIZES | {"num_experts": 5, "moe_intermediate_size": 6}
DEEPSEEK = SIZES | {
    "n_routed_experts": 8, "moe_intermediate_size": 6, "n_shared_experts": 2, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 2.5,
}  # fmt: skip
CASES = {
    "mixtral": (
        MixtralSparseMoeBlock, transformers.MixtralConfig, SIZES | {"num_local_experts": 4, "intermediate_size": 6}
    ),
    "qwen3_moe": (Qwen3MoeSparseMoeBlock, transformers.Qwen3MoeConfig, QWEN | {"norm_topk_prob": True}),
    "qwen3_moe raw": (Qwen3MoeSparseMoeBlock, transformers.Qwen3MoeConfig, QWEN | {"norm_topk_prob": False}),
    "gpt_oss": (GptOssMLP, transformers.GptOssConfig, SIZES | {"num_local_experts": 4, "intermediate_size": 6}),
    "deepseek_v3": (DeepseekV3MoE, transformers.DeepseekV3Config, DEEPSEEK | {"norm_topk_prob": True}),
    "deepseek_v3 raw": (DeepseekV3MoE, transformers.DeepseekV3Config, DEEPSEEK | {"norm_topk_prob": False}),
}  # fmt: skip


def layer(block, make_config, fields: dict) -> dict[str, np.ndarray]:
    """Return the arrays of one case; weights are large, so that gpt-oss's clamp is reached."""
    config = make_config(**fields)
    config._experts_implementation = "eager"
    module = block(config).eval()
    with torch.no_grad():
        for _, p in [*module.named_parameters(), *module.named_buffers()]:
            p.copy_(torch.randn(p.shape) * 1.5)
    x, direction = torch.randn(2, 7, 8, requires_grad=True), torch.randn(2, 7, 8)
    y = module(x)
    y = y[0] if isinstance(y, tuple) else y
    (y * direction).sum().backward()
    arrays = {"x": x, "direction": direction, "y": y, "gradient/x": x.grad}
    for name, p in module.named_buffers():
        arrays[f"weight/{name}"] = p
    for name, p in module.named_parameters():
        arrays |= {f"weight/{name}": p, f"gradient/{name}": p.grad}
    return {name: a.detach().numpy() for name, a in arrays.items()}


def balance() -> dict[str, np.ndarray]:
    """Return the logits of two layers over [2,7] tokens, a mask, and the loss of both with it and without."""
    logits, mask = torch.randn(2, 14, 5) * 2, torch.rand(2, 7) < 0.6
    whole = load_balancing_loss_func(tuple(logits), 5, 2)
    masked = load_balancing_loss_func(tuple(logits), 5, 2, mask)
    return {"logits": logits.numpy(), "mask": mask.numpy(), "whole": whole.numpy(), "masked": masked.numpy()}


if __name__ == "__main__":
    torch.manual_seed(0)
    arrays = {f"{case}/{k}": v for case, made in CASES.items() for k, v in layer(*made).items()}
    np.savez_compressed(HERE / "moe.npz", **arrays, **{f"balance/{k}": v for k, v in balance().items()})
