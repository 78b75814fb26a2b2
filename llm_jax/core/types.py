"""The central types: what flows along the line from a batch to a new state.

`Batch` is a dictionary with one documented vocabulary; rows are B × T:

| key | dtype | meaning, default when absent |
|---|---|---|
| tokens | int32 [B,T] | model inputs; the only required key |
| targets | int32 [B,T] | what each position predicts; already shifted by `data` |
| weights | float32 [B,T] | loss weight of each target; default 1 |
| segments | int32 [B,T] | document number in the row, from 1; 0 is padding; default 1 |
| positions | int32 [B,T] | position within the segment; default counts from 0 |
| prefix | bool [B,T] | the first tokens of segments, which see each other in both directions; default none |
| prompt | bool [B,T] | what a text is continued from; a model that reads prompts so takes it for `prefix` |
| bytes | int32 [B,T] | raw UTF-8 bytes that each target stands for |
| document, domain | int64 [B,T], int32 [B] | provenance and mixture component |

`source_*`, `rejected_*`, `reference_*`, `label`, `tags`, `spans` belong to the objectives that use them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

Array = Any  # a jax.Array, a numpy array or a tracer
Params = dict[str, Any]  # a plain nested dictionary of arrays
Batch = dict[str, Array]
Cache = Any
Key = Array


class Mean(NamedTuple):
    """A weighted mean that is kept as a sum until it is printed; `+` merges two exactly.

    `total` may be a tree (gradients are Means too); `weight` is a scalar.
    """

    total: Any
    weight: Array

    def __add__(self, other: "Mean") -> "Mean":  # type: ignore[override]  # a sum of means, not of tuples
        return Mean(jax.tree.map(jnp.add, self.total, other.total), self.weight + other.weight)

    @property
    def value(self) -> Any:
        """total / weight, and 0 where the weight is 0."""
        scale = jnp.where(self.weight == 0, 0.0, 1.0 / jnp.where(self.weight == 0, 1.0, self.weight))
        return jax.tree.map(lambda t: t * scale, self.total)


Stats = dict[str, Mean]


@dataclass(frozen=True)
class Declaration:
    """One parameter, declared once: everything else about it (values, shardings, masks, tables) derives from this.

    shape: of the whole leaf, the layer axis included.
    axes: one logical name a dimension (`layer embed mlp heads kv head vocab expert`), or None.
    init: (key, shape of one layer) -> float32 array; a leading `layer` axis is drawn layer by layer.
    share: the part of it that one token is multiplied by: of experts, top_k / num_experts.
    dtype: float32 of whatever gradients change; tables of counts have whole numbers.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Callable[[Key, tuple[int, ...]], Array]
    share: float = 1.0
    dtype: str = "float32"


@dataclass(frozen=True)
class Outputs:
    """What a model returns for a batch.

    hidden: [B,T,D] before the output head.
    head: hidden [..., D] -> float32 logits [..., V], soft-caps included; chunked losses call it themselves. A
        `jax.tree_util.Partial` over its parameters, so that a mesh can sum their gradients once.
    aux: whatever the model adds to the loss or the log (router balance, KL).
    extras: what a model has beside (pooled states, attention maps). `nats` [B] is what a row costs beside its
        targets, times their mean weight: where the likelihood is a bound.
    """

    hidden: Array
    head: Callable[[Array], Array]
    aux: Mapping[str, Mean] = field(default_factory=dict)
    extras: Mapping[str, Array] = field(default_factory=dict)

    @cached_property
    def logits(self) -> Array:
        """float32 [B,T,V], computed on first use."""
        return self.head(self.hidden)

    def added(self, loss: Mean, stats: Stats) -> tuple[Mean, Stats]:
        """Return a loss, and statistics, with what the model adds to them."""
        for extra in self.aux.values():
            loss = Mean(loss.total + extra.value * loss.weight, loss.weight)
        return loss, {**stats, **self.aux}


@runtime_checkable
class Model(Protocol):
    """Pure functions of parameters; an entry of `MODELS` is a frozen dataclass of plain fields.

    `declarations` names every parameter by its path ("blocks/attention/query") before any is made.
    """

    def declarations(self) -> dict[str, Declaration]: ...
    def init(self, key: Key) -> Params: ...
    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs: ...


@runtime_checkable
class Decodes(Model, Protocol):
    """A model that continues a text; its cache is an explicit argument and result.

    `prefill` reads whole prompts into an empty cache: rows are right-aligned, so that padding (`segments` 0) comes
    first and all rows end together; `extend` reads tokens [B,n] that follow each row's last one.
    """

    def empty_cache(self, batch_size: int, max_len: int) -> Cache: ...
    def prefill(self, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]: ...
    def extend(self, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]: ...


