"""The game of a generator and a discriminator, both by gradient at once (Goodfellow et al. 2014, non-saturating)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core import checks, keys
from llm_jax.core.table import UserError
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Adversaries, Array, Batch, Key, Mean, Model, Params, Stats


class Rows(NamedTuple):
    """What each row costs either player in nats, whether its fake was scored real (0 or 1), and its weight; [B]."""

    generator: Array
    discriminator: Array
    fooled: Array
    weight: Array


@dataclass(frozen=True)
class Adversarial:
    """The section `objective`: a row of text against a fake of the same length; the loss is that of both players.

    smoothing: by how much less than 1 the discriminator is to be sure of real text (Salimans et al. 2016, §3.4).
    """

    smoothing: float = 0.0
    judged = "adversarial"

    def __post_init__(self) -> None:
        checks.fraction("objective", smoothing=self.smoothing)

    def fits(self, model: Model) -> None:
        """Refuse a model that has no two players."""
        if not isinstance(model, Adversaries):
            raise UserError(
                'objective.name="adversarial" needs a generator and a discriminator, such as model.name="gan"; '
                f"model.name={type(model).__name__.lower()!r} has none"
            )

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and `loss`, `generator` and `discriminator` in nats a row, and the share of
        fakes that are scored real as `fooled`.

        A row counts as its tokens do. Without a key each row's fake follows from the row.

        Raises:
            UserError: the model has no two players.
        """
        found = self.rows(model, params, batch, key)
        each = found._asdict() | {"loss": found.generator + found.discriminator}
        weight = each.pop("weight")
        stats = {name: Mean((value * weight).sum(), weight.sum()) for name, value in each.items()}
        return stats["loss"], stats

    def rows(self, model: Model, params: Params, batch: Batch, key: Key | None) -> Rows:
        """Return what each row costs; the gradient of each player's cost is by its own parameters alone."""
        self.fits(model)
        assert isinstance(model, Adversaries)
        targets, weights = targets_and_weights(batch)
        real = weights > 0
        each = keys.of_rows(targets * real) if key is None else jax.random.split(keys.fold(key, "fakes"), len(targets))
        fakes = model.generate(params, each, targets.shape[1])
        drop = [None if key is None else keys.fold(key, name) for name in ("text", "fake", "own")]
        sure = model.discriminate(params, targets, real, key=drop[0])
        caught = model.discriminate(params, jax.lax.stop_gradient(fakes), real, key=drop[1])
        judge = params | {"discriminator": jax.lax.stop_gradient(params["discriminator"])}
        passed = model.discriminate(judge, fakes, real, key=drop[2])
        return Rows(
            generator=jax.nn.softplus(-passed),
            discriminator=jax.nn.softplus(-sure) + self.smoothing * sure + jax.nn.softplus(caught),
            fooled=(caught > 0).astype(jnp.float32),
            weight=weights.sum(1),
        )
