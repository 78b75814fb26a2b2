"""Trees of arrays to and from disk with orbax, which sees one flat dictionary {name of the leaf: array}.

A tree's own structure (dataclasses, named tuples, empty dictionaries) never reaches the disk: leaves are known by path,
and the caller's tree gives the structure on the way back. PRNG keys are stored as their words. orbax is imported late.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import jax
import numpy as np
from etils import epath

from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.store.digests import Piece, whole
from llm_jax.store.manifest import CorruptCheckpointError, Leaf, check_path
from llm_jax.store.processes import PATIENCE

FOLDER = "arrays"
FEW_KEYS = 8  # whose words are also written into the manifest


def leaves_of(state: Any) -> dict[str, Any]:
    """Return {path: leaf}; numpy arrays are copied and Python numbers made arrays of no dimensions.

    Raises:
        UserError: two leaves have one path, a path cannot be a name, or a leaf is not numeric.
    """
    flat = tree.flatten(state)
    if len(flat) != len(jax.tree.leaves(state)):
        raise UserError("two leaves of the state have the same path; rename the keys that hold a '/'")
    leaves = {path: leaf if isinstance(leaf, jax.Array) else _copied(leaf) for path, leaf in flat.items()}
    for path, leaf in leaves.items():
        try:
            check_path(path)
        except ValueError as error:
            raise UserError(f"the state cannot be saved: {error}") from None
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OSUMm":
            raise UserError(f"the state cannot be saved: {path!r} holds {leaf.dtype}, not numbers")
        if is_key(leaf) and leaf.size == 0:
            raise UserError(f"the state cannot be saved: {path!r} is an array of no PRNG keys")
    return leaves


def _copied(leaf: Any) -> np.ndarray:
    """Return numbers as an array of their own, in this machine's byte order."""
    array = np.array(leaf)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def described(leaves: Mapping[str, Any]) -> dict[str, Leaf]:
    """Return the manifest's entry for each leaf, abstract ones too, with no digest yet."""
    forms = {path: leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for path, leaf in leaves.items()}
    return {path: Leaf(tuple(form.shape), str(form.dtype)) for path, form in forms.items()}


def is_key(leaf: Any) -> bool:
    """Say whether an array holds typed PRNG keys."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def prng(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the algorithm of each PRNG key, and its words where they are few and all at hand (else None)."""
    found: dict[str, dict[str, Any]] = {}
    for path, key in leaves.items():
        if is_key(key):
            small = key.size <= FEW_KEYS and (key.is_fully_addressable or key.is_fully_replicated)
            data = np.asarray(jax.random.key_data(key)).tolist() if small else None
            found[path] = {"impl": str(jax.random.key_impl(key)), "data": data}
    return found


def words(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Replace keys by their words: what is written and digested."""
    return {path: jax.random.key_data(leaf) if is_key(leaf) else leaf for path, leaf in leaves.items()}


def typed(leaves: Mapping[str, Any], impls: Mapping[str, str]) -> dict[str, Any]:
    """Make keys again of the words whose path is in `impls` (path -> algorithm)."""
    wrap = jax.random.wrap_key_data
    return {path: wrap(leaf, impl=impls[path]) if path in impls else leaf for path, leaf in leaves.items()}


def pieces(leaves: Mapping[str, Any]) -> dict[str, list[Piece]]:
    """Return on the host this process's pieces of each leaf; every element of a leaf is in exactly one process's.

    All transfers start before the first is waited for. On CPU a piece is a view of the array's own buffer: while one is
    alive, XLA does not let a step to which the array was donated write into that buffer.
    """
    own = {
        path: [s for s in leaf.addressable_shards if s.replica_id == 0]
        for path, leaf in leaves.items()
        if isinstance(leaf, jax.Array)
    }
    for shards in own.values():
        for shard in shards:
            shard.data.copy_to_host_async()
    on_host = {path: [Piece(np.asarray(s.data), s.index, leaves[path].shape) for s in own[path]] for path in own}
    first = jax.process_index() == 0
    return {path: on_host[path] if path in own else [whole(leaf)] * first for path, leaf in leaves.items()}


def start_writing(directory: epath.Path, leaves: Mapping[str, Any]) -> Any:
    """Start writing arrays into `directory` and return orbax's checkpointer, to be waited for and closed.

    When it returns, the arrays may be donated. Nothing is compressed: float weights shrink by 8 %, in twice the time.
    """
    import orbax.checkpoint as ocp

    handler = ocp.PyTreeCheckpointHandler(use_compression=False)
    checkpointer = ocp.AsyncCheckpointer(handler, timeout_secs=PATIENCE)
    full = {name_of(path): leaf for path, leaf in leaves.items() if leaf.size}  # orbax refuses arrays of no elements
    try:
        checkpointer.save(directory, args=ocp.args.PyTreeSave(full))
    except BaseException:
        checkpointer.close()
        raise
    return checkpointer


def read(directory: epath.Path, leaves: Mapping[str, Leaf], shardings: Mapping[str, Any]) -> dict[str, Any]:
    """Read `leaves` and no others, each onto its jax sharding or, where that is None, as a numpy array.

    Raises:
        CorruptCheckpointError: an array is missing, or has another shape or dtype than it was saved with.
    """
    import orbax.checkpoint as ocp

    full = {path: shardings[path] for path, leaf in leaves.items() if 0 not in leaf.shape}
    args = {
        name_of(path): ocp.RestoreArgs(np.ndarray) if sharding is None else ocp.ArrayRestoreArgs(sharding=sharding)
        for path, sharding in full.items()
    }
    wanted = ocp.args.PyTreeRestore(item=dict.fromkeys(args, 0), restore_args=args, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        _check_stored(checkpointer.metadata(directory).item_metadata.tree, {path: leaves[path] for path in full})
        restored = checkpointer.restore(directory, args=wanted) if args else {}
    for path, leaf in leaves.items():
        if 0 in leaf.shape:
            nothing = np.zeros(leaf.shape, leaf.dtype)
            restored[name_of(path)] = nothing if shardings[path] is None else jax.device_put(nothing, shardings[path])
    return {path: restored[name_of(path)] for path in leaves}


def _check_stored(stored: Mapping[str, Any], leaves: Mapping[str, Leaf]) -> None:
    for path, leaf in leaves.items():
        found = stored.get(name_of(path))
        if found is None:
            raise CorruptCheckpointError(f"{path} is missing")
        keys = leaf.dtype.startswith("key<")  # whose words have one axis more
        shape, dtype = tuple(found.shape)[: len(leaf.shape)] if keys else tuple(found.shape), str(found.dtype)
        if shape != leaf.shape or dtype != ("uint32" if keys else leaf.dtype):
            raise CorruptCheckpointError(f"{path} is {dtype}{list(shape)}, {leaf.dtype}{list(leaf.shape)} was saved")


def name_of(path: str) -> str:
    """Return the name under which orbax stores a leaf: dots for slashes, nothing that a file system could trip over."""
    return ".".join(quote(part, safe="").replace(".", "%2E") for part in path.split("/"))
