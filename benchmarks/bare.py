"""The ceiling: GPT-2 pretraining in one file of plain JAX with every trick that pays on a CPU, and nothing else.

    python benchmarks/bare.py --cell M --steps 20 [--tokens train.bin]

The model is exactly transformers' `GPT2LMHeadModel` (pre-norm, learned positions, biases, tanh gelu, tied head, no
dropout), fp32, with a causal loss, a global clip at 1.0 and AdamW(b1 .9, b2 .95, decay .1 on matrices). It prints one
JSON line a step and a summary. The tricks: activations stay flat [B·T, D]; one list entry a layer, all unrolled;
hand-written VJPs for layer norm, gelu, attention and the weight gradients (which avoid reading columns at a stride
that is a power of two); attention in query chunks that skip the masked part; embedding by gather, its gradient added to
the head's own buffer; clip and AdamW in one expression; donated state. For the pages of malloc the caller sets
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736 MALLOC_TOP_PAD_=268435456.
"""

import argparse
import functools
import json
import math
import os
import time
from collections import namedtuple
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Tree = Any
Cell = namedtuple("Cell", "L D H F T B V chunks")  # layers, width, heads, hidden, time, batch, vocabulary, query chunks
CELLS = {"S": Cell(4, 128, 4, 512, 64, 12, 256, 1), "M": Cell(6, 384, 6, 1536, 256, 8, 8192, 4)}
CELLS["G"] = Cell(12, 768, 12, 3072, 256, 2, 50304, 4)


def init(cell: Cell, seed: int) -> Tree:
    """Return GPT-2's parameters: normal(0.02), projections into the residual scaled by 1/sqrt(2L), zero biases."""
    rng, D, F = np.random.default_rng(seed), cell.D, cell.F

    def normal(*shape: int, scale: float = 0.02) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def dense(into: int, out: int, scale: float = 0.02) -> Tree:
        return {"kernel": normal(into, out, scale=scale), "bias": np.zeros(out, np.float32)}

    norm = {"scale": np.ones(D, np.float32), "bias": np.zeros(D, np.float32)}
    last = 0.02 / math.sqrt(2 * cell.L)

    layers = [
        {"ln_1": norm, "qkv": dense(D, 3 * D), "out": dense(D, D, last)}
        | {"ln_2": norm, "up": dense(D, F), "down": dense(F, D, last)}
        for _ in range(cell.L)
    ]
    return {"wte": normal(cell.V, D), "wpe": normal(cell.T, D), "layers": layers, "ln_f": norm}


def _layer_norm_forward(x, scale, bias):
    mean = jnp.mean(x, -1, keepdims=True)
    r = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) - mean * mean + 1e-5)
    return (x - mean) * r * scale + bias, (x, mean, r, scale)


def _layer_norm_backward(saved, dy):
    x, mean, r, scale = saved
    normed, d = (x - mean) * r, dy * scale
    dx = r * (d - jnp.mean(d, -1, keepdims=True) - normed * jnp.mean(d * normed, -1, keepdims=True))
    return dx, jnp.sum(dy * normed, 0), jnp.sum(dy, 0)


# x [N,D], scale [D], bias [D] -> [N,D], one-pass variance
layer_norm = jax.custom_vjp(lambda x, scale, bias: _layer_norm_forward(x, scale, bias)[0])
layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def _gelu_forward(x):
    t = jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1 + t), (x, t)


def _gelu_backward(saved, dy):
    x, t = saved
    return (dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)),)


gelu = jax.custom_vjp(lambda x: _gelu_forward(x)[0])  # the tanh approximation; the tanh is kept for the backward
gelu.defvjp(_gelu_forward, _gelu_backward)


def weight_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """x [N,D], dy [N,F] -> xᵀ dy [D,F]; Eigen packs xᵀ column by column, which rows of k·8 KiB slow down twofold."""
    D, F = x.shape[1], dy.shape[1]
    if D > F and (D % 2048 == 0 or F <= 128):
        return lax.optimization_barrier(lax.dot_general(dy, x, (((0,), (0,)), ((), ())))).T
    return lax.dot_general(x, dy, (((0,), (0,)), ((), ())))


