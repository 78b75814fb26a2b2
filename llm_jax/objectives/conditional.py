"""What the objectives share that write a text from another: which models fit, and ranges of their options."""

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.types import Conditional, Model


def check_source(name: str, model: Model) -> None:
    """Refuse a model that does not read `source_tokens`: it would be asked to guess the source of objective `name`."""
    if not isinstance(model, Conditional):
        raise UserError(
            f"objective.name={name!r} needs a model that writes one text from another (an encoder-decoder such as t5 "
            f"or bart), which model.name={type(model).__name__.lower()!r} is not; "
            "'causal' and 'prefix' fit every decoder"
        )


def check_corruption(*, rate: float, mean_span: float, sentinels: int) -> None:
    """Refuse shares, lengths and numbers of sentinels that hide nothing, or everything."""
    checks.fraction("objective", rate=rate)
    checks.positive("objective", rate=rate, mean_span=mean_span, sentinels=sentinels)


def check_sentinels(spans: int, sentinels: int, seq_len: int) -> None:
    """Refuse a text with more spans than there are sentinels."""
    if spans > sentinels:
        raise UserError(
            f"objective.sentinels={sentinels}: a text of data.seq_len={seq_len} tokens has {spans} spans; "
            f"set at least {spans}, or a shorter data.seq_len"
        )
