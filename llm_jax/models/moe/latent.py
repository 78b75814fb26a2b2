"""Multi-head latent attention (DeepSeek-V2, 2024, §2.1): keys and values are made of one small vector a token.

Only that vector and one turned key shared by all heads are kept in the cache. A text is read by expanding the vectors
into keys and values of every head; what follows it, by folding the expansion into the queries and the output instead,
so that nothing is ever expanded for the past.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.core.table import lookup
from llm_jax.kernels import ATTENTION
from llm_jax.mesh.place import place
from llm_jax.mesh.remat import named
from llm_jax.nn.attention import Context
from llm_jax.nn.cache import Past
from llm_jax.nn.declare import weight
from llm_jax.nn.linear import linear
from llm_jax.nn.mlp import WIDTH
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.rotary import rotate

WHOLE, HEADS = ("batch", "seq", None), ("batch", "seq", "act_heads", None)


class LatentAttention(nn.Module):
    """out(attention(query(x), keys and values expanded from latent(x))).

    nope_dim, rope_dim: sizes of a key's parts that positions do not turn and do turn. value_dim: of a value. rank: of
    the latent vector. query_rank: of the queries' own latent vector, or None. amplitude: see `Yarn`. interleaved:
    whether the pairs to turn lie side by side.
    """

    num_heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rank: int
    query_rank: int | None
    in_init: Any
    out_init: Any
    wavelengths: Any
    scale: float
    amplitude: float = 1.0
    interleaved: bool = True
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: int | Array = 0, cache: Past | None = None
    ) -> tuple[Float[Array, "B T D"], Past | None]:
        D, H, N = x.shape[-1], self.num_heads, self.nope_dim
        q = named(self._queries(x), "query")
        q, q_turned = q[..., :N], self._turn(q[..., N:], where)
        latent = linear(x, weight(self, "latent", (D, self.rank), ("embed", None), self.in_init), out=WHOLE)
        latent = RmsNorm(name="latent_norm")(latent)
        key = linear(x, weight(self, "turned_key", (D, self.rope_dim), ("embed", None), self.in_init), out=WHOLE)
        key = self._turn(key[:, :, None], where)
        axes = (None, "heads", "head")
        expand = weight(self, "expand", (self.rank, H, N + self.value_dim), axes, self.in_init)
        if cache is not None:
            cache = cache.write(layer, key, latent[:, :, None])
        if cache is None or where.prompt:
            y = self._expanded(q, q_turned, latent, key, expand, where)
        else:
            y = self._folded(q, q_turned, expand, cache, layer)
        out = weight(self, "out", (H, self.value_dim, D), ("heads", "head", "embed"), self.out_init)
        y = linear(named(y, "attention"), out, contract=2, out=WIDTH)
        return named(y, "attention_out"), cache

    def _queries(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H K"]:
        heads = (self.num_heads, self.nope_dim + self.rope_dim)
        if self.query_rank is None:
            kernel = weight(self, "query", (x.shape[-1], *heads), ("embed", "heads", "head"), self.in_init)
            return linear(x, kernel, out=HEADS)
        down = weight(self, "query_down", (x.shape[-1], self.query_rank), ("embed", None), self.in_init)
        latent = RmsNorm(name="query_norm")(linear(x, down, out=WHOLE))
        return linear(
            latent,
            weight(self, "query_up", (self.query_rank, *heads), (None, "heads", "head"), self.in_init),
            out=HEADS,
        )

    def _turn(self, x: Float[Array, "B T H R"], where: Context) -> Float[Array, "B T H R"]:
        """Rotary positions; pairs that lie side by side are first put into halves."""
        if self.interleaved:
            x = jnp.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)
        return rotate(x, where.positions, self.wavelengths) * jnp.asarray(self.amplitude, x.dtype)

    def _expanded(self, q, q_turned, latent, key, expand, where) -> Float[Array, "B T H V"]:
        """Attention of tokens that see only each other, by keys and values of every head."""
        N = self.nope_dim
        keys_values = linear(latent, expand, out=HEADS)
        everywhere = place(jnp.broadcast_to(key, (*key.shape[:2], self.num_heads, self.rope_dim)), *HEADS)
        k = named(jnp.concatenate([keys_values[..., :N], everywhere], axis=-1), "key")
        q = jnp.concatenate([q, q_turned], axis=-1)
        return self._attention()(q, k, named(keys_values[..., N:], "value"), **where.among())

    def _folded(self, q, q_turned, expand, cache, layer) -> Float[Array, "B T H V"]:
        """Attention to the cache: q · (E c) = (Eᵀ q) · c, so that latent vectors are keys and values of one head."""
        N = self.nope_dim
        key, latent = cache.read(layer)
        q = jnp.concatenate([jnp.einsum("bthk,chk->bthc", q, expand[..., :N]), q_turned], axis=-1)
        k = jnp.concatenate([latent, key], axis=-1)
        seen = (jnp.ones(q.shape[:2], jnp.int32), cache.valid.astype(jnp.int32))
        mixed = self._attention()(q, k, latent, offset=cache.length, segments=seen)
        return jnp.einsum("bthc,chv->bthv", mixed, expand[..., N:])

    def _attention(self) -> Any:
        return partial(lookup(ATTENTION, self.kernel, "model.attention"), scale=self.scale)
