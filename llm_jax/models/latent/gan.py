"""A generative adversarial network of texts: a generator that draws whole rows, and a discriminator that judges them.

The generator turns a vector z and the places of a row into logits of all tokens at once. Tokens are drawn from them by
the straight-through Gumbel-softmax (Jang et al. 2017): one-hots, with the gradient of a softmax. It has no likelihood.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Batch, Declaration, Key, Outputs, Params
from llm_jax.mesh.place import place
from llm_jax.models.decoder import parts
from llm_jax.models.decoder.llama import Block, Table
from llm_jax.nn.attention import Context, context
from llm_jax.nn.declare import declarations, initialize, under, weight
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import fan_in, normal, zeros
from llm_jax.nn.linear import embed, linear, logits
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.rotary import Rope
from llm_jax.nn.stack import stack

WHOLE = ("batch", "act_seq", "act_embed")


class Source(nn.Module):
    """z and positions -> what the generator's first layer reads: kernel · z + position embedding."""

    max_positions: int
    width: int

    @nn.compact
    def __call__(self, z: Float[Array, "B Z"], positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        kernel = weight(self, "kernel", (z.shape[-1], self.width), (None, "embed"), fan_in(scale=0.02))
        places = weight(self, "positions", (self.max_positions, self.width), (None, "embed"), normal(0.02))
        text = place(z.astype(kernel.dtype) @ kernel, "batch", "act_embed")
        return place(embed(places, positions) + text[:, None], *WHOLE)


class Score(nn.Module):
    """The mean of the states of a text -> the log-odds that it is real."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], real: Float[Array, "B T"]) -> Float[Array, "B"]:
        pooled = (x * real[..., None]).sum(1) / jnp.maximum(real.sum(1), 1)[:, None].astype(x.dtype)
        kernel = weight(self, "kernel", (x.shape[-1], 1), ("embed", None), normal(0.02))
        bias = weight(self, "bias", (1,), (None,), zeros)
        return place((pooled @ kernel + bias).astype(jnp.float32), "batch", None)[:, 0]


@dataclass(frozen=True)
class Gan:
    """The section `model` of this family: Llama's layers that see the whole row, num_layers of them in each player.

    max_positions: tokens of the longest text. latent_dim: Z. temperature: of the softmax whose gradient the drawn
    tokens have. dropout: of the discriminator.
    """

    vocab_size: int
    max_positions: int
    num_layers: int = 2
    embed_dim: int = 256
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    latent_dim: int = 32
    temperature: float = 1.0
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"
    rope: Rope = field(default_factory=Rope)

    def __post_init__(self) -> None:
        parts.check(
            self, max_positions=self.max_positions, latent_dim=self.latent_dim, temperature=self.temperature
        )  # fmt: skip

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path: those of the generator, then those of the discriminator."""
        x, where = jnp.zeros((1, 1, self.embed_dim)), Context(jnp.zeros((1, 1), jnp.int32), None)
        table, norm = declarations(self._table()), declarations(RmsNorm(self.norm_eps), x)
        layers = declarations(self._block(0.0), x, where, layers=self.num_layers)
        source = declarations(self._source(), jnp.zeros((1, self.latent_dim)), where.positions)
        score = declarations(Score(), x, jnp.ones((1, 1)))
        return under(
            generator=under(source=source, blocks=layers, final_norm=norm, head=table),
            discriminator=under(embed=table, blocks=layers, final_norm=norm, score=score),
        )

    def init(self, key: Key) -> Params:
        """Initial values, as they are declared."""
        return initialize(self.declarations(), key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of the generator, which reads no token: for each row of the batch those of one z.

        Without a key z is drawn by a key that follows from the row alone.
        """
        targets, weights = targets_and_weights(batch)
        each = keys.of_rows(targets * (weights > 0)) if key is None else jax.random.split(key, len(targets))
        return self._generated(params["generator"], each, context(batch))

    def generate(self, params: Params, row_keys: Key, length: int) -> Float[Array, "B T V"]:
        """Draw a text for each key, as one-hots with the gradient of the softmax.

        Raises:
            UserError: the text is longer than the generator's.
        """
        if length > self.max_positions:
            raise UserError(f"model.max_positions={self.max_positions} is below the {length} tokens of a text")
        positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (len(row_keys), length))
        scores = self._generated(params["generator"], row_keys, Context(positions, None)).logits
        noise = jax.vmap(lambda key: jax.random.gumbel(keys.fold(key, "tokens"), scores.shape[1:]))(row_keys)
        return straight_through(scores + noise, self.temperature)

    def discriminate(
        self,
        params: Params,
        x: Int[Array, "B T"] | Float[Array, "B T V"],
        real: Bool[Array, "B T"] | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "B"]:
        """Return the log-odds that each text, ids or one-hots, is real; it reads tokens where `real` is True."""
        own = params["discriminator"]
        read = jnp.ones(x.shape[:2], bool) if real is None else jnp.asarray(real, bool)
        where = context({"tokens": read, **({} if real is None else {"segments": read.astype(jnp.int32)})})
        table: Any = self._table().apply({"params": own["embed"]})
        if x.ndim == 2:
            states = embed(table, jnp.asarray(x, jnp.int32))
        else:
            states = linear(jnp.asarray(x, table.dtype), table, out=WHOLE)
        states = dropout(states, self.dropout, None if key is None else keys.fold(key, "embed"))
        states = self._through(own, states, where, self.dropout, key)
        scored: Any = Score().apply({"params": own["score"]}, states, read.astype(states.dtype))
        return scored

    def sample(self, params: Params, key: Key, start: Int[Array, "B"], length: int) -> Int[Array, "B T"]:
        """Draw a text for each row of `start`, whose tokens are not read."""
        return self.generate(params, jax.random.split(key, start.shape[0]), length).argmax(-1).astype(jnp.int32)

    def _generated(self, own: Params, row_keys: Key, where: Context) -> Outputs:
        z = jax.vmap(lambda key: jax.random.normal(keys.fold(key, "latent"), (self.latent_dim,)))(row_keys)
        x: Any = self._source().apply({"params": own["source"]}, z, where.positions)
        hidden = self._through(own, x, where, 0.0, None)
        table: Any = self._table().apply({"params": own["head"]})
        return Outputs(hidden, Partial(logits, table=table))

    def _through(self, own: Params, x: Array, where: Context, rate: float, key: Key | None) -> Any:
        block = self._block(rate)
        x, _ = stack(lambda p, *inputs: block.apply({"params": p}, *inputs), own["blocks"], x, where, None, key)
        return RmsNorm(self.norm_eps).apply({"params": own["final_norm"]}, x)

    def _block(self, rate: float) -> Block:
        return Block(parts.attention(self, causal=False), parts.mlp(self), rate, self.norm_eps)

    def _source(self) -> Source:
        return Source(self.max_positions, self.embed_dim)

    def _table(self) -> Table:
        return Table(self.vocab_size, self.embed_dim)


def straight_through(scores: Float[Array, "*N V"], temperature: float = 1.0) -> Float[Array, "*N V"]:
    """Return the one-hots of the largest scores, with the gradient of softmax(scores / temperature).

    Jang et al. 2017, §2.2; of scores with Gumbel noise they are draws of the distribution (Maddison et al. 2014).
    """
    soft = jax.nn.softmax(scores / temperature)
    hard = jax.nn.one_hot(scores.argmax(-1), scores.shape[-1], dtype=soft.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))
