"""Cross-entropy of logits that are made on demand: all at once, or a chunk of tokens at a time.

Both take the output head as a function, so that soft-caps and tied embeddings stay in the model. The chunked one keeps
the logits of one chunk only, forward and backward: memory is c · V whatever the number of tokens.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from llm_jax.mesh import place, plan

Head = Callable[[Array], Array]


class TokenLoss(NamedTuple):
    """For each token: the loss in nats, and log Z (for the z-loss)."""

    nll: Float[Array, "*N"]
    log_z: Float[Array, "*N"]


def plain(head: Head, hidden: Float[Array, "*N D"], targets: Int[Array, "*N"], *, smoothing: float = 0.0) -> TokenLoss:
    """Return -log p(target) with label smoothing (Szegedy et al. 2016, §7) from float32 logits."""
    return token_loss(head(hidden).astype(jnp.float32), targets, smoothing)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def token_loss(logits: Float[Array, "*N V"], targets: Int[Array, "*N"], smoothing: float) -> TokenLoss:
    """Return the losses of float32 logits; the gradient by hand is one elementwise pass over them."""
    return _forward(logits, targets, smoothing)[0]


def _forward(logits: Array, targets: Array, smoothing: float) -> tuple[TokenLoss, tuple[Array, Array, Array]]:
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if smoothing:
        chosen = (1 - smoothing) * chosen + smoothing * logits.mean(axis=-1)
    return TokenLoss(log_z - chosen, log_z), (logits, log_z, targets)


def _backward(smoothing: float, saved: tuple[Array, Array, Array], d: TokenLoss) -> tuple[Array, None]:
    logits, log_z, targets = saved
    vocabulary = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    wanted = jnp.where(vocabulary == targets[..., None], 1 - smoothing, 0.0) + smoothing / logits.shape[-1]
    p = jnp.exp(logits - log_z[..., None])
    return p * (d.nll + d.log_z)[..., None] - wanted * d.nll[..., None], None


token_loss.defvjp(_forward, _backward)


def chunked(
    head: Head,
    hidden: Float[Array, "*N D"],
    targets: Int[Array, "*N"],
    *,
    smoothing: float = 0.0,
    chunk: int = 1024,
) -> TokenLoss:
    """Return what `plain` returns; logits of `chunk` tokens at a time exist, and are made again for the gradient.

    A chunk is some positions of every row and of every part of its length, so that on a mesh each device keeps to its
    own tokens. The gradient of a head that names its parameters (`jax.tree_util.Partial`) is there summed over devices
    once; of any other head, once a chunk.
    """
    spec = place.spec("batch", "seq", shape=targets.shape) if targets.ndim == 2 else None
    axes = tuple(a for entry in spec or () for a in place.axes_of(entry))
    if not (axes and isinstance(head, Partial)):
        parts = plan.current().shards("seq", targets.shape[-1])
        return _by_chunks(head, hidden, targets, smoothing, chunk * plan.current().batch_shards * parts, parts)
    leaves, structure = jax.tree.flatten(head)

    def local(leaves: list[Array], hidden: Array, targets: Array) -> TokenLoss:
        # Each device's own copy from here on: its gradient grows in float32 over the chunks, and is summed at the end.
        wide = [jax.lax.pcast(x, axes, to="varying").astype(jnp.float32) for x in leaves]

        def scores(h: Array) -> Array:
            return jax.tree.unflatten(structure, [x.astype(y.dtype) for x, y in zip(wide, leaves, strict=True)])(h)

        return _by_chunks(scores, hidden, targets, smoothing, chunk, 1)

    island = jax.shard_map(local, in_specs=(P(), spec, spec), out_specs=spec, axis_names=set(axes))
    names = ("batch", "seq", None)
    return island(leaves, place.place(hidden, *names), place.place(targets, *names[:2]))


def _by_chunks(head: Head, hidden: Array, targets: Array, smoothing: float, tokens: int, parts: int) -> TokenLoss:
    """Go through `tokens` at a time: some positions of every row and of each of the `parts` of its length."""
    *rows, T = targets.shape
    if math.prod(targets.shape) <= tokens:
        return plain(head, hidden, targets, smoothing=smoothing)
    length, axis = T // parts, len(rows) + 1
    width = min(length, max(1, tokens // math.prod(rows) // parts))
    chunks = math.ceil(length / width)

    def split(x: Array) -> Array:
        x = x.reshape(*rows, parts, length, *x.shape[axis:])
        padded = jnp.pad(x, [(0, chunks * width - length if i == axis else 0) for i in range(x.ndim)])
        turned = jnp.moveaxis(padded.reshape(*rows, parts, chunks, width, *x.shape[axis + 1 :]), axis, 0)
        return turned.reshape(chunks, *rows, parts * width, *x.shape[axis + 1 :])

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x.reshape(chunks, *rows, parts, width), 0, axis)
        return x.reshape(*rows, parts, chunks * width)[..., :length].reshape(*rows, T)

    one = jax.checkpoint(lambda h, t: plain(head, h, t, smoothing=smoothing))
    nll, log_z = jax.lax.map(lambda xs: one(*xs), (split(hidden), split(targets)))
    return TokenLoss(join(nll), join(log_z))
