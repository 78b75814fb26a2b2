"""Small models of every family that GGUF has, each with the corners of its family, as exports."""

from dataclasses import asdict

import numpy as np

from llm_jax.core.table import lookup
from llm_jax.interop.save import Export
from llm_jax.models import MODELS
from llm_jax.nn.moe.router import Moe
from llm_jax.nn.rotary import Rope

FIELDS = {"vocab_size": 300, "num_layers": 2, "embed_dim": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
DENSE = FIELDS | {"mlp_dim": 64}
DEEP = DENSE | {"num_layers": 5, "head_dim": 12}
CASES = {
    "gemma": ("gemma", DENSE | {"head_dim": 12}),
    "gemma2": ("gemma2", DEEP | {"window": 6, "score_cap": 2.0, "logit_cap": 30.0}),
    "gemma3": ("gemma3", DEEP | {"window": 6}),
    "gemma3, stretched": (
        "gemma3", DEEP | {"window": 6, "global_every": 2, "local_theta": 50.0, "rope": Rope(theta=300.0, factor=4.0)},
    ),
    "llama": ("llama", DENSE | {"norm_eps": 1e-3}),
    "llama, tied": ("llama", DENSE | {"tied": True}),
    "llama, stretched": ("llama", DENSE | {"rope": Rope(theta=500_000.0, factor=8.0, original=8192)}),
    "llama, stretched evenly": ("llama", DENSE | {"rope": Rope(theta=300.0, factor=4.0)}),
    "mistral": ("mistral", DENSE),
    "mistral, a window that no text fills": ("mistral", DENSE | {"window": 64}),
    "mixtral": ("mixtral", FIELDS | {"moe": Moe(num_experts=4, top_k=2, mlp_dim=24)}),
    "qwen2": ("qwen2", DENSE | {"tied": True}),
    "qwen3": ("qwen3", DENSE | {"head_dim": 12}),
    "qwen3_moe": ("qwen3_moe", DENSE | {"head_dim": 12, "moe": Moe(num_experts=4, top_k=2, mlp_dim=24)}),
}  # fmt: skip
"""Name -> (family, fields of its model)."""


def case(name="llama", *, dtype="float32", vocab_size=300, **more):
    """(model, export, leaves) of one of `CASES`, for texts of 64 tokens; all leaves drawn, norms too."""
    family, fields = CASES[name]
    model = lookup(MODELS, family, "model.name")(**fields | {"vocab_size": vocab_size})
    shapes = {path: d.shape for path, d in model.declarations().items()}
    layers = model.stacks() if hasattr(model, "stacks") else {}
    draw = np.random.default_rng(0)
    what = Export(family, asdict(model), shapes, 64, dtype, layers=layers, **more)
    leaves = {p: np.float32(0.3) * draw.standard_normal(shapes[p], np.float32) for p in what.paths()}
    return model, what, {p: a + 0.5 if p.endswith("scale") else a for p, a in leaves.items()}