def _dense_backward(saved, dy):
    return dy @ saved[1].T, weight_gradient(saved[0], dy), jnp.sum(dy, 0)


dense = jax.custom_vjp(lambda x, kernel, bias: x @ kernel + bias)  # x [N,D], kernel [D,F], bias [F] -> [N,F]
dense.defvjp(lambda x, kernel, bias: (x @ kernel + bias, (x, kernel)), _dense_backward)
unembed = jax.custom_vjp(lambda x, table: x @ table.T)  # x [N,D], table [V,D] -> logits [N,V]
unembed.defvjp(lambda x, w: (x @ w.T, (x, w)), lambda saved, dy: (dy @ saved[1], weight_gradient(dy, saved[0])))


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """logits [N,V], targets [N] -> mean negative log-likelihood (a hand-written VJP gains nothing here)."""
    return jnp.mean(jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, targets[:, None], 1)[:, 0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def attention(qkv: jax.Array, cell: Cell) -> jax.Array:
    """qkv [B·T,3D] -> [B·T,D], causal, in chunks of queries that see only the keys up to their own end."""
    return _attention_forward(qkv, cell)[0]


def _heads(x, cell):
    return x.reshape(cell.B, cell.T, cell.H, -1).transpose(0, 2, 1, 3)


def _flat(x):
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0] * x.shape[2], -1)


def _attention_forward(qkv, cell):
    q, k, v = (_heads(x, cell) for x in jnp.split(qkv, 3, 1))
    q, mixed, weights, inverse = q * (cell.D // cell.H) ** -0.5, [], [], []
    size = cell.T // cell.chunks
    for high in range(size, cell.T + 1, size):
        low = high - size
        scores = jnp.einsum("bhtk,bhsk->bhts", q[:, :, low:high], k[:, :, :high])
        scores = jnp.where(np.arange(low, high)[:, None] >= np.arange(high), scores, -1e30)
        weights.append(jnp.exp(scores - jnp.max(scores, -1, keepdims=True)))
        inverse.append(1 / jnp.sum(weights[-1], -1, keepdims=True))
        mixed.append(jnp.einsum("bhts,bhsk->bhtk", weights[-1], v[:, :, :high]) * inverse[-1])
    out = jnp.concatenate(mixed, 2)
    return _flat(out), (q, k, v, out, weights, jnp.concatenate(inverse, 2))


def _attention_backward(cell, saved, d):
    q, k, v, out, weights, inverse = saved
    d = _heads(d, cell) * inverse
    along, dq, dk, dv = jnp.sum(d * out, -1, keepdims=True), list[jax.Array](), jnp.zeros(()), jnp.zeros(())
    for w in weights:
        low, high = len(dq) * w.shape[2], w.shape[3]
        dw = jnp.einsum("bhtk,bhsk->bhts", d[:, :, low:high], v[:, :, :high])
        ds = w * (dw - along[:, :, low:high])
        dq.append(jnp.einsum("bhts,bhsk->bhtk", ds, k[:, :, :high]))
        later = ((0, 0), (0, 0), (0, cell.T - high), (0, 0))
        dk += jnp.pad(jnp.einsum("bhts,bhtk->bhsk", ds, q[:, :, low:high]), later)
        dv += jnp.pad(jnp.einsum("bhts,bhtk->bhsk", w, d[:, :, low:high]), later)
    each = jnp.concatenate(dq, 2) * (cell.D // cell.H) ** -0.5, dk, dv
    return (jnp.concatenate([_flat(x) for x in each], 1),)


attention.defvjp(_attention_forward, _attention_backward)


def loss_from_embedding(x: jax.Array, params: Tree, targets: jax.Array, cell: Cell) -> jax.Array:
    """x [B·T,D] embedded tokens, targets [B·T] -> mean loss."""
    for p in params["layers"]:
        x = x + dense(attention(dense(layer_norm(x, **p["ln_1"]), **p["qkv"]), cell), **p["out"])
        x = x + dense(gelu(dense(layer_norm(x, **p["ln_2"]), **p["up"])), **p["down"])
    x = layer_norm(x, **params["ln_f"])
    return cross_entropy(unembed(x, params["wte"]), targets)


def value_and_gradient(params: Tree, tokens: jax.Array, targets: jax.Array, cell: Cell) -> tuple[jax.Array, Tree]:
    """tokens, targets [B,T] -> loss, gradients; the embedding's gradient is scattered into the head's own buffer."""
    x = (params["wte"][tokens] + params["wpe"]).reshape(-1, cell.D)
    rest = {k: v for k, v in params.items() if k != "wpe"}
    loss, (dx, grads) = jax.value_and_grad(loss_from_embedding, (0, 1))(x, rest, targets.reshape(-1), cell)
    grads["wte"] = grads["wte"].at[tokens.reshape(-1)].add(dx)
    return loss, grads | {"wpe": dx.reshape(cell.B, cell.T, cell.D).sum(0)}


def adamw(state: Tree, grads: Tree, rate: float) -> Tree:
    """One step of AdamW on gradients clipped to a global norm of 1; decay on matrices only."""
    step = state["step"] + 1
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
    clip = jnp.minimum(1.0, 1.0 / norm)
    c1, c2 = 1 / (1 - 0.9**step), 1 / (1 - 0.95**step)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * clip * g, state["m"], grads)
    v = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * (clip * g) ** 2, state["v"], grads)

    def move(p, m, v):
        return p - rate * (m * c1 / (jnp.sqrt(v * c2) + 1e-8) + (0.1 * p if p.ndim == 2 else 0.0))

    return {"params": jax.tree.map(move, state["params"], m, v), "m": m, "v": v, "step": step}


