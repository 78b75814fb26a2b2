"""A variational autoencoder of texts (Bowman et al. 2016): a text as a vector, and the text again from the vector.

An encoder reads the row and gives a Gaussian q(z | row); a decoder predicts each token from those before it and z,
which is added to every embedding. A row is one text. What is predicted is given the row's first token, and the bound
is log p(targets | first, z) - KL(q(z | row) || N(0, I)) (Kingma & Welling 2014).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from llm_jax.core import checks, keys
from llm_jax.core.targets import row_weights, targets_and_weights
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.mesh.place import place
from llm_jax.models.decoder import parts
from llm_jax.models.decoder.llama import Block, Table
from llm_jax.nn import cache as caches
from llm_jax.nn.attention import Context, context
from llm_jax.nn.declare import declarations, initialize, under, weight
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import fan_in, normal, zeros
from llm_jax.nn.linear import embed, logits
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.rotary import Rope
from llm_jax.nn.stack import stack

Gaussian = tuple[Float[Array, "B Z"], Float[Array, "B Z"]]  # mean, logarithm of the variance


class Posterior(nn.Module):
    """The mean of the states of a text -> the mean and the log-variance of q, which begins as N(0, I)."""

    size: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], real: Float[Array, "B T"]) -> Gaussian:
        pooled = (x * real[..., None]).sum(1) / jnp.maximum(real.sum(1), 1)[:, None].astype(x.dtype)

        def affine(name: str) -> Array:
            kernel = weight(self, name, (x.shape[-1], self.size), ("embed", None), normal(0.02))
            bias = weight(self, f"{name}_bias", (self.size,), (None,), zeros)
            return place((pooled @ kernel + bias).astype(jnp.float32), "batch", None)

        return affine("mean"), affine("log_variance")


class Condition(nn.Module):
    """z -> what is added to every embedding of the decoder."""

    width: int

    @nn.compact
    def __call__(self, z: Float[Array, "B Z"]) -> Float[Array, "B D"]:
        kernel = weight(self, "kernel", (z.shape[-1], self.width), (None, "embed"), fan_in(scale=0.1))
        return place(z.astype(kernel.dtype) @ kernel, "batch", "act_embed")


@dataclass(frozen=True)
class Vae:
    """The section `model` of this family: Llama's layers, num_layers of them in the encoder and in the decoder.

    latent_dim: Z. word_dropout: the share of the decoder's inputs that are hidden in training, so that it needs z.
    """

    vocab_size: int
    num_layers: int = 2
    embed_dim: int = 256
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    latent_dim: int = 32
    word_dropout: float = 0.0
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"
    rope: Rope = field(default_factory=Rope)

    def __post_init__(self) -> None:
        parts.check(self, latent_dim=self.latent_dim)
        checks.fraction("model", word_dropout=self.word_dropout)

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path."""
        x, where = jnp.zeros((1, 1, self.embed_dim)), Context(jnp.zeros((1, 1), jnp.int32), None)
        layers = declarations(self._block(), x, where, layers=self.num_layers)
        norm = declarations(RmsNorm(self.norm_eps), x)
        return under(
            embed=declarations(self._table()), encoder=layers, encoder_norm=norm,
            posterior=declarations(Posterior(self.latent_dim), x, jnp.ones((1, 1))),
            condition=declarations(Condition(self.embed_dim), jnp.zeros((1, self.latent_dim))),
            decoder=layers, final_norm=norm,
        )  # fmt: skip

    def init(self, key: Key) -> Params:
        """Initial values, as they are declared."""
        return initialize(self.declarations(), key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs given a z of each row's q; `extras` has KL(q || N(0, I)) of each row as `nats`, by dimension as `kl`.

        Without a key nothing is dropped, and z is drawn all the same, by a key that follows from the row alone.
        """
        mean, log_variance = self.posterior(params, batch, key=key)
        targets, weights = targets_and_weights(batch)
        noise = _by_row(targets * (weights > 0), self.latent_dim) if key is None else _noise(key, mean.shape)
        z = mean + jnp.exp(log_variance / 2) * noise
        outputs = self.decode(params, batch, z, key=key)
        kl = divergence(mean, log_variance) * row_weights(weights)[:, None]
        return Outputs(outputs.hidden, outputs.head, extras={"nats": kl.sum(1), "kl": kl})

    def posterior(self, params: Params, batch: Batch, *, key: Key | None = None) -> Gaussian:
        """Return q(z | row): mean and log-variance, float32 [B,Z] each.

        The encoder reads what is to be predicted; where that has no weight, it is padding.
        """
        targets, weights = targets_and_weights(batch)
        where, folded = context(batch), None if key is None else keys.fold(key, "encoder")
        real = where.real() & (weights > 0)
        where = replace(where, segments=real * (1 if where.segments is None else where.segments))
        x = self._embedded(params, targets, folded)
        x, _ = self._through(params["encoder"], x, where, None, folded)
        x = self._normal(params["encoder_norm"], x)
        posterior: Any = Posterior(self.latent_dim).apply
        return posterior({"params": params["posterior"]}, x, real.astype(x.dtype))

    def decode(self, params: Params, batch: Batch, z: Float[Array, "B Z"], *, key: Key | None = None) -> Outputs:
        """Return the outputs of a batch given its latent vectors."""
        folded = None if key is None else keys.fold(key, "decoder")
        return self._decode(params, batch["tokens"], z, context(batch), None, folded)[0]

    def sample(self, params: Params, key: Key, start: Int[Array, "B"], length: int) -> Int[Array, "B T"]:
        """Draw a text for each starting token: z of N(0, I), then each token of its distribution."""
        return self.write(params, _noise(key, (start.shape[0], self.latent_dim)), key, start, length)

    def write(
        self, params: Params, z: Float[Array, "B Z"], key: Key | None, start: Int[Array, "B"], length: int
    ) -> Int[Array, "B T"]:
        """Draw a text from each latent vector; without a key each token is the likeliest."""
        cache = caches.full(self.num_layers, len(start), length, parts.kv_heads(self), parts.head_dim(self))

        def step(carry: tuple[Array, Cache], index: Array) -> tuple[tuple[Array, Cache], Array]:
            tokens, cache = carry
            outputs, cache = self._decode(
                params, tokens[:, None], z, context({"tokens": tokens[:, None]}, cache), cache
            )
            scores = outputs.logits[:, 0]
            drawn = None if key is None else keys.fold(key, "token", index)
            new = scores.argmax(-1) if drawn is None else jax.random.categorical(drawn, scores)
            return (new.astype(jnp.int32), cache), new

        tokens = jax.lax.scan(step, (jnp.asarray(start, jnp.int32), cache), jnp.arange(length))[1]
        return tokens.T.astype(jnp.int32)

    def _decode(
        self, params: Params, tokens: Array, z: Array, where: Context, cache: Cache = None, key: Key | None = None
    ) -> tuple[Outputs, Cache]:
        x = self._embedded(params, tokens, key)
        if key is not None and self.word_dropout:
            hidden = jax.random.bernoulli(keys.fold(key, "words"), self.word_dropout, x.shape[:2])
            x = jnp.where(hidden[..., None], 0, x)
        condition: Any = Condition(self.embed_dim).apply({"params": params["condition"]}, z)
        x = x + condition[:, None]
        cache = cache and cache.reserve(where.real())
        x, cache = self._through(params["decoder"], x, where, cache, key)
        hidden = self._normal(params["final_norm"], x)
        table: Any = self._table().apply({"params": params["embed"]})
        return Outputs(hidden, Partial(logits, table=table)), cache and cache.advance(where.real())

    def _embedded(self, params: Params, tokens: Array, key: Key | None) -> Array:
        table: Any = self._table().apply({"params": params["embed"]})
        x = embed(table, jnp.asarray(tokens, jnp.int32))
        return dropout(x, self.dropout, None if key is None else keys.fold(key, "embed"))

    def _through(self, params: Params, x: Array, where: Context, cache: Cache, key: Key | None) -> tuple[Array, Cache]:
        block = self._block()
        return stack(lambda p, *inputs: block.apply({"params": p}, *inputs), params, x, where, cache, key)

    def _block(self) -> Block:
        return Block(parts.attention(self), parts.mlp(self), self.dropout, self.norm_eps)

    def _normal(self, params: Params, x: Array) -> Any:
        return RmsNorm(self.norm_eps).apply({"params": params}, x)

    def _table(self) -> Table:
        return Table(self.vocab_size, self.embed_dim)


def divergence(mean: Float[Array, "B Z"], log_variance: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
    """Return KL(N(mean, variance) || N(0, 1)) in nats, dimension by dimension (Kingma & Welling 2014, appendix B)."""
    return (jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1) / 2


def _noise(key: Key, shape: tuple[int, ...]) -> Array:
    return jax.random.normal(keys.fold(key, "latent"), shape)


def _by_row(tokens: Int[Array, "B T"], size: int) -> Float[Array, "B Z"]:
    """Normal values of each row, which are the same in every batch."""
    return jax.vmap(lambda key: _noise(key, (size,)))(keys.of_rows(tokens))
