"""Make labels.npz: tiny random models of Hugging Face `transformers` with heads for labels, and their scores.

Run with torch and transformers installed: python tests/golden/make_labels.py. Of each case: `CASE/config`,
`CASE/weight/NAME` and `CASE/scores`, of the tokens and mask that all have. A score of a token that is padding is 0.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

TINY = {
    "vocab_size": 20, "num_hidden_layers": 1, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 14,
    "pad_token_id": 1,
}  # fmt: skip
GPT2 = {"vocab_size": 20, "n_layer": 1, "n_embd": 12, "n_head": 3, "n_positions": 9, "n_inner": 14, "pad_token_id": 1}
NO_ENDS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
CASES = {
    "bert": ("BertForSequenceClassification", TINY | {"max_position_embeddings": 9}),
    "roberta": ("RobertaForSequenceClassification", TINY | {"max_position_embeddings": 11}),
    "modernbert": (
        "ModernBertForSequenceClassification",
        TINY | NO_ENDS | {"num_hidden_layers": 2, "local_attention": 4, "classifier_pooling": "mean"},
    ),
    "gpt2": ("GPT2ForSequenceClassification", GPT2),
    "llama": ("LlamaForQuestionAnswering", TINY | {"num_key_value_heads": 1}),
}


def main() -> None:
    """Write the file."""
    torch.manual_seed(0)
    tokens, mask = torch.randint(2, 20, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:], tokens[1, 6:] = 0, 1
    arrays = {"tokens": tokens.numpy(), "mask": mask.numpy()}
    for case, (name, fields) in CASES.items():
        family = getattr(transformers, name)
        labels = {} if name.endswith("Answering") else {"id2label": {0: "a", 1: "b", 2: "c"}}
        config = family.config_class(**fields, **labels, attn_implementation="eager", architectures=[name])
        model = family(config).eval()
        with torch.no_grad():
            for parameter, p in model.named_parameters():
                p.copy_(torch.randn(p.shape) * 0.3 + (p.ndim == 1 and parameter.endswith("weight")))
            out = model(tokens, attention_mask=mask)
        scores = out.logits if labels else torch.stack([out.start_logits, out.end_logits], -1) * mask[..., None]
        arrays[f"{case}/config"] = np.array(json.dumps(config.to_dict()))
        arrays[f"{case}/scores"] = scores.numpy()
        arrays |= {f"{case}/weight/{n}": p.detach().numpy() for n, p in model.named_parameters()}
    np.savez_compressed(Path(__file__).parent / "labels.npz", **arrays)


if __name__ == "__main__":
    main()
