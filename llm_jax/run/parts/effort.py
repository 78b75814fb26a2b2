"""Model FLOPs of training on a token of a batch, with all that the objective has read beside it."""

from collections.abc import Collection

from llm_jax.adapt.adapted import Adapted, unadapted
from llm_jax.adapt.headed import Headed
from llm_jax.core.types import Conditional, Decodes, Latent, Model, Objective
from llm_jax.cost import flops


def seen(model: Model, objective: Objective) -> float:
    """Return the share of the pairs of tokens that attention is of, over all layers and tasks.

    Of prefixes both ways; of encoders, and of the source that a decoder looks at, all.
    """
    tasks = _tasks(objective)
    return sum(_seen(model, task) for task in tasks) / len(tasks)


def flops_per_token(model: Model, objective: Objective, seq_len: int, *, masked: bool = True) -> float:
    """Return the FLOPs of training on one token of rows of `seq_len`, forward and backward, of all tasks together.

    masked: whether pairs of tokens that attention does not see are left out.
    A pair of answers is two rows of which one is counted; a reference, taken to be as large as the model, reads both.
    Of a model with a head for labels no token is predicted; of one with an adapter most kernels have no gradient.
    """
    plain = unadapted(model)
    declared = plain.declarations()
    frozen = declared.keys() - model.chosen.keys() if isinstance(model, Adapted) else ()
    if isinstance(plain, Headed):
        declared = {path: d for path, d in declared.items() if "vocab" not in d.axes}

    def of(task: Objective) -> float:
        share = _seen(model, task) if masked else flops.WHOLE
        each = flops.per_token(declared, seq_len, seen=share, frozen=frozen)
        if hasattr(task, "reference"):
            each += flops.forward(declared, seq_len, seen=share)
        return each * (1 + ("rejected_tokens" in getattr(task, "reads", ())))

    return sum(map(of, _tasks(objective)))


def _tasks(objective: Objective) -> Collection[Objective]:
    """The objectives that read every row."""
    found: Collection[Objective] = getattr(objective, "objectives", (objective,))
    return found


def _seen(model: Model, task: Objective) -> float:
    plain = unadapted(model)
    plain = plain.base if isinstance(plain, Headed) else plain
    if not isinstance(plain, Decodes | Latent):
        return flops.WHOLE
    share = flops.PREFIX if getattr(task, "bidirectional", False) else flops.CAUSAL
    if not isinstance(plain, Conditional):
        return share
    declared = plain.declarations()
    own = {path: d for path, d in declared.items() if path.startswith("decoder_blocks/") and "/cross/" not in path}
    return flops.WHOLE - (flops.WHOLE - share) * flops.attention(own, 1) / flops.attention(declared, 1)
