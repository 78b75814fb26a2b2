"""Make dense/CASE.npz: more tiny random decoders of Hugging Face `transformers`, in the form of decoders/CASE.npz.

Run with torch and transformers installed: python tests/golden/make_dense_decoders.py. Also the rotary frequencies of
`ROPE_INIT_FUNCTIONS` for a published model's sizes and for rough ones, as rope.npz.
"""

import json
from pathlib import Path

import make_decoders
import numpy as np
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HERE = Path(__file__).parent
SIZES = make_decoders.LLAMA | {
    "vocab_size": 11, "num_key_value_heads": 2, "head_dim": 6, "intermediate_size": 7, "max_position_embeddings": 128,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
ONE = SIZES | {"num_hidden_layers": 1}
TIED = {"tie_word_embeddings": True}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0}
CASES = {
    "llama stretched": ("llama", ONE | {"head_dim": 8, "rope_parameters": LLAMA3}),
    "llama stretched evenly": ("llama", ONE | {"rope_parameters": LINEAR}),
    "mistral": ("mistral", SIZES | {"sliding_window": 4}),
    "olmo2": ("olmo2", SIZES),
    "olmo2 tied": ("olmo2", ONE | TIED | {"num_key_value_heads": 4, "head_dim": 4, "rms_norm_eps": 1e-3}),
    "phi3": ("phi3", SIZES | {"sliding_window": 3, "num_key_value_heads": 1}),
    "qwen2": ("qwen2", SIZES),
    "qwen2 tied": ("qwen2", ONE | TIED | {"head_dim": 4, "num_key_value_heads": 1}),
    "qwen3": ("qwen3", SIZES | TIED | {"rms_norm_eps": 1e-3}),
}
ROPES = {
    "llama 3.1": (128, LLAMA3 | {"rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 8192}),
    "llama 3.2": (64, LLAMA3 | {"rope_theta": 5e5, "factor": 32.0, "original_max_position_embeddings": 8192}),
    "other bounds": (32, LLAMA3 | {"low_freq_factor": 0.5, "high_freq_factor": 9.0}),
    "linear": (32, LINEAR),
}


def rope(head_dim: int, parameters: dict) -> dict[str, np.ndarray]:
    """Return the frequencies of one case, radians a position."""
    config = transformers.LlamaConfig(head_dim=head_dim, max_position_embeddings=2**17, rope_parameters=parameters)
    frequencies, _ = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config)
    return {"frequencies": frequencies.numpy(), "parameters": np.array(json.dumps(parameters))}


if __name__ == "__main__":
    torch.manual_seed(1)
    make_decoders.write("dense", CASES)
    np.savez_compressed(
        HERE / "rope.npz", **{f"{c}/{k}": v for c, made in ROPES.items() for k, v in rope(*made).items()}
    )
