"""The peer: transformers' GPT-2 on torch CPU, eager, on the cells of `bare.py`. Needs requirements-oracles.txt.

python -m benchmarks.peer_transformers --cell M --steps 20 [--tokens train.bin]
"""

import argparse
import json
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.bare import CELLS, batches


def main() -> None:
    """Train and print one JSON line a step, as `bare.py` does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", choices=CELLS, default="S")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", default=None)
    flags = parser.parse_args()
    cell = CELLS[flags.cell]
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=cell.V, n_positions=cell.T, n_embd=cell.D, n_layer=cell.L, n_head=cell.H, n_inner=cell.F,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
    source = batches(cell, flags.tokens, 0)
    for step in range(flags.steps):
        began = time.perf_counter()
        tokens, targets = (torch.as_tensor(x, dtype=torch.long) for x in next(source))
        logits = model(input_ids=tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, cell.V), targets.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(json.dumps({"step": step + 1, "seconds": time.perf_counter() - began, "loss": loss.item()}), flush=True)


if __name__ == "__main__":
    main()
