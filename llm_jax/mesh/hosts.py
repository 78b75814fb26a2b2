"""Processes: who is first, and how each process's rows of a batch become one global array."""

from typing import Any

import jax
import numpy as np

from llm_jax.core.types import Batch
from llm_jax.mesh import plan
from llm_jax.mesh.place import batch_sharding


def is_first() -> bool:
    """Whether this process writes what only one may write."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether the run has other processes."""
    return jax.process_count() > 1


def together() -> plan.Plan:
    """Return the plan by which a run's processes evaluate and sample; that of one device for a single process."""
    return plan.build({"fsdp": -1}) if several() else plan.Plan()


def agreed(here: bool) -> bool:
    """Return what the first process says; every process must ask at once."""
    if not several():
        return here
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.array(here)))


def share(rows: int) -> tuple[int, int]:
    """Return which part of a batch of `rows` this process loads, of how many: (index, count).

    Processes whose devices hold the same rows (as under tensor parallelism across hosts) load the same part.
    """
    sharding = batch_sharding({"rows": np.empty(rows)})["rows"]
    if not several() or sharding is None:
        return 0, 1
    held: dict[int, set[int]] = {}
    for device, index in sharding.devices_indices_map((rows,)).items():
        process = device.process_index  # type: ignore[attr-defined]  # of jaxlib's class
        held.setdefault(process, set()).update(range(*index[0].indices(rows)))
    parts = sorted({min(part): part for part in held.values()})
    return parts.index(min(held[jax.process_index()])), len(parts)


def whole(array: jax.Array | np.ndarray) -> np.ndarray:
    """Return a global array on this host; every process must ask for the same one."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def here(tree: Any) -> Any:
    """Return a tree of global arrays as numpy arrays: of one that is split over hosts, what this host holds of it."""
    return jax.device_get(jax.tree.map(_local, tree))


def _local(array: Any) -> Any:
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return array
    pieces = {str(shard.index): shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(piece) for piece in pieces.values()])


def to_devices(local: Batch, global_rows: int) -> Batch:
    """Place this process's rows [local B, T] as a global batch [global B, T]: the door to the devices.

    Raises:
        ValueError: when the rows are not this process's share of `global_rows`.
    """
    if plan.current().mesh is None:
        return jax.device_put(local)
    whole = {k: np.broadcast_to(v[:1], (global_rows, *v.shape[1:])) for k, v in local.items()}
    shardings = batch_sharding(whole)
    return {
        k: jax.make_array_from_process_local_data(shardings[k], v, (global_rows, *v.shape[1:]))
        for k, v in local.items()
    }
