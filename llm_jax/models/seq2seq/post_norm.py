"""What BART and Marian share: the blocks of the first Transformer (Vaswani et al. 2017), norms after each part.

A family has the fields of `Bart` but for the positions, and beside what `parts` asks for

- `_places(params, side, x, positions)`: vectors with positions in them, and `_placed()`: their declarations by part;
- `_starts()`: the initializers of tokens, of what leads into attention and out of it, and up and down the mlp;
- `_activation()`: of the mlp.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.types import Cache, Declaration, Key, Outputs, Params
from llm_jax.models.seq2seq import parts
from llm_jax.nn.attention import Context, SelfAttention
from llm_jax.nn.cross.attention import CrossAttention, Paired, Source
from llm_jax.nn.declare import declarations as declared
from llm_jax.nn.declare import under
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import zeros
from llm_jax.nn.linear import embed, logits
from llm_jax.nn.mlp import Mlp
from llm_jax.nn.norm import LayerNorm

Family = Any
EPS = 1e-5  # of every norm
DROPPED = {"encoder": "source", "decoder": "embed"}


class Block(nn.Module):
    """norm(x + attention(x)), then, in a decoder with a source, norm(x + cross(x)), then norm(x + mlp(x))."""

    attention: Any
    cross: Any
    mlp: Any
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Any, layer: Any = 0, cache: Cache = None, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        place, source = where
        drop = [None if key is None else keys.fold(key, name, layer) for name in ("attention", "cross", "mlp")]
        paired = isinstance(cache, Paired)
        y, past = self.attention(x, place, layer, cache.past if paired else None)
        x = LayerNorm(EPS, name="attention_norm")(x + dropout(y, self.dropout, drop[0]))
        if source is not None and self.cross is not None:
            numbers = jnp.ones(x.shape[:2], jnp.int32) if place.segments is None else place.segments
            y = self.cross(x, numbers, source, cache.of(layer) if paired else None)
            x = LayerNorm(EPS, name="cross_norm")(x + dropout(y, self.dropout, drop[1]))
        x = LayerNorm(EPS, name="mlp_norm")(x + dropout(self.mlp(x), self.dropout, drop[2]))
        return x, Paired(past, cache.memory, cache.segments) if paired else cache


def check(model: Family) -> None:
    """Refuse sizes that make no model.

    Raises:
        UserError: names the field and its value.
    """
    parts.check(model)
    checks.divides("model", "num_heads", model.num_heads, "embed_dim", model.embed_dim)


def declarations(model: Family) -> dict[str, Declaration]:
    """Every parameter by path."""
    x, one = jnp.zeros((1, 1, model.embed_dim)), jnp.ones((1, 1), jnp.int32)
    where, layers = (Context(one, None), Source(x, one)), model.encoder_layers or model.num_layers
    found = {
        "embed": declared(_table(model)),
        "decoder_blocks": declared(model._block(causal=True), x, where, layers=model.num_layers),
        "encoder_blocks": declared(model._block(causal=False), x, where, layers=layers),
        **model._placed(),
    }
    return under(**found, head=declared(_bias(model))) if model.logits_bias else under(**found)


def block(model: Family, *, causal: bool) -> Block:
    """The layer of the encoder, or, causal, of the decoder."""
    heads, size = model.num_heads, model._head_dim
    _, into, out, up, down = model._starts()
    cross = CrossAttention(heads, size, into, into, out, bias=True, scale=size**-0.5) if causal else None
    return Block(
        SelfAttention(heads, heads, size, into, out, model.attention, bias=True, causal=causal), cross,
        Mlp(model.mlp_dim or 4 * model.embed_dim, up, down, model._activation()), model.dropout,
    )  # fmt: skip


def opened(model: Family, params: Params, side: str, tokens: Array, positions: Array, key: Key | None) -> Array:
    """Tokens to vectors: scaled, with positions in them."""
    x = embed(parts.read(_table(model), params, "embed"), tokens)
    x = x * jnp.asarray(model.embed_dim**0.5, x.dtype) if model.scaled else x
    x = model._places(params, side, x, positions)
    return dropout(x, model.dropout, None if key is None else keys.fold(key, DROPPED[side]))


def where(model: Family, params: Params, side: str, place: Context, source: Source | None) -> Any:
    """What the layers read beside vectors."""
    return place, source


def closed(model: Family, params: Params, side: str, x: Array, key: Key | None) -> Array:
    """The result of the last layer as it is: its last part was a norm."""
    return x


def headed(model: Family, params: Params, hidden: Array) -> Outputs:
    """Outputs whose head is the table of tokens and, with logits_bias, a bias."""
    table = parts.read(_table(model), params, "embed")
    if not model.logits_bias:
        return Outputs(hidden, Partial(logits, table=table))
    return Outputs(hidden, Partial(_scores, table=table, bias=parts.read(_bias(model), params, "head")))


def head_dim(model: Family) -> int:
    """Width of a head."""
    width: int = model.embed_dim // model.num_heads
    return width


def _scores(hidden: Array, *, table: Array, bias: Array) -> Array:
    return logits(hidden, table) + bias.astype(jnp.float32)


def _table(model: Family) -> parts.Table:
    return parts.Table("tokens", (model.vocab_size, model.embed_dim), ("vocab", "embed"), model._starts()[0])


def _bias(model: Family) -> parts.Table:
    return parts.Table("bias", (model.vocab_size,), ("vocab",), zeros)
