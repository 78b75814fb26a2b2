"""Pipeline parallelism: layers lie on the devices of mesh axis `stage`, and microbatches flow from one to the next.

The layers fall into `repeats` groups a stage, group g on stage g mod S, so that each microbatch goes round the ring of
S stages `repeats` times (Narayanan et al. 2021, §2.2, the interleaved schedule). Of repeats · microbatches + S - 1
ticks S - 1 are idle. The gradient runs the same schedule backwards after it, so that all microbatches are in flight.

Outside of the pipeline (embeddings, head, loss, layers that do not divide) the rows of a batch are split over `stage`
as over `data`, so that no stage repeats another's work.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from llm_jax.core import keys
from llm_jax.core.types import Array, Key, Params
from llm_jax.mesh import plan
from llm_jax.mesh.place import place
from llm_jax.mesh.plan import STAGE

# (params of a group's layers, x, where, number of its first layer, carried, key) -> (x, carried)
Group = Callable[[Params, Array, Any, Array, Any, Key | None], tuple[Array, Any]]


class Flow(NamedTuple):
    """A schedule: microbatches pass `repeats` times round `stages` stages, `stages` of them in turn."""

    stages: int
    microbatches: int
    repeats: int

    @property
    def ticks(self) -> int:
        """How long it takes, in times of one group and one microbatch."""
        return self.repeats * self.microbatches + self.stages - 1

    @property
    def bubble(self) -> float:
        """The part of the time that a stage is idle."""
        return (self.stages - 1) / self.ticks

    def work(self, tick: Any, stage: Any) -> tuple[Any, Any, Any]:
        """Return (busy, repeat, microbatch) of a stage at a tick; what is not busy gets the nearest work there is."""
        done = tick - stage
        busy = (done >= 0) & (done < self.repeats * self.microbatches)
        turn, place = jnp.divmod(jnp.clip(done, 0, self.repeats * self.microbatches - 1), self.stages)
        return busy, turn % self.repeats, turn // self.repeats * self.stages + place


def flow(layers: int, rows: int) -> Flow | None:
    """Return how `layers` equal layers and `rows` rows go through the active plan's stages; None: they cannot.

    The plan's repeats and microbatches are the most that are used: where they do not divide, the next that do.
    """
    active = plan.current()
    stages = active.stages
    repeats = next((r for r in range(active.repeats, 0, -1) if layers % (stages * r) == 0), 0)
    most = active.microbatches or 4 * stages
    shards = active.batch_shards
    parts = next((k for k in range(most // stages, 0, -1) if rows % (shards * k) == 0), 0)
    return Flow(stages, parts * stages, repeats) if stages > 1 and repeats and parts else None


def pipeline(
    group: Group, params: Any, x: Array, where: Any, carried: Any, key: Key | None, schedule: Flow
) -> tuple[Array, Any]:
    """Return (x, carried) after all layers.

    Args:
        group: runs the layers of a group on one microbatch.
        params: a tree with a leading axis of layers, split over the stages.
        x: [B,T,D].
        where: a tree of arrays with a leading axis B that every layer reads.
        carried: sums to which each layer adds what it finds, a tree of arrays; they are added up over microbatches.
        key: of random numbers, or None; each microbatch folds in its number, so that what they draw differs.
    """
    shards = plan.current().batch_shards // schedule.stages
    parts, where = jax.tree.map(lambda a: _parted(a, shards, schedule), (x, where))

    def local(params: Params, parts: Array, where: Any, carried: Any, key: Key | None) -> tuple[Array, Any]:
        x, where = jax.tree.map(_microbatches, (_collected(_split(parts), schedule.stages), where))
        zero = jax.tree.map(jnp.zeros_like, carried)
        y, added = _run(group, _dealt(params, schedule), x, where, zero, key, schedule)
        y = jnp.moveaxis(y.reshape(schedule.microbatches, shards, -1, *y.shape[2:]), 1, 0)
        return _scattered(_split(y), schedule.stages), jax.tree.map(lambda a: jax.lax.psum(a, STAGE), added)

    layers, rows, same = P(STAGE), P(None, STAGE), P()
    island = jax.shard_map(
        local, in_specs=(layers, rows, same, same, same), out_specs=(rows, same), axis_names={STAGE}, check_vma=False
    )
    y, added = island(params, parts, where, carried, key)
    return place(_joined(y, schedule.stages), "batch", "seq", "act_embed"), jax.tree.map(jnp.add, carried, added)


def _parted(a: Array, shards: int, schedule: Flow) -> Array:
    """[B, ...], whose rows lie by (slice, stage, other shards) -> [shards, M, b, ...]: no row leaves its device."""
    slices = plan.current().slices
    a = a.reshape(slices, schedule.stages, shards // slices, schedule.microbatches // schedule.stages, -1, *a.shape[1:])
    return jnp.moveaxis(a, 1, 2).reshape(shards, schedule.microbatches, *a.shape[4:])


def _joined(a: Array, stages: int) -> Array:
    """The way back of `_parted`."""
    slices, (shards, microbatches, *rest) = plan.current().slices, a.shape
    a = a.reshape(slices, shards // slices, stages, microbatches // stages, *rest)
    return jnp.moveaxis(a, 2, 1).reshape(-1, *rest[1:])


# Of collectives within `shard_map` over one axis the compiler splits permutations alone over the other axes of the
# mesh: an all-gather over the stages would first gather the batch over all devices.


def _collected(a: Array, stages: int) -> Array:
    """Return on the first stage all microbatches [shards, M, ...] of the shares of all stages [shards, M / S, ...]."""
    others = [jax.lax.ppermute(a, STAGE, [(s, 0)]) for s in range(1, stages)]
    return jnp.concatenate([a, *others], axis=1)


def _scattered(y: Array, stages: int) -> Array:
    """Return each stage's share of what the last stage has; the way back of `_collected`."""
    *others, mine = jnp.split(y, stages, axis=1)
    mine = jnp.where(jax.lax.axis_index(STAGE) == stages - 1, mine, jnp.zeros_like(mine))
    for s, share in enumerate(others):  # a permutation gives zero to whom it sends nothing
        mine = mine + jax.lax.ppermute(share, STAGE, [(stages - 1, s)])
    return mine


