"""The ceiling: GPT-2 pretraining in one file of plain JAX with every trick that pays on a CPU, and nothing else.

    python benchmarks/bare.py --cell M --steps 20 [--tokens train.bin]

The model is exactly transformers' `GPT2LMHeadModel` (pre-norm, learned positions, biases, tanh gelu, tied head, no
dropout), fp32, with a causal loss, a global clip at 1.0 and AdamW(b1 .9, b2 .95, decay .1 on matrices). It prints one
JSON line a step and a summary. The tricks: activations stay flat [B·T, D]; one list entry a layer, all unrolled;
hand-written VJPs for layer norm, gelu, cross-entropy and the weight gradients (which avoid reading columns at a stride
that is a power of two); attention in query chunks that skip the masked part; embedding by gather, its gradient added to
the head's own buffer; clip and AdamW in one expression; donated state. For the pages of malloc the caller sets
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736 MALLOC_TOP_PAD_=268435456.
"""

import argparse
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
CELLS = {
    "S": Cell(4, 128, 4, 512, 64, 12, 256, 1),
    "M": Cell(6, 384, 6, 1536, 256, 8, 8192, 4),
    "G": Cell(12, 768, 12, 3072, 256, 2, 50304, 4),
}


def init(cell: Cell, seed: int) -> Tree:
    """Return GPT-2's parameters: normal(0.02), projections into the residual scaled by 1/sqrt(2L), zero biases."""
    rng, D, F = np.random.default_rng(seed), cell.D, cell.F

    def normal(*shape: int, scale: float = 0.02) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def norm() -> Tree:
        return {"scale": np.ones(D, np.float32), "bias": np.zeros(D, np.float32)}

    def dense(into: int, out: int, scale: float = 0.02) -> Tree:
        return {"kernel": normal(into, out, scale=scale), "bias": np.zeros(out, np.float32)}

    into_residual = 0.02 / math.sqrt(2 * cell.L)

    def layer() -> Tree:
        attend = {"ln_1": norm(), "qkv": dense(D, 3 * D), "out": dense(D, D, into_residual)}
        return attend | {"ln_2": norm(), "up": dense(D, F), "down": dense(F, D, into_residual)}

    layers = [layer() for _ in range(cell.L)]
    return {"wte": normal(cell.V, D), "wpe": normal(cell.T, D), "layers": layers, "ln_f": norm()}


@jax.custom_vjp
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """x [N,D] -> [N,D], one-pass variance."""
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x, scale, bias):
    mean = jnp.mean(x, -1, keepdims=True)
    r = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) - mean * mean + 1e-5)
    return (x - mean) * r * scale + bias, (x, mean, r, scale)


def _layer_norm_backward(saved, dy):
    x, mean, r, scale = saved
    normed, d = (x - mean) * r, dy * scale
    dx = r * (d - jnp.mean(d, -1, keepdims=True) - normed * jnp.mean(d * normed, -1, keepdims=True))
    return dx, jnp.sum(dy * normed, 0), jnp.sum(dy, 0)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The tanh approximation; the backward reuses the tanh."""
    return _gelu_forward(x)[0]


def _gelu_forward(x):
    t = jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1 + t), (x, t)


def _gelu_backward(saved, dy):
    x, t = saved
    return (dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def weight_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """x [N,D], dy [N,F] -> xᵀ dy [D,F]; Eigen packs xᵀ column by column, which rows of k·8 KiB slow down twofold."""
    D, F = x.shape[1], dy.shape[1]
    if D > F and (D % 2048 == 0 or F <= 128):
        return lax.optimization_barrier(lax.dot_general(dy, x, (((0,), (0,)), ((), ())))).T
    return lax.dot_general(x, dy, (((0,), (0,)), ((), ())))


matmul = jax.custom_vjp(lambda x, kernel: x @ kernel)  # x [N,D], kernel [D,F] -> [N,F]
matmul.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, dy: (dy @ saved[1].T, weight_gradient(saved[0], dy)))
unembed = jax.custom_vjp(lambda x, table: x @ table.T)  # x [N,D], table [V,D] -> logits [N,V]
unembed.defvjp(lambda x, w: (x @ w.T, (x, w)), lambda saved, dy: (dy @ saved[1], weight_gradient(dy, saved[0])))


@jax.custom_vjp
def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """logits [N,V], targets [N] -> mean negative log-likelihood; the backward is one elementwise pass."""
    return _cross_entropy_forward(logits, targets)[0]


def _cross_entropy_forward(logits, targets):
    log_z = jax.nn.logsumexp(logits, -1)
    nll = log_z - jnp.take_along_axis(logits, targets[:, None], 1)[:, 0]
    return jnp.mean(nll), (logits, log_z, targets)


def _cross_entropy_backward(saved, d):
    logits, log_z, targets = saved
    hot = lax.broadcasted_iota(targets.dtype, logits.shape, 1) == targets[:, None]
    return (jnp.exp(logits - log_z[:, None]) - hot) * (d / logits.shape[0]), None


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def attention(qkv: jax.Array, cell: Cell) -> jax.Array:
    """qkv [B·T,3D] -> [B·T,D], causal, in chunks of queries that see only the keys up to their own end."""
    B, T, H, K = cell.B, cell.T, cell.H, cell.D // cell.H
    q, k, v = (qkv[:, i * cell.D : (i + 1) * cell.D].reshape(B, T, H, K).transpose(0, 2, 1, 3) for i in range(3))
    q = q * (1 / math.sqrt(K))
    size, mixed = T // cell.chunks, []
    for low in range(0, T, size):
        high = low + size
        scores = jnp.einsum("bhtk,bhsk->bhts", q[:, :, low:high], k[:, :, :high])
        visible = np.arange(low, high)[:, None] >= np.arange(high)
        weights = jax.nn.softmax(jnp.where(visible, scores, -1e30), -1)
        mixed.append(jnp.einsum("bhts,bhsk->bhtk", weights, v[:, :, :high]))
    return jnp.concatenate(mixed, 2).transpose(0, 2, 1, 3).reshape(B * T, cell.D)


def dense(x: jax.Array, p: Tree) -> jax.Array:
    """x [N,D] @ kernel + bias."""
    return matmul(x, p["kernel"]) + p["bias"]


def loss_from_embedding(x: jax.Array, params: Tree, targets: jax.Array, cell: Cell) -> jax.Array:
    """x [B·T,D] embedded tokens, targets [B·T] -> mean loss."""
    for p in params["layers"]:
        x = x + dense(attention(dense(layer_norm(x, **p["ln_1"]), p["qkv"]), cell), p["out"])
        x = x + dense(gelu(dense(layer_norm(x, **p["ln_2"]), p["up"])), p["down"])
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
        decay = 0.1 if p.ndim == 2 else 0.0
        return p - rate * (m * c1 / (jnp.sqrt(v * c2) + 1e-8) + decay * p)

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
    params = jax.tree.map(jnp.asarray, init(cell, seed))
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
    tokens = cell.B * cell.T
    gflops = tokens * 1e-9 * (6 * (12 * cell.L * cell.D**2 + cell.V * cell.D) + 12 * cell.L * cell.T * cell.D)
    return {
        "first_step_s": first,
        "tokens_per_s": tokens / np.median(wall),
        "tokens_per_cpu_s": tokens / np.median(cpu),
        "best_tokens_per_cpu_s": tokens / np.min(cpu),
        "gflops_per_s": gflops / np.median(wall),
    }


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
