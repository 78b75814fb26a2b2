"""Attention by fused kernels: splash attention on TPU (Pallas), cuDNN's on GPU; and which way suits where.

Both keep no scores in memory. Each is a program that the partitioner cannot split, and stands in a `shard_map` over
rows and heads. What a kernel has no way to do goes to `blockwise`, which does all that `plain` does.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm_jax.kernels.attention import Segments, blockwise, plain, split_heads
from llm_jax.mesh import plan
from llm_jax.mesh.place import free, place, spec

LANES = 128
HEADS = ("batch", None, "act_heads", None)


def splash(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    *,
    interpret: bool = False,
    **options: Any,
) -> Float[Array, "B T H V"]:
    """Return what `plain` returns, for whole texts of a multiple of 128 tokens by TPU's splash attention.

    Dao et al. 2022, "FlashAttention", over the blocks alone that the mask leaves. `interpret` runs it on any backend.
    """
    if not _whole(q, k, options) or q.shape[1] % LANES:
        return blockwise(q, k, v, **options)
    return _island(partial(_splash, interpret=interpret), q, k, v, **options)


def cudnn(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    *,
    implementation: str = "cudnn",
    **options: Any,
) -> Float[Array, "B T H V"]:
    """Return what `plain` returns, for whole texts in half precision by cuDNN's fused attention.

    Packed texts reach cuDNN as a mask of T x T bytes a row of the batch.
    """
    asked = {name for name, value in options.items() if value is not None}
    half, to_one_side = q.dtype in (jnp.bfloat16, jnp.float16), options.get("causal", True) or "window" not in asked
    if not (_whole(q, k, options) and half and to_one_side and k.shape == v.shape) or asked & {"softcap", "sinks"}:
        return blockwise(q, k, v, **options)
    return _island(partial(_cudnn, implementation=implementation), q, k, v, **options)


def _whole(q: Array, k: Array, options: Mapping[str, Any]) -> bool:
    """Whether queries and keys are those of the same tokens, in order, and each sees either all or none ahead."""
    offset = options.get("offset", 0)
    ordered = options.get("slots") is None and options.get("prefix") is None
    return ordered and isinstance(offset, int) and offset == 0 and q.shape[1] == k.shape[1]


def _splash(
    q: Array,
    k: Array,
    v: Array,
    segments: Segments | None,
    sinks: Array | None,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interpret: bool,
) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, H, K = q.shape[1:]
    q = q * jnp.asarray(K**-0.5 if scale is None else scale, q.dtype)
    one: Any = masks.CausalMask((T, T)) if causal else masks.FullMask((T, T))
    if window is not None:
        one = masks.LocalMask((T, T), (window - 1, 0 if causal else window - 1), 0)
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
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    softcap: None = None,
    implementation: Any,
) -> Array:
    mask = None if segments is None else (segments[0][:, :, None] == segments[1][:, None, :])[:, None]
    near = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=scale, is_causal=causal, local_window_size=near, implementation=implementation
    )


def _island(
    kernel: Callable[..., Array],
    q: Array,
    k: Array,
    v: Array,
    *,
    segments: Segments | None = None,
    sinks: Array | None = None,
    offset: int = 0,
    slots: None = None,
    prefix: None = None,
    **options: Any,
) -> Float[Array, "B T H V"]:
    """Run `kernel` on each device's own rows and heads, as a surrounding `shard_map` has cut them or one of its own."""
    kernel, split = partial(kernel, **options), spec(*HEADS, shape=q.shape)
    if split is None or not free():
        return kernel(q, k, v, segments, sinks)
    k, v = (split_heads(x, plan.current().shards("act_heads", q.shape[2])) for x in (k, v))
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
