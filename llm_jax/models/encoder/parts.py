"""What BERT and its successors share: functions of a family, a frozen dataclass with the fields of `Bert`."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.mesh.place import place
from llm_jax.nn.attention import Context, SelfAttention, context
from llm_jax.nn.declare import declarations as declared
from llm_jax.nn.declare import initialize, under, weight
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal, zeros
from llm_jax.nn.linear import embed as looked_up
from llm_jax.nn.linear import linear, logits
from llm_jax.nn.mlp import Mlp, exact_gelu
from llm_jax.nn.norm import LayerNorm
from llm_jax.nn.stack import stack

Family = Any
INIT = normal(0.02)


class Embedding(nn.Module):
    """norm(token + position + type embeddings); returns the token table too, which is the output head."""

    vocab_size: int
    max_positions: int
    num_types: int
    width: int
    eps: float

    @nn.compact
    def __call__(self, tokens: Array, positions: Array, types: Array) -> tuple[Float[Array, "B T D"], Array]:
        table = weight(self, "tokens", (self.vocab_size, self.width), ("vocab", "embed"), INIT)
        places = weight(self, "positions", (self.max_positions, self.width), (None, "embed"), INIT)
        kinds = weight(self, "types", (self.num_types, self.width), (None, "embed"), INIT)
        x = looked_up(table, tokens) + looked_up(places, positions) + looked_up(kinds, types)
        return LayerNorm(self.eps, name="norm")(x), table


class Block(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)): normed after each part, as the first Transformer was."""

    attention: Any
    mlp: Any
    dropout: float
    eps: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: Any = 0, cache: Cache = None, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        drop = [None, None] if key is None else [keys.fold(key, name, layer) for name in ("attention", "mlp")]
        y, cache = self.attention(x, where, layer, cache)
        x = LayerNorm(self.eps, name="attention_norm")(x + dropout(y, self.dropout, drop[0]))
        x = LayerNorm(self.eps, name="mlp_norm")(x + dropout(self.mlp(x), self.dropout, drop[1]))
        return x, cache


class Head(nn.Module):
    """What turns hidden states into scores of the vocabulary beside the token table: gelu, norm and a bias."""

    vocab_size: int
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> dict[str, Array]:
        D = x.shape[-1]
        LayerNorm(self.eps, name="norm")(x)  # declares its parameters, which `scores` uses
        return {
            "kernel": weight(self, "kernel", (D, D), ("embed", None), INIT),
            "kernel_bias": weight(self, "kernel_bias", (D,), (None,), zeros),
            "bias": weight(self, "bias", (self.vocab_size,), ("vocab",), zeros),
        }


class Pooler(nn.Module):
    """tanh(dense(the first token's state)), and, with a head, whether what follows came first (sentence order)."""

    head: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> dict[str, Array]:
        D, first = x.shape[-1], place(x[:, :1], "batch", None, None)
        kernel = weight(self, "kernel", (D, D), ("embed", None), INIT)
        bias = weight(self, "bias", (D,), (None,), zeros)
        pooled = jnp.tanh(linear(first, kernel, bias, out=("batch", None, None)))
        if not self.head:
            return {"pooled": pooled[:, 0]}
        order = weight(self, "order", (D, 2), ("embed", None), INIT)
        order_bias = weight(self, "order_bias", (2,), (None,), zeros)
        scores = linear(pooled, order, order_bias, out=("batch", None, None))
        return {"pooled": pooled[:, 0], "order": scores[:, 0].astype(jnp.float32)}


def check(model: Family) -> None:
    """Refuse sizes that make no model.

    Raises:
        UserError: names the field and its value.
    """
    checks.positive(
        "model", vocab_size=model.vocab_size, max_positions=model.max_positions, num_types=model.num_types,
        num_layers=model.num_layers, embed_dim=model.embed_dim, num_heads=model.num_heads, mlp_dim=model.mlp_dim,
        norm_eps=model.norm_eps,
    )  # fmt: skip
    checks.fraction("model", dropout=model.dropout)
    checks.divides("model", "num_heads", model.num_heads, "embed_dim", model.embed_dim)


