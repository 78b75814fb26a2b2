"""Model FLOPs of training on a token of a batch, with all that the objective has read beside it."""

from llm_jax.adapt.adapted import Adapted, unadapted
from llm_jax.adapt.headed import Headed
from llm_jax.core.types import Decodes, Latent, Model, Objective
from llm_jax.cost import flops


def seen(model: Model, objective: Objective) -> float:
    """Return the share of a row's pairs of tokens that attention is of: of prefixes both ways, of encoders all."""
    plain = unadapted(model)
    if not isinstance(plain.base if isinstance(plain, Headed) else plain, Decodes | Latent):
        return flops.WHOLE
    return flops.PREFIX if getattr(objective, "bidirectional", False) else flops.CAUSAL


def flops_per_token(model: Model, objective: Objective, seq_len: int, *, masked: bool = True) -> float:
    """Return the FLOPs of training on one token of rows of `seq_len`, forward and backward.

    masked: whether pairs of tokens that attention does not see are left out.
    A pair of answers is two rows of which one is counted; a reference, taken to be as large as the model, reads both.
    Of a model with a head for labels no token is predicted; of one with an adapter most kernels have no gradient.
    """
    plain = unadapted(model)
    declared = plain.declarations()
    frozen = declared.keys() - model.chosen.keys() if isinstance(model, Adapted) else ()
    if isinstance(plain, Headed):
        declared = {path: d for path, d in declared.items() if "vocab" not in d.axes}
    share = seen(model, objective) if masked else flops.WHOLE
    each = flops.per_token(declared, seq_len, seen=share, frozen=frozen)
    if hasattr(objective, "reference"):
        each += flops.forward(declared, seq_len, seen=share)
    return each * (1 + ("rejected_tokens" in getattr(objective, "reads", ())))
