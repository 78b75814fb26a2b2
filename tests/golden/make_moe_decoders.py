"""Make moe/CASE.npz: tiny random decoders with experts of Hugging Face `transformers` on torch, as decoders/CASE.npz.

Run with torch and transformers installed: python tests/golden/make_moe_decoders.py. Weights and gradients have the
names of the files that `save_pretrained` writes: there experts are tensors of their own, but for gpt-oss's. In each
case one expert is chosen by no token, and has no gradient. `greedy` continues the first tokens.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": 37, "num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 16, "num_experts_per_tok": 2,
}  # fmt: skip
QWEN = SIZES | {"num_experts": 4, "moe_intermediate_size": 6, "intermediate_size": 10, "head_dim": 6}
DEEPSEEK = SIZES | {
    "n_routed_experts": 6, "moe_intermediate_size": 6, "intermediate_size": 10, "n_group": 3, "topk_group": 2,
    "kv_lora_rank": 7, "q_lora_rank": 6, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 5,
    "first_k_dense_replace": 1, "num_key_value_heads": 4, "n_shared_experts": 1,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0, "original_max_position_embeddings": 16, "beta_fast": 4.0,
    "beta_slow": 1.0,
}  # fmt: skip
CASES = {
    "mixtral": ("Mixtral", SIZES | {"num_local_experts": 4, "intermediate_size": 6, "head_dim": 4}),
    "mixtral windowed tied": (
        "Mixtral",
        SIZES | {"num_local_experts": 3, "intermediate_size": 6, "head_dim": 4, "sliding_window": 4,
                 "tie_word_embeddings": True},
    ),
    "qwen3_moe": ("Qwen3Moe", QWEN | {"norm_topk_prob": True}),
    "qwen3_moe some dense": (
        "Qwen3Moe",
        QWEN | {"num_hidden_layers": 5, "decoder_sparse_step": 2, "mlp_only_layers": [3], "moe_intermediate_size": 5},
    ),
    "gpt_oss": (
        "GptOss",
        SIZES | {"num_local_experts": 4, "intermediate_size": 6, "head_dim": 6, "sliding_window": 4,
                 "rope_parameters": YARN | {"truncate": False}},
    ),
    "deepseek_v3": (
        "DeepseekV3", DEEPSEEK | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}}
    ),
    "deepseek_v3 plain": (
        "DeepseekV3",
        DEEPSEEK | {"q_lora_rank": None, "rope_interleave": False, "num_hidden_layers": 3, "norm_topk_prob": False,
                    "n_shared_experts": 2, "moe_intermediate_size": 4},
    ),
}  # fmt: skip


def weights(model) -> None:
    """Draw every weight anew, and turn all routers away from expert 1."""
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" in name:
                continue
            p.copy_(torch.randn(p.shape) * 0.3 + (p.ndim == 1 and "norm" in name))
            if name.endswith(("router.bias", "e_score_correction_bias")):
                p[1] = -50
            elif name.endswith("mlp.gate.weight"):  # what every token shares is its large first feature
                p[:, 0], p[1, 0] = 0, -10
        model.get_input_embeddings().weight[:, 0] = 3.0
        for name, p in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")) and "experts" not in name:
                p[0] = 0
            elif name.endswith("experts.down_proj"):
                p[..., 0, :] = 0


def decoder(family: str, fields: dict) -> dict[str, np.ndarray]:
    """Return the arrays of one case."""
    config = getattr(transformers, f"{family}Config")(**fields, attn_implementation="eager")
    config._experts_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    weights(model)
    tokens, targets = (torch.randint(0, fields["vocab_size"], (2, 9)) for _ in range(2))
    logits = model(tokens, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    greedy = model.generate(tokens[:, :4], attention_mask=torch.ones(2, 4, dtype=int), **options)
    arrays = {"tokens": tokens, "targets": targets, "logits": logits, "loss": loss, "greedy": greedy[:, 4:]}
    state = {n: t for n, t in model.state_dict().items() if n != "lm_head.weight" or not config.tie_word_embeddings}
    gradients = {n: p.grad for n, p in model.named_parameters()}
    for kind, found in (("weight", state), ("gradient", gradients)):
        saved = revert_weight_conversion(model, {n: t.detach().clone() for n, t in found.items()})
        arrays |= {f"{kind}/{n}": t for n, t in saved.items()}
    return {name: a.detach().numpy() for name, a in arrays.items()} | {"config": np.array(json.dumps(config.to_dict()))}


if __name__ == "__main__":
    torch.manual_seed(0)
    for case, made in CASES.items():
        np.savez_compressed(HERE / "moe" / f"{case.replace(' ', '_')}.npz", **decoder(*made))
