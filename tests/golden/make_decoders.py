"""Make decoders/CASE.npz: tiny random GPT-2 and Llama of Hugging Face `transformers`, with logits and gradients.

Run with torch and transformers installed: python tests/golden/make_decoders.py. A file holds the config.json of a
model, the foreign weights by their own names, tokens and targets, float32 logits, the mean loss and its gradient by
every weight. Also attention and norms of `torch.nn.functional`, as layers.npz.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

HERE = Path(__file__).parent
GPT2 = {"vocab_size": 37, "n_positions": 16, "n_layer": 2, "n_embd": 12, "n_head": 3}
LLAMA = {
    "vocab_size": 37, "num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 20, "max_position_embeddings": 16,
}  # fmt: skip
CASES = {
    "gpt2": ("gpt2", GPT2),
    "gpt2 narrow mlp": ("gpt2", GPT2 | {"n_inner": 10, "layer_norm_epsilon": 1e-3, "n_layer": 1}),
    "llama": ("llama", LLAMA | {"head_dim": 4}),
    "llama grouped": ("llama", LLAMA | {"num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-3}),
    "llama tied": ("llama", LLAMA | {"num_key_value_heads": 1, "head_dim": 4, "tie_word_embeddings": True,
                                     "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
}  # fmt: skip


def decoder(family: str, fields: dict) -> dict[str, np.ndarray]:
    """Return the arrays of one case."""
    config = transformers.AutoConfig.for_model(family, **fields, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * 0.3 + (p.ndim == 1 and name.endswith("weight")))
    tokens, targets = (torch.randint(0, fields["vocab_size"], (2, 9)) for _ in range(2))
    logits = model(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    arrays = {"tokens": tokens, "targets": targets, "logits": logits, "loss": loss}
    weights = dict(model.named_parameters())
    for kind, found in (("weight", weights), ("gradient", {n: p.grad for n, p in weights.items()})):
        saved = revert_weight_conversion(model, found)  # to the names of files
        arrays |= {f"{kind}/{n}": t for n, t in saved.items()}
    return {name: a.detach().numpy() for name, a in arrays.items()} | {"config": np.array(json.dumps(config.to_dict()))}


def write(folder: str, cases: dict[str, tuple[str, dict]]) -> None:
    """Make FOLDER/CASE.npz of every case."""
    for case, made in cases.items():
        np.savez_compressed(HERE / folder / f"{case.replace(' ', '_')}.npz", **decoder(*made))


def layers() -> dict[str, np.ndarray]:
    """Return inputs and results of torch's attention and norms."""
    functional = torch.nn.functional
    q, k, v = torch.randn(2, 4, 7, 6), torch.randn(2, 2, 9, 6), torch.randn(2, 2, 9, 6)
    mask = torch.rand(7, 9) < 0.6
    mask[:, 0] = True
    x, scale, bias = torch.randn(5, 12) * 3 + 1, torch.randn(12), torch.randn(12)
    square = (q, torch.randn(2, 4, 7, 6), torch.randn(2, 4, 7, 6))
    arrays = {
        "q": q, "k": k, "v": v, "mask": mask, "x": x, "scale": scale, "bias": bias,
        "k_square": square[1], "v_square": square[2],
        "grouped": functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True),
        "causal": functional.scaled_dot_product_attention(*square, is_causal=True),
        "full": functional.scaled_dot_product_attention(*square, scale=0.3),
        "layer_norm": functional.layer_norm(x, (12,), scale, bias, eps=1e-3),
        "rms_norm": functional.rms_norm(x, (12,), scale, eps=1e-3),
        "gelu": functional.gelu(x, approximate="tanh"),
        "silu": functional.silu(x),
    }  # fmt: skip
    return {name: a.numpy() for name, a in arrays.items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    write("decoders", CASES)
    np.savez_compressed(HERE / "layers.npz", **layers())
