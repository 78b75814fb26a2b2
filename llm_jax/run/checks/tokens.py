"""Texts that a mesh splits along their length: do they divide, and the heads that are exchanged for them?"""

import math
from collections.abc import Mapping

from llm_jax.core.checks import nearest_multiple
from llm_jax.core.table import UserError
from llm_jax.core.types import Model
from llm_jax.kernels.context import check_heads
from llm_jax.run.sections import Mesh


def check(mesh: Mesh, length: int, shape: Mapping[str, int], built: Model) -> None:
    """Refuse texts that do not split over a mesh of this shape, and heads that cannot be exchanged for them.

    Raises:
        UserError: the length or the number that does not divide, and the nearest that does.
    """
    context, tensor = shape.get("context", 1), shape.get("tensor", 1)
    by_heads, between = mesh.context_by == "heads", mesh.sequence_sharded
    chunks = math.lcm(context if by_heads or context == 1 else 2 * context, context * tensor if between else 1)
    if length % chunks:
        text = f"mesh.context={context}" + (f" x mesh.tensor={tensor} with mesh.sequence_sharded" if between else "")
        near = nearest_multiple(length, chunks)
        raise UserError(f"data.seq_len={length} does not split into {chunks} chunks for {text}; try {near}")
    heads = getattr(built, "num_heads", None)
    if by_heads and heads and hasattr(built, "attention"):
        check_heads(heads if heads % tensor else heads // tensor, context)
