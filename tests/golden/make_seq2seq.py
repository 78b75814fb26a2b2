"""Make seq2seq/CASE.npz: tiny random encoder-decoders of Hugging Face `transformers`, with logits and gradients.

Run with torch and transformers installed: python tests/golden/make_seq2seq.py [CASE …]. A file is as those of
make_decoders, and has also `source` and `mask`, which tokens of it are real, and `greedy`, what `generate` writes
after `START` given the first row's source.
"""

import json
import sys

import numpy as np
import torch
import transformers
from make_decoders import HERE

START, WRITTEN = 3, 8
T5 = {
    "vocab_size": 37, "d_model": 12, "d_kv": 5, "num_heads": 3, "d_ff": 14, "num_layers": 2, "num_decoder_layers": 1,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6,
}  # fmt: skip
BART = {
    "vocab_size": 37, "d_model": 12, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 14, "decoder_ffn_dim": 14, "max_position_embeddings": 13,
    "bos_token_id": 2, "pad_token_id": 0, "forced_eos_token_id": None, "decoder_start_token_id": START,
}  # fmt: skip
CASES = {
    "t5": ("T5ForConditionalGeneration", T5),
    "t5_v1_1": (
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
    ),
    "bart": ("BartForConditionalGeneration", BART | {"scale_embedding": True}),
    "marian": ("MarianMTModel", BART | {"activation_function": "swish", "scale_embedding": True}),
}


def made(name: str, fields: dict) -> torch.nn.Module:
    """Return a model with drawn weights; transformers ties the head of every T5, so v1.1 is given one of its own."""
    family = getattr(transformers, name)
    config = family.config_class(**fields, eos_token_id=1, attn_implementation="eager", architectures=[name])
    model = family(config).eval()
    if fields.get("tie_word_embeddings") is False:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.requires_grad_()
    with torch.no_grad():
        for parameter, p in weights(model).items():
            p.copy_(torch.randn(p.shape) * 0.3 + (p.ndim == 1 and parameter.endswith("weight")))
    return model


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all tensors that a file holds: positions that are computed are left out."""
    found = {n: p for n, p in model.named_parameters() if p.requires_grad}
    bias = getattr(model, "final_logits_bias", None)
    return found if bias is None else found | {"final_logits_bias": bias}


def case(name: str, fields: dict) -> dict[str, np.ndarray]:
    """Return the arrays of one case."""
    model = made(name, fields)
    tokens, targets = (torch.randint(2, fields["vocab_size"], (2, 7)) for _ in range(2))
    source, mask = torch.randint(2, fields["vocab_size"], (2, 11)), torch.ones(2, 11, dtype=torch.long)
    mask[1, 8:] = 0
    logits = model(source, attention_mask=mask, decoder_input_ids=tokens).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    greedy = model.generate(
        source[:1], decoder_start_token_id=START, do_sample=False, num_beams=1, max_new_tokens=WRITTEN,
        min_new_tokens=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    arrays = {"tokens": tokens, "targets": targets, "source": source, "mask": mask, "logits": logits, "loss": loss}
    arrays["greedy"] = greedy[0, 1:]
    for parameter, p in weights(model).items():
        arrays |= {f"weight/{parameter}": p, f"gradient/{parameter}": p.grad}
    config = model.config.to_dict() | {"decoder_start_token_id": START}
    return {n: a.detach().numpy() for n, a in arrays.items()} | {"config": np.array(json.dumps(config))}


if __name__ == "__main__":
    torch.manual_seed(0)
    for chosen in sys.argv[1:] or CASES:
        np.savez_compressed(HERE / "seq2seq" / f"{chosen}.npz", **case(*CASES[chosen]))