@runtime_checkable
class Counts(Model, Protocol):
    """A model of counts: `count` adds those of a batch, `ready` what predictions are made from, once it is needed."""

    @property
    def capacity(self) -> int: ...
    def count(self, params: Params, batch: Batch) -> Params: ...
    def ready(self, params: Params) -> Params: ...


@runtime_checkable
class Carries(Decodes, Protocol):
    """A model whose cache has one size for texts of any length, and which trains from where a text was left."""

    def carry(self, params: Params, batch: Batch, cache: Cache, key: Key | None = None) -> tuple[Outputs, Cache]: ...


@runtime_checkable
class Conditional(Model, Protocol):
    """A model of a text given another: `apply` reads `source_tokens`, and `encode` is what it makes of them [B,S,D]."""

    def encode(self, params: Params, batch: Batch, *, key: Key | None = None) -> Array: ...


@runtime_checkable
class Embeds(Model, Protocol):
    """A model that turns the text of each row into one vector of length 1, float32 [B,D]."""

    def embed(self, params: Params, batch: Batch) -> Array: ...


@runtime_checkable
class Prepares(Model, Protocol):
    """A model whose heads read its states through a layer of its own: [B,T,D] -> [B,T,D], placed as `out` says."""

    def prepared(self, params: Params, states: Array, out: tuple[str | None, ...]) -> Array: ...


@runtime_checkable
class Samples(Model, Protocol):
    """A model that draws whole texts: tokens int32 [B,length] after `start`, int32 [B], which ends another text."""

    def sample(self, params: Params, key: Key, start: Array, length: int) -> Array: ...


@runtime_checkable
class Latent(Samples, Protocol):
    """A model of texts given a vector: q(z | row) as (mean, log-variance) [B,Z], p(row | z), and texts of given z."""

    def posterior(self, params: Params, batch: Batch, *, key: Key | None = None) -> tuple[Array, Array]: ...
    def decode(self, params: Params, batch: Batch, z: Array, *, key: Key | None = None) -> Outputs: ...
    def write(self, params: Params, z: Array, key: Key | None, start: Array, length: int) -> Array: ...


@runtime_checkable
class Adapted(Model, Protocol):
    """A model over another, `base`: only those parts of its parameters change whose first names are `learnt`.

    `merge` returns the parameters of `base` that compute the same; `attach` puts others of `base` below a new adapter.
    """

    @property
    def base(self) -> Model: ...
    @property
    def learnt(self) -> tuple[str, ...]: ...
    def merge(self, params: Params) -> Params: ...
    def attach(self, params: Params, base: Params) -> Params: ...


@runtime_checkable
class Adversaries(Samples, Protocol):
    """Two players with parameters of their own, `generator` and `discriminator`: one draws texts, one judges texts.

    `generate` returns one-hots [B,T,V] from one key a row, with gradients; `discriminate` the log-odds that a text, as
    ids [B,T] or one-hots, is real, float32 [B], from its tokens where `real` is True.
    """

    def generate(self, params: Params, row_keys: Key, length: int) -> Array: ...
    def discriminate(self, params: Params, x: Array, real: Array | None = None, *, key: Key | None = None) -> Array: ...


class Objective(Protocol):
    """(model, params, batch, key) -> (loss, statistics), both as sums; key None means no dropout.

    One that reads other batches than packed text has `extra_tokens` and `transform`, see `data.features`, and, where
    its texts may be longer than `data.seq_len`, `extra_positions`: by how much; one that not every model fits has
    `fits(model)`, which raises UserError before anything is read; one that learns labels `reads` fields that say so,
    and has a `head` that a model is given (`objectives.labelled`). One that learns from another model has its workdir
    as `teacher`, and that model's logits in its batches; one that stays close to another model, as `reference`. One
    whose model reads prompts in both directions is `bidirectional`. One whose models are judged otherwise than by
    likelihood says how: `judged`.
    """

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]: ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All that changes during training: step (int32), params, optimizer state, PRNG key, and what learners add."""

    step: Array
    params: Params
    opt: Any
    key: Key
    extra: dict[str, Any]


class Learner(NamedTuple):
    """All that the training loop knows of learning: how a state begins, and how a batch changes it.

    advice: statistic -> what to do when it is no longer finite, instead of lowering the rate.
    """

    init: Callable[[Key], State]
    update: Callable[[State, Batch], tuple[State, Stats]]
    advice: Mapping[str, str] = MappingProxyType({})


# (params, batch, key) -> (gradients as a Mean of a tree, loss, statistics): what accumulate and the like compose.
GradientRule = Callable[[Params, Batch, Key | None], tuple[Mean, Mean, Stats]]
