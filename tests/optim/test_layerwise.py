"""Rates that fall from layer to layer: each leaf's update is that without, times a power of the factor."""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core import tree
from llm_jax.optim.transform import transformation

SHAPES = {
    "embed/tokens": (5, 2), "local_blocks/mlp/up": (3, 2, 4), "local_blocks/norm/scale": (3, 2),
    "global_blocks/mlp/up": (2, 2, 4), "final_norm/scale": (2,), "head/tokens": (5, 2),
}  # fmt: skip


def updates(shapes, **options):
    params = tree.unflatten({path: jnp.ones(shape) for path, shape in shapes.items()})
    gradients = jax.tree.map(lambda x: 0.5 * x, params)
    tx = transformation("adamw", 0.1, weight_decay=0.2, **options)
    return tree.flatten(jax.jit(tx.update)(gradients, tx.init(params), params)[0])


def factors(shapes, **options):
    plain = updates(shapes)
    return {path: np.asarray(leaf / plain[path]) for path, leaf in updates(shapes, **options).items()}


def test_layers_of_several_stacks_fall_in_the_order_in_which_they_run():
    found = factors(SHAPES, layer_decay=0.5, stacks={"local_blocks": (0, 1, 3), "global_blocks": (2, 4)})
    for path, powers in {
        "embed/tokens": 5, "local_blocks/mlp/up": [4, 3, 1], "local_blocks/norm/scale": [4, 3, 1],
        "global_blocks/mlp/up": [2, 0], "final_norm/scale": 0, "head/tokens": 0,
    }.items():  # fmt: skip
        leaf = found[path].reshape(len(found[path]), -1) if "blocks" in path else found[path].ravel()[None]
        wanted = 0.5 ** np.atleast_1d(np.array(powers, float))[:, None]
        np.testing.assert_allclose(leaf, np.broadcast_to(wanted, leaf.shape), rtol=1e-6, err_msg=path)


def test_one_stack_counts_from_its_first_layer_below_an_adapter_too_and_frozen_leaves_stay():
    shapes = {"adapter/blocks/query/up": (3, 2, 2), "adapter/embed/tokens/up": (2, 2), "base/blocks/query": (3, 2, 2)}
    found = updates(shapes, layer_decay=0.5, freeze=["^base/"])
    plain = updates(shapes)
    query = np.asarray(found["adapter/blocks/query/up"] / plain["adapter/blocks/query/up"])[:, 0, 0]
    np.testing.assert_allclose(query, [0.25, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found["adapter/embed/tokens/up"] / plain["adapter/embed/tokens/up"], 0.125, rtol=1e-6)
    assert not np.any(found["base/blocks/query"])
