"""What every encoder-decoder does: functions of a family, a frozen dataclass, which takes them as its methods.

A side is "encoder" or "decoder". A family has the fields num_layers, encoder_layers, num_heads, embed_dim, and

- `_block(causal)`: the module of a layer of the encoder, or of the decoder (causal, with cross-attention);
- `_opened(params, side, tokens, positions, key)`: tokens to vectors;
- `_where(params, side, place, source)`: what the layers of a side read beside these;
- `_closed(params, side, x, key)`: what becomes of the last layer's result;
- `_headed(params, hidden)`: its outputs;
- `_head_dim`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.types import Batch, Key, Outputs, Params
from llm_jax.nn import cache as caches
from llm_jax.nn.attention import Context, context
from llm_jax.nn.cross.attention import Paired, Remembered, Source
from llm_jax.nn.declare import initialize, weight
from llm_jax.nn.stack import stack, unstack

Family = Any
FIELDS = {"source_tokens": "tokens", "source_segments": "segments", "source_positions": "positions"}


class Table(nn.Module):
    """One table, a parameter named `label`."""

    label: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    start: Any

    @nn.compact
    def __call__(self) -> Float[Array, "..."]:
        return weight(self, self.label, self.shape, self.axes, self.start)


def check(model: Family, **sizes: float | None) -> None:
    """Refuse sizes that make no model; `sizes` are those that the family alone has.

    Raises:
        UserError: names the field and its value.
    """
    checks.positive(
        "model", vocab_size=model.vocab_size, num_layers=model.num_layers, embed_dim=model.embed_dim,
        num_heads=model.num_heads, encoder_layers=model.encoder_layers, mlp_dim=model.mlp_dim, **sizes,
    )  # fmt: skip
    checks.fraction("model", dropout=model.dropout)


def init(model: Family, key: Key) -> Params:
    """Initial values, as they are declared."""
    return initialize(model.declarations(), key)


def apply(model: Family, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
    """Outputs of whole texts given `source_tokens`; without them, of the decoder alone."""
    return _forward(model, params, batch, context(batch), None, _source(model, params, batch, key), key)[0]


def encode(model: Family, params: Params, batch: Batch, *, key: Key | None = None) -> Float[Array, "B S D"]:
    """Return the hidden states of `source_tokens`."""
    source = {short: batch[name] for name, short in FIELDS.items() if name in batch}
    place, tokens = context(source), jnp.asarray(source["tokens"], jnp.int32)
    x = model._opened(params, "encoder", tokens, place.positions, key)
    inner = None if key is None else keys.fold(key, "encoder")
    where = model._where(params, "encoder", place, None)
    x, _ = stack(_layer(model, causal=False), params["encoder_blocks"], x, where, None, inner)
    return model._closed(params, "encoder", x, key)


def empty_cache(model: Family, batch_size: int, max_len: int) -> Paired:
    """A cache for `max_len` tokens; `prefill` adds what it keeps of a source."""
    return Paired(caches.full(model.num_layers, batch_size, max_len, model.num_heads, model._head_dim))


def prefill(model: Family, params: Params, batch: Batch, cache: Paired) -> tuple[Outputs, Paired]:
    """Read whole prompts, and their sources if there are any, into an empty cache."""
    source = _source(model, params, batch, None)
    if source is not None:
        cache = Paired(cache.past, _memory(model, params, source), source.segments)
    return _forward(model, params, batch, context(batch, cache.past, prompt=True), cache, source, None)


def extend(model: Family, params: Params, tokens: Array, cache: Paired) -> tuple[Outputs, Paired]:
    """Read tokens [B,n] that follow those in the cache."""
    batch = {"tokens": tokens}
    source = None if cache.segments is None else Source(jnp.zeros((*cache.segments.shape, 0)), cache.segments)
    return _forward(model, params, batch, context(batch, cache.past), cache, source, None)


def read(module: nn.Module, params: Params, name: str, *inputs: Any) -> Any:
    """Apply a module to the part `name` of the parameters."""
    return module.apply({"params": params[name]}, *inputs)


def _forward(
    model: Family, params: Params, batch: Batch, place: Context, cache: Any, source: Source | None, key: Key | None
) -> tuple[Outputs, Any]:
    tokens = jnp.asarray(batch["tokens"], jnp.int32)
    x = model._opened(params, "decoder", tokens, place.positions, key)
    cache = cache and cache.reserve(place.real())
    where = model._where(params, "decoder", place, source)
    x, cache = stack(_layer(model, causal=True), params["decoder_blocks"], x, where, cache, key)
    outputs = model._headed(params, model._closed(params, "decoder", x, key))
    return outputs, cache and cache.advance(place.real())


def _source(model: Family, params: Params, batch: Batch, key: Key | None) -> Source | None:
    if "source_tokens" not in batch:
        return None
    hidden, segments = model.encode(params, batch, key=key), batch.get("source_segments")
    return Source(hidden, jnp.ones(hidden.shape[:2], jnp.int32) if segments is None else jnp.asarray(segments))


def _memory(model: Family, params: Params, source: Source) -> tuple[Array, Array]:
    """The keys and values of the source, of all layers of the decoder."""
    layers, cross = params["decoder_blocks"], model._block(causal=True).cross
    module = Remembered(cross.num_heads, cross.head_dim, cross.query_init, cross.in_init, cross.out_init, cross.bias)
    each = [
        module.apply({"params": layer["cross"]}, source.hidden)
        for layer in (layers if isinstance(layers, tuple) else unstack(layers))
    ]
    found: Any = jax.tree.map(lambda *parts: jnp.stack(parts), *each)
    return found


def _layer(model: Family, *, causal: bool) -> Callable[..., Any]:
    block = model._block(causal=causal)
    return lambda p, *inputs: block.apply({"params": p}, *inputs)