def batches(cell: Cell, path: str | None, seed: int):
    """Yield tokens, targets int32 [B,T]: random windows of a uint16 file, or random tokens."""
    rng = np.random.default_rng(seed)
    data = np.memmap(path, np.uint16, "r") if path else rng.integers(0, cell.V, 1 << 20).astype(np.uint16)
    while True:
        starts = rng.integers(0, len(data) - cell.T, cell.B)
        window = np.stack([data[i : i + cell.T + 1] for i in starts]).astype(np.int32)
        yield window[:, :-1], window[:, 1:]


def seconds_since_start() -> float:
    """Seconds since this process was started (Linux)."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
        return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def train(cell: Cell, steps: int, warmup: int, path: str | None, seed: int, rate: float) -> dict[str, float]:
    """Run `steps` steps, print one line for each, and return the summary of those after the first `warmup`."""
    params = jax.tree.map(jnp.array, init(cell, seed))
    zeros = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree))
    state = {"params": params, "m": zeros(params), "v": zeros(params), "step": jnp.zeros(())}

    def update(state, tokens, targets):
        loss, grads = value_and_gradient(state["params"], tokens, targets, cell)
        return adamw(state, grads, rate), loss

    update, source, times, first = jax.jit(update, donate_argnums=0), batches(cell, path, seed), [], 0.0
    for step in range(steps):
        wall, cpu = time.perf_counter(), time.process_time()
        state, loss = jax.block_until_ready(update(state, *next(source)))
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        first = first or seconds_since_start()
        line = {"step": step + 1, "seconds": times[-1][0], "cpu_seconds": times[-1][1], "loss": float(loss)}
        print(json.dumps(line), flush=True)
    wall, cpu = np.array(times[warmup:]).T
    tokens, flops = cell.B * cell.T, 6 * (12 * cell.L * cell.D**2 + cell.V * cell.D) + 12 * cell.L * cell.T * cell.D
    speed = {"tokens_per_s": tokens / np.median(wall), "gflops_per_s": tokens * flops * 1e-9 / np.median(wall)}
    per_cpu = {"tokens_per_cpu_s": tokens / np.median(cpu), "best_tokens_per_cpu_s": tokens / np.min(cpu)}
    return {"first_step_s": first} | speed | per_cpu


def main() -> None:
    """Parse the command line, train, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", choices=CELLS, default="S")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=2, help="steps left out of the summary")
    parser.add_argument("--tokens", help="file of uint16 tokens; random tokens without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    a = parser.parse_args()
    summary = train(CELLS[a.cell], a.steps, a.warmup, a.tokens, a.seed, a.learning_rate)
    print(json.dumps({"cell": a.cell, "jax": jax.__version__, **summary}))


if __name__ == "__main__":
    main()
