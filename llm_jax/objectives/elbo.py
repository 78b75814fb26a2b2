"""The bound of a variational autoencoder (Kingma & Welling 2014), KL annealing (Bowman et al. 2016) and free bits."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.targets import row_weights, targets_and_weights
from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.data.features import Fields, Transform
from llm_jax.kernels.cross_entropy import chunked
from llm_jax.text.base import Tokenizer


@dataclass(frozen=True)
class Elbo:
    """The section `objective`: reconstruction + beta · KL, in nats a token.

    beta: the weight of the KL in the end (Higgins et al. 2017; 1 is the bound). warmup: examples over which it rises
    from 0. free_bits: nats of each latent dimension of each row that cost nothing (Kingma et al. 2016, eq. 15, there
    of the mean of a batch; here of each row, so that parts of a batch add up to the whole).
    """

    beta: float = 1.0
    warmup: int = 0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        checks.non_negative("objective", beta=self.beta, warmup=self.warmup, free_bits=self.free_bits)

    def transform(self, words: Tokenizer, seq_len: int, seed: int) -> Transform:
        """Return what adds `example`, int32 [B]: the number of each example, by which the KL is annealed."""

        def numbered(fields: Fields, numbers: np.ndarray) -> Fields:
            return fields | {"example": np.minimum(numbers, np.iinfo(np.int32).max).astype(np.int32)}

        return numbered

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and for the log `loss` (the bound), `reconstruction` and `kl`, in nats a token.

        Raises:
            UserError: the model has no latent vectors.
        """
        targets, weights = targets_and_weights(batch)
        outputs = model.apply(params, batch, key=key)
        if "kl" not in outputs.extras:
            raise UserError('objective.name="elbo" needs a model with latent vectors, such as model.name="vae"')
        nll, weight = chunked(outputs.head, outputs.hidden, targets).nll, weights.sum()
        kl, free = outputs.extras["kl"], self.free_bits * row_weights(weights)[:, None]
        reconstruction, divergence = Mean((nll * weights).sum(), weight), Mean(kl.sum(), weight)
        charged = self._beta(batch)[:, None] * jnp.maximum(kl, free)
        loss = Mean(reconstruction.total + charged.sum(), weight)
        bound = Mean(reconstruction.total + divergence.total, weight)
        return loss, {"loss": bound, "reconstruction": reconstruction, "kl": divergence}

    def _beta(self, batch: Batch) -> jnp.ndarray:
        """The weight of the KL of each row, float32 [B]; whole where examples are not numbered."""
        rows = batch["tokens"].shape[0]
        if not self.warmup or "example" not in batch:
            return jnp.full(rows, self.beta, jnp.float32)
        return self.beta * jnp.minimum(jnp.asarray(batch["example"], jnp.float32) / self.warmup, 1.0)
