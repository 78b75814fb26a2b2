"""What decoders with experts share: their block, and the way through layers of several kinds.

Layers of one kind are one stack of parameters. The order of kinds falls into runs of a repeating pattern (three dense
layers, then 58 with experts; local and global in turn), and each run is one scan.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.core import keys
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.models.decoder.llama import Table
from llm_jax.nn.attention import Context
from llm_jax.nn.declare import declarations, under
from llm_jax.nn.dropout import dropout
from llm_jax.nn.linear import embed, logits
from llm_jax.nn.moe import router
from llm_jax.nn.moe.router import Load, Moe
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.stack import stack, unstack

Run = tuple[int, tuple[str, ...], int]  # first layer, kinds of a pattern, how often it repeats


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); an mlp of experts adds to the load that passes through."""

    attention: Any
    mlp: Any
    dropout: float
    eps: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: Any, carried: tuple[Cache, Load], key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], tuple[Cache, Load]]:
        cache, load = carried
        drop = [None, None] if key is None else [keys.fold(key, name, layer) for name in ("attention", "mlp")]
        y, cache = self.attention(RmsNorm(self.eps, name="attention_norm")(x), where, layer, cache)
        x = x + dropout(y, self.dropout, drop[0])
        y, more = self.mlp(RmsNorm(self.eps, name="mlp_norm")(x), where.real())
        return x + dropout(y, self.dropout, drop[1]), (cache, load.plus(more))


class DenseMlp(nn.Module):
    """An mlp without experts among blocks with them: it adds no load."""

    mlp: Any
    num_experts: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], real: Array) -> tuple[Float[Array, "B T D"], Load]:
        return self.mlp(x), router.idle(self.num_experts)


def runs(kinds: tuple[str, ...]) -> list[Run]:
    """Split layers into runs: from each place the pattern that covers most by repeating, the shortest such."""
    found, first = [], 0
    while first < len(kinds):
        rest, best = kinds[first:], (1, 1)
        for period in range(1, len(rest) // 2 + 1):
            repeats = 1
            while rest[period * repeats : period * (repeats + 1)] == rest[:period]:
                repeats += 1
            if repeats > 1 and period * repeats > best[0] * best[1]:
                best = period, repeats
        found.append((first, rest[: best[0]], best[1]))
        first += best[0] * best[1]
    return found


@dataclass(frozen=True)
class Layers:
    """A decoder as its parts: kinds names each layer's stack of parameters, blocks has the block of each kind."""

    vocab_size: int
    width: int
    kinds: tuple[str, ...]
    blocks: Mapping[str, Block]
    moe: Moe
    eps: float
    dropout: float = 0.0
    tied: bool = False

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path."""
        x, where = jnp.zeros((1, 1, self.width)), Context(jnp.zeros((1, 1), jnp.int32), None)
        carried = (None, router.idle(self.moe.num_experts))
        parts = {"embed": declarations(self._table())}
        for kind, block in self.blocks.items():
            if kind in self.kinds:
                parts[kind] = declarations(block, x, where, 0, carried, layers=self.kinds.count(kind))
        parts["final_norm"] = declarations(RmsNorm(self.eps), x)
        return under(**parts) if self.tied else under(**parts, head=declarations(self._table()))

    def stacks(self) -> dict[str, tuple[int, ...]]:
        """The numbers of each kind's layers, from 0."""
        return {kind: tuple(i for i, k in enumerate(self.kinds) if k == kind) for kind in self.blocks}

    def forward(
        self, params: Params, batch: Batch, where: Context, cache: Cache = None, key: Key | None = None
    ) -> tuple[Outputs, Cache]:
        """Outputs of a batch and the cache after it."""
        table: Any = self._table().apply({"params": params["embed"]})
        x = embed(table, jnp.asarray(batch["tokens"], jnp.int32))
        x = dropout(x, self.dropout, None if key is None else keys.fold(key, "embed"))
        carried: Any = (cache and cache.reserve(where.real()), router.idle(self.moe.num_experts))
        for run in runs(self.kinds):
            x, carried = self._run(run, params, x, carried, where, key)
        hidden = RmsNorm(self.eps).apply({"params": params["final_norm"]}, x)
        head: Any = table if self.tied else self._table().apply({"params": params["head"]})
        cache, load = carried
        aux = router.losses(load, balance=self.moe.balance, z=self.moe.z_loss)
        return Outputs(hidden, lambda h: logits(h, head), aux), cache and cache.advance(where.real())

    def _run(self, run: Run, params: Params, x: Array, carried: Any, where: Context, key: Key | None) -> Any:
        first, pattern, repeats = run

        def repeat(p: Params, x: Array, index: Any, carried: Any) -> tuple[Array, Any]:
            for place, kind in enumerate(pattern):
                layer = first + index * len(pattern) + place
                x, carried = self.blocks[kind].apply({"params": p[str(place)]}, x, where, layer, carried, key)
            return x, carried

        parts = {str(i): self._part(params, run, i) for i in range(len(pattern))}
        if not any(isinstance(part, tuple) for part in parts.values()):
            return stack(repeat, parts, x, carried)
        rows = {i: part if isinstance(part, tuple) else unstack(part) for i, part in parts.items()}
        return stack(repeat, tuple({i: row[n] for i, row in rows.items()} for n in range(repeats)), x, carried)

    def _part(self, params: Params, run: Run, place: int) -> Any:
        """The layers at one place of a run's pattern, of the stack of their kind (or of its layers one by one)."""
        first, pattern, repeats = run
        kind, each = pattern[place], pattern.count(pattern[place])
        start = self.kinds[:first].count(kind) + pattern[:place].count(kind)
        chosen = slice(start, start + (repeats - 1) * each + 1, each)
        if isinstance(params[kind], tuple):
            return params[kind][chosen]
        if repeats == self.kinds.count(kind):
            return params[kind]
        return jax.tree.map(lambda leaf: leaf[chosen], params[kind])

    def _table(self) -> Table:
        return Table(self.vocab_size, self.width)
