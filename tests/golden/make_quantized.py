"""Make quantized/CASE/: tiny random checkpoints of Hugging Face in few bits, and the logits that they mean.

Run with torch and transformers installed: python -m tests.golden.make_quantized. The codes are unpacked by functions of
transformers, and its models compute the logits.
"""

import shutil
from pathlib import Path

import numpy as np
import torch

from benchmarks.foreign import save_quantized

FOLDER = Path(__file__).parent / "quantized"
SIZES = {"vocab_size": 37, "num_attention_heads": 2}
CASES = {
    "fp8": SIZES | {"hidden_size": 20, "intermediate_size": 18, "num_key_value_heads": 2},
    "mxfp4": SIZES | {"num_key_value_heads": 1, "num_hidden_layers": 2, "intermediate_size": 32},
}

if __name__ == "__main__":
    for case, fields in CASES.items():
        shutil.rmtree(FOLDER / case, ignore_errors=True)
        model = save_quantized(case, FOLDER / case, **fields)
        (FOLDER / case / "generation_config.json").unlink()
        tokens = torch.randint(0, fields["vocab_size"], (2, 12))
        np.savez_compressed(FOLDER / case / "logits.npz", tokens=tokens, logits=model(tokens).logits.detach())
