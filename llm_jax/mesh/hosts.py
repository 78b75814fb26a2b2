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


def whole(array: jax.Array) -> np.ndarray:
    """Return a global array on this host; every process must ask for the same one."""
    if array.is_fully_addressable:
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
