"""Make mamba2.npz: tiny random Mamba-2 models of Hugging Face `transformers` on torch, as decoders/CASE.npz.

Run with torch and transformers installed: python tests/golden/make_mamba2.py. Chunks are shorter than the text, and
its length is no multiple of theirs. `greedy` continues the first tokens. Prints the parameters of published sizes.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": 37, "num_hidden_layers": 2, "hidden_size": 12, "num_heads": 6, "head_dim": 4, "state_size": 5,
    "n_groups": 1, "chunk_size": 4,
}  # fmt: skip
CASES = {
    "tied": SIZES | {"tie_word_embeddings": True},
    "untied, groups": SIZES | {"n_groups": 3, "conv_kernel": 3, "layer_norm_epsilon": 1e-3},
}
PUBLISHED = {
    "130m": (24, 768), "370m": (48, 1024), "780m": (48, 1536), "1.3b": (48, 2048), "2.7b": (64, 2560)
}  # fmt: skip
CODESTRAL = {"num_hidden_layers": 64, "hidden_size": 4096, "num_heads": 128, "n_groups": 8, "vocab_size": 32_768}


def decoder(fields: dict) -> dict[str, np.ndarray]:
    """Return the arrays of one case."""
    config = transformers.Mamba2Config(**fields)
    model = transformers.Mamba2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * 0.3 + (p.ndim == 1 and "norm" in name))
    tokens, targets = (torch.randint(0, fields["vocab_size"], (2, 11)) for _ in range(2))
    logits = model(tokens, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    greedy = model.generate(tokens[:, :4], attention_mask=torch.ones(2, 4, dtype=int), **options)
    arrays = {"tokens": tokens, "targets": targets, "logits": logits, "loss": loss, "greedy": greedy[:, 4:]}
    for name, p in model.named_parameters():
        arrays |= {f"weight/{name}": p, f"gradient/{name}": p.grad}
    described = {k: v for k, v in config.to_dict().items() if k in fields or k in ("model_type", "conv_kernel")}
    return {name: a.detach().numpy() for name, a in arrays.items()} | {"config": np.array(json.dumps(described))}


def count(fields: dict) -> int:
    """Return the number of parameters, tied ones once; nothing is allocated."""
    with torch.device("meta"):
        model = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**fields))
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    torch.manual_seed(0)
    cases = {f"{case}/{k}": v for case, fields in CASES.items() for k, v in decoder(fields).items()}
    np.savez_compressed(HERE / "mamba2.npz", **cases)
    for size, (layers, width) in PUBLISHED.items():
        fields = {"num_hidden_layers": layers, "hidden_size": width, "num_heads": width // 32, "n_groups": 1}
        print(size, count(fields | {"vocab_size": 50_288, "tie_word_embeddings": True}))
    print("7b", count(CODESTRAL))
