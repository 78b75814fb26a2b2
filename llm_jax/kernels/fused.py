"""Attention by fused kernels: splash attention on TPU (Pallas), cuDNN's on GPU; and which way suits where.

Both keep no scores in memory. Each is a program that the partitioner cannot split, and stands in a `shard_map` over
rows and heads. What a kernel has no way to do goes to `blockwise`, which does all that `plain` does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm_jax.kernels.attention import Segments, blockwise, plain
from llm_jax.mesh.place import free, place, spec

LANES = 128
HEADS = ("batch", None, "act_heads", None)
Kernel = Callable[[Array, Array, Array, Segments | None, Array | None], Array]


def splash(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    *,
    causal: bool = True,
    offset: int | Int[Array, ""] = 0,
    segments: Segments | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "H"] | None = None,
    slots: Int[Array, "S"] | None = None,
    interpret: bool = False,
) -> Float[Array, "B T H V"]:
    """Return what `plain` returns, for whole texts of a multiple of 128 tokens by TPU's splash attention.

    Dao et al. 2022, "FlashAttention", over the blocks alone that the mask leaves. `interpret` runs it on any backend.
    """
    if not _whole(q, k, offset, slots) or q.shape[1] % LANES:
        return blockwise(
            q, k, v, causal=causal, offset=offset, segments=segments, window=window, scale=scale, softcap=softcap,
            sinks=sinks, slots=slots,
        )  # fmt: skip
    kernel = partial(_splash, causal=causal, window=window, softcap=softcap, interpret=interpret)
    q = q * jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, q.dtype)
    return _island(kernel, q, k, v, segments, sinks)


def cudnn(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    *,
    causal: bool = True,
    offset: int | Int[Array, ""] = 0,
    segments: Segments | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "H"] | None = None,
    slots: Int[Array, "S"] | None = None,
    implementation: str = "cudnn",
) -> Float[Array, "B T H V"]:
    """Return what `plain` returns, for whole texts in half precision by cuDNN's fused attention.

    Packed texts reach cuDNN as a mask of T x T bytes a row of the batch.
    """
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    plain_enough = half and softcap is None and sinks is None and k.shape == v.shape and (causal or window is None)
    if not (_whole(q, k, offset, slots) and plain_enough):
        return blockwise(
            q, k, v, causal=causal, offset=offset, segments=segments, window=window, scale=scale, softcap=softcap,
            sinks=sinks, slots=slots,
        )  # fmt: skip
    kernel = partial(_cudnn, causal=causal, window=window, scale=scale, implementation=implementation)
    return _island(kernel, q, k, v, segments, None)


def _whole(q: Array, k: Array, offset: Any, slots: Any) -> bool:
    """Whether queries and keys are those of the same tokens, in order."""
    return slots is None and isinstance(offset, int) and offset == 0 and q.shape[1] == k.shape[1]


def _splash(
    q: Array,
    k: Array,
    v: Array,
    segments: Segments | None,
    sinks: Array | None,
    *,
    causal: bool,
    window: int | None,
    softcap: float | None,
    interpret: bool,
) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, H = q.shape[1:3]
    after = 0 if causal else None
    one: Any = masks.CausalMask((T, T)) if causal else masks.FullMask((T, T))
    if window is not None:
        one = masks.LocalMask((T, T), (window - 1, after), 0)
    block = next(n for n in (512, 384, 256, LANES) if T % n == 0)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    attend: Any = kernels.make_splash_mha(
        masks.MultiHeadMask([one] * H), block_sizes=sizes, head_shards=1, q_seq_shards=1,
        attn_logits_soft_cap=softcap, interpret=interpret,
    )  # fmt: skip
    ids = None if segments is None else kernels.SegmentIds(*(jnp.asarray(s, jnp.int32) for s in segments))
    heads_first = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    y = jax.vmap(partial(attend, sinks=sinks))(*heads_first, ids)
    return jnp.swapaxes(y, 1, 2)


def _cudnn(
    q: Array,
    k: Array,
    v: Array,
    segments: Segments | None,
    sinks: None,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
    implementation: Any,
) -> Array:
    mask = None if segments is None else (segments[0][:, :, None] == segments[1][:, None, :])[:, None]
    near = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=scale, is_causal=causal, local_window_size=near, implementation=implementation
    )


def _island(
    kernel: Kernel, q: Array, k: Array, v: Array, segments: Segments | None, sinks: Array | None
) -> Float[Array, "B T H V"]:
    """Run `kernel` on each device's own rows and heads, as a surrounding `shard_map` has cut them or one of its own."""
    split = spec(*HEADS, shape=q.shape)
    if split is None or not free():
        return kernel(q, k, v, segments, sinks)
    if spec(*HEADS, shape=k.shape) != split:  # fewer key heads than devices: each query head brings its own
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    rows = None if segments is None else (spec("batch", None, shape=segments[0].shape),) * 2
    scores = None if sinks is None else spec("act_heads", shape=sinks.shape)
    arguments, specs = (*(place(x, *HEADS) for x in (q, k, v)), segments, sinks), (split, split, split, rows, scores)
    return jax.shard_map(kernel, in_specs=specs, out_specs=split, axis_names=free(), check_vma=False)(*arguments)


def auto(q: Array, k: Array, v: Array, **options: Any) -> Array:
    """`splash` on TPU, `cudnn` on GPU, `blockwise` on CPU; `plain` for short texts and for decoding."""
    T = q.shape[1]
    if T < LANES:
        return plain(q, k, v, **options)
    backend = jax.default_backend()
    if backend in FUSED:
        return FUSED[backend](q, k, v, **options)
    return blockwise(q, k, v, block=max(64, min(T // 4, 512)), **options)


FUSED: dict[str, Callable[..., Array]] = {"tpu": splash, "gpu": cudnn}
