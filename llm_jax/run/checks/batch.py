"""Do the rows of a batch divide into its parts and over the mesh?"""

from llm_jax.core.checks import nearest_multiple
from llm_jax.core.table import UserError


def check(size: int, microbatches: int, shards: int) -> None:
    """Refuse a training batch whose rows do not divide.

    Raises:
        UserError: the numbers, and the nearest size that does.
    """
    unit = microbatches * shards
    if size % unit:
        raise UserError(
            f"data.batch_size={size} does not divide into train.microbatches={microbatches} parts over "
            f"{shards} shards of the batch; try {nearest_multiple(size, unit)}"
        )


def check_judged(size: int | None, shards: int) -> None:
    """Refuse an evaluation batch whose rows do not divide; None is the training batch's size.

    Raises:
        UserError: the numbers, and the nearest size that does.
    """
    if size is not None and size % shards:
        raise UserError(
            f"eval.batch_size={size} does not divide into {shards} shards of the batch; "
            f"try {nearest_multiple(size, shards)}"
        )
