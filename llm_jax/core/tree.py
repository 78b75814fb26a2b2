"""Trees of arrays seen as {"a/b/c": leaf}: paths, masks and sizes."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax


def path_string(path: tuple[Any, ...]) -> str:
    """Return jax's key path as "a/b/0"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def flatten(tree: Any) -> dict[str, Any]:
    """Return {path: leaf} in the tree's own order."""
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def unflatten(leaves: dict[str, Any]) -> dict[str, Any]:
    """Return the nested dictionary whose `flatten` is `leaves`."""
    root: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = root
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return root


def map_with_path(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Map `function(path, leaf, ...)` over trees of one structure."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_string(path), *leaves), tree, *rest)


def mask(tree: Any, patterns: Iterable[str]) -> Any:
    """Return the tree of booleans that says where a path matches any regular expression of `patterns` (search)."""
    compiled = [re.compile(p) for p in patterns]
    return map_with_path(lambda path, _: any(p.search(path) for p in compiled), tree)


def count(tree: Any) -> int:
    """Return the number of elements in all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Return the number of bytes in all leaves, abstract ones included."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
