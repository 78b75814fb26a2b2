"""Pruning by magnitude: which weights go, when, and that they stay away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.optim.masks import layout
from llm_jax.optim.sparsity import Gradual, Sparsity, mask, parse, prunable, prune, pruned
from llm_jax.optim.transform import transformation

KERNELS = {"blocks/mlp/up": (2, 12, 5), "blocks/attention/out": (2, 3, 8, 5), "blocks/q": (1, 6, 2, 4)}
HALF, FOUR = Sparsity(0.5), parse("2:4", "prune")


def kernel(path, seed=0):
    return np.random.default_rng(seed).normal(size=KERNELS[path]).astype(np.float32)


def matrices(x, form):
    """[layers, inputs, outputs] of a kernel."""
    return np.asarray(x).reshape(-1, *form.sizes(x.shape))


@pytest.mark.parametrize("path", KERNELS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_share_of_each_layers_matrix_goes_and_nothing_that_stays_is_smaller(path, share):
    x = kernel(path)
    form = layout(path, x.shape)
    kept = mask(x, form, Sparsity(share))
    for weights, stay in zip(matrices(np.abs(x), form), matrices(kept, form), strict=True):
        assert (~stay).sum() == round(share * weights.size)
        assert weights[stay].min() > weights[~stay].max()


@pytest.mark.parametrize("path", ["blocks/mlp/up", "blocks/attention/out"])
def test_of_every_four_inputs_of_an_output_the_two_largest_stay(path):
    x = kernel(path)
    form = layout(path, x.shape)
    for weights, stay in zip(matrices(np.abs(x), form), matrices(mask(x, form, FOUR), form), strict=True):
        for column in range(weights.shape[1]):
            for row in range(0, len(weights), 4):
                block, left = weights[row : row + 4, column], stay[row : row + 4, column]
                assert left.sum() == 2 and block[left].min() > block[~left].max()


def test_zeros_grow_by_the_cubic_schedule():
    """Zhu & Gupta 2017, equation 1, at the prunings between which nothing changes."""
    when, wanted, found = Gradual(begin=4, end=20, every=4), [], []
    for step in range(1, 26):
        last = min(step - step % 4, 20)
        wanted.append(0.9 + (0 - 0.9) * (1 - (last - 4) / 16) ** 3 if step >= 4 else 0.0)
        found.append(float(0.9 * when.progress(jnp.int32(step))))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert [s for s in range(1, 26) if when.due(jnp.int32(s))] == [4, 8, 12, 16, 20]
    at_once = Gradual(begin=3, end=3, every=10)
    assert [float(at_once.progress(jnp.int32(s))) for s in (2, 3, 4)] == [0, 1, 1]


@pytest.mark.parametrize("sparsity", [Sparsity(0.75), FOUR], ids=["share", "blocks"])
def test_what_is_pruned_in_training_is_exactly_zero_and_never_comes_back(sparsity):
    params = {"blocks": {"up": kernel("blocks/mlp/up"), "norm_scale": np.ones((2, 5), np.float32)}}
    tx = pruned(transformation("adamw", 0.3, weight_decay=0.1), sparsity, Gradual(begin=2, end=8, every=2))
    state, gone = tx.init(params), []
    update = jax.jit(tx.update)
    for step in range(1, 13):
        gradients = jax.tree.map(lambda x, s=step: np.random.default_rng(s).normal(size=x.shape) + 0.0 * x, params)
        updates, state = update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        zero = np.asarray(params["blocks"]["up"] == 0)
        np.testing.assert_array_equal(zero, ~state.masks["blocks"]["up"])
        assert not gone or not (gone[-1] & ~zero).any()
        gone.append(zero)
    counts = [int(zero.sum()) for zero in gone]
    final = round(sparsity.share * 60) * 2
    assert counts[0] == 0 and counts[7:] == [final] * 5 and 0 < counts[3] < final
    moment = next(x for x in jax.tree.leaves(state.inner) if x.shape == (2, 12, 5))
    later = np.asarray(update(gradients, state, params)[1].inner["direction"].mu["blocks"]["up"])
    np.testing.assert_allclose(later[gone[-1]], 0.9 * np.asarray(moment)[gone[-1]], rtol=1e-6)  # no gradient comes in
    assert (params["blocks"]["norm_scale"] != 0).all()


def test_at_once_it_is_the_end_of_the_schedule():
    params = {"blocks": {"up": kernel("blocks/mlp/up")}, "embed": {"tokens": np.ones((7, 4), np.float32)}}
    tx = pruned(transformation("sgd", 0.0), HALF, Gradual(1, 1, 1))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, prune(params, HALF), jax.tree.map(jnp.add, params, updates))


@pytest.mark.parametrize("text", ["0", "1", "1.5", "half", "4:2", "2:2", "0:4", "nan"])
def test_what_is_no_sparsity_is_refused(text):
    with pytest.raises(UserError, match=r"--prune=.* such as 0.5, or N:M"):
        parse(text, "--prune")


def test_inputs_that_are_no_whole_blocks_are_refused_and_so_is_a_model_without_layers():
    with pytest.raises(UserError, match="blocks/q has 6 inputs, which are no blocks of 4"):
        prunable({"blocks/q": (1, 6, 2, 4)}, FOUR)
    with pytest.raises(UserError, match="this model has none"):
        prunable({"embed/tokens": (40, 8)}, HALF)


@pytest.mark.oracle
@pytest.mark.parametrize("share", [0.3, 0.5, 0.77])
def test_the_mask_is_that_of_torch(share):
    import torch
    from torch.nn.utils import prune as torchs

    x = kernel("blocks/mlp/up")
    found = np.asarray(mask(x, layout("blocks/mlp/up", x.shape), Sparsity(share)))
    for layer, weights in zip(found, x, strict=True):
        module = torch.nn.Linear(*weights.shape, bias=False)
        module.weight.data = torch.tensor(weights.T.copy())
        torchs.l1_unstructured(module, "weight", amount=share)
        np.testing.assert_array_equal(layer, module.weight_mask.numpy().T.astype(bool))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_the_mask_of_blocks_is_that_of_torchs_sparsifier():
    import torch
    from torch.ao.pruning import WeightNormSparsifier

    x = kernel("blocks/mlp/up")
    found = np.asarray(mask(x, layout("blocks/mlp/up", x.shape), FOUR))
    for layer, weights in zip(found, x, strict=True):
        module = torch.nn.Sequential(torch.nn.Linear(*weights.shape, bias=False))
        module[0].weight.data = torch.tensor(weights.T.copy())
        sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
        sparsifier.prepare(module, [{"tensor_fqn": "0.weight"}])
        sparsifier.step()
        stay = module[0].parametrizations.weight[0].mask.numpy().T.astype(bool)
        np.testing.assert_array_equal(layer, stay)
