"""Make gemma/CASE.npz: tiny random decoders of Hugging Face `transformers`, in the form of decoders/CASE.npz.

Run with torch and transformers installed: python tests/golden/make_gemma_decoders.py. Windows are shorter than the
texts, and caps low enough to bend scores.
"""

import make_decoders
import torch

SIZES = make_decoders.LLAMA | {
    "vocab_size": 13, "num_key_value_heads": 2, "head_dim": 6, "intermediate_size": 7, "bos_token_id": None,
    "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
NEOX = {
    "vocab_size": 13, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 7,
    "max_position_embeddings": 16,
}  # fmt: skip
LOCAL = SIZES | {"sliding_window": 4, "num_hidden_layers": 3, "query_pre_attn_scalar": 10}
CASES = {
    "gemma": ("gemma", SIZES | {"num_hidden_layers": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-3}),
    "gemma2": ("gemma2", LOCAL | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2 without caps": (
        "gemma2",
        LOCAL | {"num_hidden_layers": 2, "attn_logit_softcapping": None, "final_logit_softcapping": None,
                 "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    ),
    "gemma3": ("gemma3_text", LOCAL | {"num_hidden_layers": 4, "sliding_window_pattern": 3}),
    "gemma3 stretched": (
        "gemma3_text",
        LOCAL | {"num_hidden_layers": 2, "sliding_window_pattern": 2, "rms_norm_eps": 1e-3, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0},
        }},
    ),
    "gpt_neox": ("gpt_neox", NEOX | {"layer_norm_eps": 1e-3}),
    "gpt_neox tied": (
        "gpt_neox",
        NEOX | {"num_hidden_layers": 1, "tie_word_embeddings": True, "rope_parameters": {
            "rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5,
        }},
    ),
}  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(2)
    make_decoders.write("gemma", CASES)
