"""Make encoders/CASE.npz: tiny random encoders of Hugging Face `transformers`, with logits and gradients.

Run with torch and transformers installed: python tests/golden/make_encoders.py [CASE …]. A file is as those of
make_decoders, and has also `mask`, which tokens are real, `types`, and, of BERT, `order`: the scores of the sentence-
level head.
"""

import json
import sys

import numpy as np
import torch
import transformers
from make_decoders import HERE

TINY = {
    "vocab_size": 37, "num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20,
}  # fmt: skip
CASES = {
    "bert": ("BertForPreTraining", TINY | {"max_position_embeddings": 9, "type_vocab_size": 3}),
    "modernbert": (
        "ModernBertForMaskedLM",
        TINY
        | {
            "num_hidden_layers": 5,
            "local_attention": 4,
            "global_attn_every_n_layers": 2,
            "pad_token_id": 1,
            "bos_token_id": None,
            "eos_token_id": None,
            "cls_token_id": None,
            "sep_token_id": None,
        },
    ),
    "roberta": ("RobertaForMaskedLM", TINY | {"max_position_embeddings": 11, "type_vocab_size": 1}),
}


def encoder(name: str, fields: dict) -> dict[str, np.ndarray]:
    """Return the arrays of one case; the loss is of the real tokens, and of the row's order."""
    family = getattr(transformers, name)
    config = family.config_class(**fields, attn_implementation="eager", architectures=[name])
    model = family(config).eval()
    with torch.no_grad():
        for parameter, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * 0.3 + (p.ndim == 1 and parameter.endswith("weight")))
    tokens, targets = (torch.randint(2, fields["vocab_size"], (2, 9)) for _ in range(2))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    tokens[mask == 0] = 1  # the padding of RoBERTa
    types = torch.randint(0, fields.get("type_vocab_size", 1), (2, 9))
    more = {"token_type_ids": types} if "type_vocab_size" in fields else {}
    out = model(tokens, attention_mask=mask, **more)
    logits = out.prediction_logits if name.startswith("Bert") else out.logits
    loss = torch.nn.functional.cross_entropy(logits[mask == 1], targets[mask == 1])
    arrays = {"tokens": tokens, "targets": targets, "mask": mask, "types": types, "logits": logits}
    if name.startswith("Bert"):
        arrays["order"] = out.seq_relationship_logits
        loss = loss + torch.nn.functional.cross_entropy(out.seq_relationship_logits, torch.tensor([0, 1]))
    loss.backward()
    arrays["loss"] = loss
    for parameter, p in model.named_parameters():
        arrays |= {f"weight/{parameter}": p, f"gradient/{parameter}": p.grad}
    return {n: a.detach().numpy() for n, a in arrays.items()} | {"config": np.array(json.dumps(config.to_dict()))}


if __name__ == "__main__":
    torch.manual_seed(0)
    for case in sys.argv[1:] or CASES:
        made = CASES[case]
        np.savez_compressed(HERE / "encoders" / f"{case}.npz", **encoder(*made))
