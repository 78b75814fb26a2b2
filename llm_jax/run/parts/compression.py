"""Smaller models: how a packed one is kept, and how one is pruned in training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_jax.adapt.pack import FORMS, Packing
from llm_jax.core import checks
from llm_jax.core.table import UserError, choices
from llm_jax.optim.sparsity import Gradual, parse, pruned

EMBEDDINGS = {"float32": None, "int8": Packing("int8", None)}  # how a table is kept: a scale for each row


@dataclass(frozen=True)
class Compress:
    """How the kernels of a model that is done with learning are kept; the verb `compress` sets it.

    quantize: int8, int4 or nf4, None for float32. group: inputs that share a scale, None for all of an output.
    embeddings: of tables with a row for each token, the output head among them: int8, a scale for each, or float32.
    """

    quantize: str | None = None
    group: int | None = None
    embeddings: str = "float32"

    def __post_init__(self) -> None:
        checks.positive("compress", group=self.group)
        if self.quantize not in (None, *FORMS):
            raise UserError(f"compress.quantize={self.quantize!r} is not known; choose one of: {choices(FORMS)}")
        if self.embeddings not in EMBEDDINGS:
            raise UserError(
                f"compress.embeddings={self.embeddings!r} is not known; choose one of: {choices(EMBEDDINGS)}"
            )
        if self.quantize is None and EMBEDDINGS[self.embeddings]:
            raise UserError(f"compress.embeddings={self.embeddings!r} is of packed models; set compress.quantize too")

    def refuse(self) -> None:
        """Refuse to train a packed model."""
        if self.quantize is not None:
            raise UserError(
                f"compress.quantize={self.quantize!r}: a packed model is not trained; train it in float32, then "
                "`python -m llm_jax compress`. To learn beside packed kernels (QLoRA) set adapt.name and adapt.pack"
            )


@dataclass(frozen=True)
class Prune:
    """How the smallest weights of layers become 0 in training (`optim.sparsity`).

    sparsity: "0.5", a share of each kernel, or "2:4"; None prunes nothing. begin, end: steps between which the share
    grows by the cubic schedule, None for a quarter and three quarters of the training. every: steps from one pruning
    to the next.
    """

    sparsity: str | None = None
    begin: int | None = None
    end: int | None = None
    every: int = 10

    def __post_init__(self) -> None:
        checks.positive("prune", begin=self.begin, end=self.end, every=self.every)
        if self.sparsity is not None:
            parse(self.sparsity, "prune.sparsity")
        elif self.begin or self.end:
            raise UserError('prune.begin and prune.end need prune.sparsity, such as "0.5" or "2:4"')

    def schedule(self, steps: int | None) -> Gradual:
        """When weights are pruned in a training of so many steps; None for one whose length is not known."""
        if steps is None and (self.begin is None or self.end is None):
            raise UserError("prune.begin and prune.end must be given for a train.duration that is not known in steps")
        begin = max(1, (steps or 0) // 4) if self.begin is None else self.begin
        end = max(begin, 3 * (steps or 0) // 4) if self.end is None else self.end
        if end < begin or (steps is not None and end > steps):
            raise UserError(f"prune.begin={begin}, prune.end={end} must follow each other within the {steps} steps")
        return Gradual(begin, end, self.every)

    def around(self, transform: Any, values: Mapping[str, Any], steps: int | None) -> Any:
        """Return an optimizer that prunes as well, of a training of so many steps; itself where nothing is pruned.

        Raises:
            UserError: something else in the configuration `values` says which parameters change.
        """
        if self.sparsity is None:
            return transform
        adapter = values["adapt"]["name"]
        others = {
            "optimizer.freeze": values["optimizer"]["freeze"], "train.ema": values["train"]["ema"],
            "adapt.name": "" if adapter == "none" else adapter,
        }  # fmt: skip
        for key, value in others.items():
            if value:
                raise UserError(f"prune.sparsity={self.sparsity!r} cannot be with {key}={value!r}; leave out one")
        return pruned(transform, parse(self.sparsity, "prune.sparsity"), self.schedule(steps))
