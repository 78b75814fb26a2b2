"""Write optimizers.npz: ten steps of torch's optimizers on fixed gradients. Run with torch 2.13.

Kernels are [in, out] in the file; Muon gets them transposed, as torch stores them, and runs its iteration in float32.
"""

from pathlib import Path

import numpy as np
import torch

STEPS = 10
SHAPES = {"wide": (4, 9), "tall": (6, 5), "bias": (9,)}
MATRICES = ("wide", "tall")
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, dict(lr=0.1)),
    "momentum": (torch.optim.SGD, dict(lr=0.1, momentum=0.9)),
    "nesterov": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True)),
    "adagrad": (torch.optim.Adagrad, dict(lr=0.1, initial_accumulator_value=0.1, eps=1e-10)),
    "adam": (torch.optim.Adam, dict(lr=0.01, betas=(0.9, 0.95), eps=1e-8)),
    "adamw": (torch.optim.AdamW, dict(lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)),
    "adafactor": (torch.optim.Adafactor, dict(lr=0.01, weight_decay=0.1)),
    "muon": (torch.optim.Muon, dict(lr=0.02, weight_decay=0.1)),
    "muon_rms": (torch.optim.Muon, dict(lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")),
}


def main() -> None:
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    gradients = {name: rng.normal(size=(STEPS, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    torch.Tensor.bfloat16 = torch.Tensor.clone  # Muon's iteration in float32, so that five digits can be compared
    arrays = {f"start/{k}": v for k, v in start.items()} | {f"gradients/{k}": v for k, v in gradients.items()}
    for case, (kind, options) in OPTIMIZERS.items():
        for name in MATRICES if case.startswith("muon") else SHAPES:
            arrays[f"{case}/{name}"] = run(kind, options, start[name], gradients[name])
    np.savez_compressed(Path(__file__).with_name("optimizers.npz"), **arrays)


def run(kind: type, options: dict, start: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return the parameter after each step, [STEPS, *shape]."""
    p = torch.nn.Parameter(torch.from_numpy(start.T.copy()))
    optimizer, path = kind([p], **options), []
    for g in gradients:
        p.grad = torch.from_numpy(g.T.copy())
        optimizer.step()
        path.append(p.detach().numpy().T.copy())
    return np.stack(path)


if __name__ == "__main__":
    main()
