"""Make ropes.npz: tiny random decoders of Hugging Face `transformers` for each kind of stretched rotary positions.

Run with torch and transformers installed: python tests/golden/make_ropes.py. Of each case it holds config.json, the
weights, and tokens with their logits, float32, for a text shorter and one longer than the original context.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": 11, "num_hidden_layers": 1, "hidden_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 8, "intermediate_size": 7, "max_position_embeddings": 16, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None, "tie_word_embeddings": True,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 3.0}
YARN = {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 50.0, "factor": 4.0, "original_max_position_embeddings": 16,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.5],
}  # fmt: skip
PHI = SIZES | {"hidden_size": 16, "original_max_position_embeddings": 16, "max_position_embeddings": 64}
HALF = {"partial_rotary_factor": 0.5, "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0]}
CASES = {
    "dynamic": ("llama", {"rope_parameters": DYNAMIC}),
    "dynamic, normal keys": ("qwen3", {"rope_parameters": DYNAMIC | {"factor": 1.5}}),
    "longrope": ("llama", {"rope_parameters": LONGROPE}),
    "longrope, half of a head": ("phi3", PHI | {"rope_parameters": {k: v for k, v in (LONGROPE | HALF).items()
                                                                    if k != "factor"}}),
    "longrope, windowed": ("mistral", {"sliding_window": 6, "rope_parameters": LONGROPE | {"attention_factor": 1.3}}),
    "half of a head": ("phi3", PHI | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
    "yarn": ("qwen2", {"rope_parameters": YARN}),
    "yarn, all its keys": ("olmo2", {"rope_parameters": YARN | {
        "mscale": 0.7, "mscale_all_dim": 1.2, "beta_slow": 1.5, "truncate": False}}),
    "yarn, louder": ("mistral", {"rope_parameters": YARN | {"attention_factor": 1.4}, "sliding_window": None}),
}  # fmt: skip


def case(family: str, fields: dict) -> dict[str, np.ndarray]:
    """Return the arrays of one case."""
    config = transformers.AutoConfig.for_model(family, **SIZES | fields, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    arrays = {"config": np.array(json.dumps(config.to_dict()))}
    with torch.no_grad():
        for name, p in model.named_parameters():
            few_bits = (torch.randn(p.shape) * 26).round() / 64  # they compress well
            p.copy_(few_bits + (p.ndim == 1 and name.endswith("norm.weight")))
            arrays[f"weight/{name}"] = p.numpy()
        for length, count in (("short", 9), ("long", 24)):
            tokens = torch.randint(0, 11, (2, count))
            arrays |= {f"{length}/tokens": tokens.numpy(), f"{length}/logits": model(tokens).logits.numpy()}
    return arrays


if __name__ == "__main__":
    torch.manual_seed(2)
    np.savez_compressed(
        HERE / "ropes.npz", **{f"{c}/{k}": v for c, made in CASES.items() for k, v in case(*made).items()}
    )
