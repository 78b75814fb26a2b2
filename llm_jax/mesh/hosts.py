"""Processes: who is first, and how each process's rows of a batch become one global array."""

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