def _microbatches(a: Array) -> Array:
    """[shards, M, b, ...] -> [M, shards · b, ...]."""
    a = jnp.moveaxis(_split(a), 1, 0)
    return place(a.reshape(a.shape[0], -1, *a.shape[3:]), None, *("batch", "seq", "act_embed")[: a.ndim - 2])


def _split(a: Array) -> Array:
    """Keep [shards, microbatches, b, ...] over the mesh axes of a batch."""
    return place(a, "batch", None, None, *("seq", "act_embed")[: a.ndim - 3])


def _run(
    group: Group, params: Params, x: Array, where: Any, zero: Any, key: Key | None, schedule: Flow
) -> tuple[Array, Any]:
    """Return the results [M,b,T,D], right on the last stage alone, and what this stage's layers added."""
    stages, stage = schedule.stages, jax.lax.axis_index(STAGE)
    size = jax.tree.leaves(params)[0].shape[1]

    def tick(state: tuple[Array, Any, Array], now: Array) -> tuple[tuple[Array, Any, Array], None]:
        coming, sums, out = state
        busy, repeat, part = schedule.work(now, stage)
        begins = (stage == 0) & (repeat == 0)
        here = jnp.where(begins, x[part], coming)
        mine = jax.tree.map(lambda a: a[repeat], params)
        drawn = None if key is None else keys.fold(key, "microbatch", part)
        first = (repeat * stages + stage) * size
        y, more = group(mine, here, jax.tree.map(lambda a: a[part], where), first, sums, drawn)
        sums = jax.tree.map(lambda new, old: jnp.where(busy, new, old), more, sums)
        # A later repeat overwrites an earlier one's; the last stage has no idle tick after its last work.
        out = jax.lax.dynamic_update_index_in_dim(out, y, part, 0)
        return (jax.lax.ppermute(y, STAGE, [(s, (s + 1) % stages) for s in range(stages)]), sums, out), None

    start = x[0], zero, jnp.zeros_like(x)
    (_, sums, out), _ = jax.lax.scan(tick, start, jnp.arange(schedule.ticks))
    return out, sums


def _dealt(params: Params, schedule: Flow) -> Params:
    """Return this stage's groups of layers [repeats, layers of a group, ...], from its layers as they are stored.

    Stored are, as anything split over a mesh axis, layers that follow each other: with one repeat they are the group.
    With more, group g goes from stage g div repeats to stage g mod S in one of `repeats` rounds, in each of which every
    stage sends one group and gets one: (g + g div lcm(repeats, S)) mod repeats differs among the groups of a sender and
    among those of a receiver.
    """
    stages, _, repeats = schedule
    groups = jax.tree.map(lambda a: a.reshape(repeats, -1, *a.shape[1:]), params)
    if repeats == 1:
        return groups
    stage, common = jax.lax.axis_index(STAGE), math.lcm(repeats, stages)
    rounds: list[list[int]] = [[] for _ in range(repeats)]  # of each, the group that a stage sends
    for g in range(repeats * stages):
        rounds[(g + g // common) % repeats].append(g)
    dealt = jax.tree.map(jnp.zeros_like, groups)
    for sent in rounds:
        gets = sorted(sent, key=lambda g: g % stages)
        mine, slot = jnp.array(sent)[stage] % repeats, jnp.array(gets)[stage] // stages
        pairs = [(g // repeats, g % stages) for g in sent]

        def deal(a: Array, to: Array, mine=mine, slot=slot, pairs=pairs) -> Array:
            return jax.lax.dynamic_update_index_in_dim(to, jax.lax.ppermute(a[mine], STAGE, pairs), slot, 0)

        dealt = jax.tree.map(deal, groups, dealt)
    return dealt
