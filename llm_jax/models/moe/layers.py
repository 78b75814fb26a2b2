"""What decoders with experts share: their block, and `Layers` whose blocks pass on the load of the experts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.core import keys
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.models import layers
from llm_jax.nn.attention import Context
from llm_jax.nn.dropout import dropout
from llm_jax.nn.moe import router
from llm_jax.nn.moe.router import Load, Moe
from llm_jax.nn.norm import RmsNorm


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


@dataclass(frozen=True)
class Layers:
    """A decoder as its parts; see `models.layers`."""

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
        return self._parts().declarations((None, router.idle(self.moe.num_experts)))

    def stacks(self) -> dict[str, tuple[int, ...]]:
        """The numbers of each kind's layers, from 0."""
        return self._parts().stacks()

    def forward(
        self, params: Params, batch: Batch, where: Context, cache: Cache = None, key: Key | None = None
    ) -> tuple[Outputs, Cache]:
        """Outputs of a batch and the cache after it."""
        carried = (cache and cache.reserve(where.real()), router.idle(self.moe.num_experts))
        hidden, head, (cache, load) = self._parts().read(params, batch, where, carried, key, whole=cache is None)
        sparse = sum(not isinstance(self.blocks[kind].mlp, DenseMlp) for kind in self.kinds)
        aux = router.losses(load, balance=self.moe.balance, z=self.moe.z_loss, layers=sparse)
        return Outputs(hidden, head, aux), cache and cache.advance(where.real())

    def _parts(self) -> layers.Layers:
        norm = RmsNorm(self.eps)
        return layers.Layers(self.vocab_size, self.width, self.kinds, self.blocks, norm, self.dropout, self.tied)