def declarations(model: Family) -> dict[str, Declaration]:
    """Every parameter by path."""
    tokens, x = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, model.embed_dim))
    parts = {
        "embed": declared(_embedding(model), tokens, tokens, tokens),
        "blocks": declared(_block(model), x, Context(tokens, None), layers=model.num_layers),
        **({"head": declared(_head(model), x)} if model.head else {}),
        **({"pooler": declared(Pooler(model.head), x)} if model.pooler else {}),
    }
    return under(**parts)


def init(model: Family, key: Key) -> Params:
    """Initial values: normal(0.02), no biases."""
    return initialize(model.declarations(), key)


def apply(model: Family, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
    """Outputs of a whole batch: logits are of the masked-language-model head.

    `extras` of a model with a pooler: `pooled` [B,D] and `order` [B,2], whether the row's two parts stand in their
    order (0) or not (1); both are of the row's first token. Without a head there is no `order`, and logits are refused.

    Raises:
        UserError: on asking for logits of a model without a head.
    """
    tokens, where = jnp.asarray(batch["tokens"], jnp.int32), context(batch)
    types = jnp.asarray(batch.get("token_types", jnp.zeros_like(tokens)), jnp.int32)
    types = jnp.minimum(types, model.num_types - 1)  # one that has a single type tells no second text from a first
    table: Any
    x, table = _embedding(model).apply({"params": params["embed"]}, tokens, where.positions, types)
    x = dropout(x, model.dropout, None if key is None else keys.fold(key, "embed"))
    block = _block(model)

    def layer(p: Params, *inputs: Any) -> tuple[Array, Cache]:
        return block.apply({"params": p}, *inputs)

    hidden, _ = stack(layer, params["blocks"], x, where, None, key, whole=True)
    extras: Any = Pooler(model.head).apply({"params": params["pooler"]}, hidden) if model.pooler else {}
    if not model.head:
        return Outputs(hidden, Partial(_no_scores), extras=extras)
    used: Any = _head(model).apply({"params": params["head"]}, hidden)
    score = Partial(_Scores(model.norm_eps), table=table, norm=params["head"]["norm"], **used)
    return Outputs(hidden, score, extras=extras)


def embed(model: Family, params: Params, batch: Batch) -> Float[Array, "B D"]:
    """Return one vector a row, of length 1: the mean of its tokens' states (Reimers & Gurevych 2019)."""
    hidden, real = model.apply(params, batch).hidden.astype(jnp.float32), context(batch).real()
    mean = (hidden * real[..., None]).sum(1) / jnp.maximum(real.sum(1), 1)[:, None]
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class _Scores:
    """The head as a function of arrays alone: what a `Partial` holds beside its function becomes a tracer."""

    eps: float

    def __call__(
        self, hidden: Array, *, table: Array, norm: Params, kernel: Array, kernel_bias: Array, bias: Array
    ) -> Array:
        flat = hidden.reshape(-1, hidden.shape[-1])
        x: Any = exact_gelu(flat @ kernel + kernel_bias)
        x = LayerNorm(self.eps).apply({"params": norm}, x)
        return logits(x.reshape(hidden.shape), table) + bias.astype(jnp.float32)


def _no_scores(hidden: Array) -> Array:
    raise UserError("this encoder has no head, so it scores no tokens; `embed` is what it is for (model.head=False)")


def _embedding(model: Family) -> Embedding:
    return Embedding(model.vocab_size, model.max_positions, model.num_types, model.embed_dim, model.norm_eps)


def _block(model: Family) -> Block:
    heads, size = model.num_heads, model.embed_dim // model.num_heads
    attention = SelfAttention(heads, heads, size, INIT, INIT, model.attention, bias=True, causal=False)
    mlp = Mlp(model.mlp_dim or 4 * model.embed_dim, INIT, INIT, exact_gelu)
    return Block(attention, mlp, model.dropout, model.norm_eps)


def _head(model: Family) -> Head:
    return Head(model.vocab_size, model.norm_eps)
