"""Model FLOPs of training on a token of a batch, with all that the objective has read beside it."""

from llm_jax.adapt.adapted import Adapted, unadapted
from llm_jax.adapt.headed import Headed
from llm_jax.core.types import Model, Objective
from llm_jax.cost import flops


def flops_per_token(model: Model, objective: Objective, seq_len: int, *, causal: bool = True) -> float:
    """Return the FLOPs of training on one token of rows of `seq_len`, forward and backward.

    A pair of answers is two rows of which one is counted; a reference, taken to be as large as the model, reads both.
    Of a model with a head for labels no token is predicted; of one with an adapter most kernels have no gradient.
    """
    plain = unadapted(model)
    declared = plain.declarations()
    frozen = declared.keys() - model.chosen.keys() if isinstance(model, Adapted) else ()
    if isinstance(plain, Headed):
        declared = {path: d for path, d in declared.items() if "vocab" not in d.axes}
    each = flops.per_token(declared, seq_len, causal=causal, frozen=frozen)
    if hasattr(objective, "reference"):
        each += flops.forward(declared, seq_len, causal=causal)
    return each * (1 + ("rejected_tokens" in getattr(objective, "reads", ())))
