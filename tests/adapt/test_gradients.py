"""What an adapter of one kernel computes and learns: by the papers' formulas, and as `peft` does on torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.adapt import ADAPTERS
from llm_jax.adapt.dora import lengths
from llm_jax.core.table import lookup
from llm_jax.optim.masks import layout

RNG = np.random.default_rng(0)
KERNEL, X, TARGET = (RNG.normal(size=shape).astype(np.float32) for shape in ((6, 5), (7, 6), (7, 5)))
PARTS = {"down": RNG.normal(size=(6, 2)), "up": RNG.normal(size=(2, 5)), "magnitude_scale": RNG.uniform(1, 2, 5)}
FORM = layout("mlp/up", KERNEL.shape)


def parts_of(name):
    return {k: v.astype(np.float32) for k, v in PARTS.items() if name == "dora" or k != "magnitude_scale"}


def loss(name, parts):
    kind = lookup(ADAPTERS, name, "adapt.name")(rank=2, alpha=3.0)
    return jnp.square(X @ kind.merge(KERNEL, parts, FORM, (None, None)) - TARGET).mean()


def test_lora_adds_its_product_by_alpha_over_rank():
    parts = parts_of("lora")
    wanted = np.square(X @ (KERNEL + 1.5 * parts["down"] @ parts["up"]) - TARGET).mean()
    np.testing.assert_allclose(loss("lora", parts), wanted, rtol=1e-5)


def test_the_lengths_that_dora_divides_by_count_as_constants():
    """Section 4.3 of the paper; each column of the kernel has the length that is learnt."""
    parts = parts_of("dora")
    constant = np.asarray(lengths(KERNEL + 1.5 * parts["down"] @ parts["up"], FORM))

    def by_hand(p):
        changed = KERNEL + 1.5 * p["down"] @ p["up"]
        return jnp.square(X @ (changed * p["magnitude_scale"] / constant) - TARGET).mean()

    for one, other in zip(*(jax.tree.leaves(jax.value_and_grad(f)(parts)) for f in (by_hand, ours)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    kind = lookup(ADAPTERS, "dora", "adapt.name")(rank=2, alpha=3.0)
    np.testing.assert_allclose(
        np.linalg.norm(kind.merge(KERNEL, parts, FORM, (None, None)), axis=0), parts["magnitude_scale"], rtol=1e-5
    )


def ours(parts):
    return loss("dora", parts)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_has_the_same_loss_and_the_same_gradients(name):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    plain = torch.nn.Sequential(torch.nn.Linear(6, 5, bias=False))
    plain[0].weight.data = torch.tensor(KERNEL.T.copy())
    config = peft.LoraConfig(r=2, lora_alpha=3.0, target_modules=["0"], use_dora=name == "dora")
    model = peft.get_peft_model(plain, config)
    layer, parts = model.base_model.model[0], parts_of(name)
    learnt = {"down": layer.lora_A["default"].weight, "up": layer.lora_B["default"].weight}
    if name == "dora":
        learnt["magnitude_scale"] = layer.lora_magnitude_vector["default"].weight
    for key, leaf in learnt.items():
        leaf.data = torch.tensor(parts[key].T.copy()).reshape(leaf.shape)
    theirs = torch.nn.functional.mse_loss(model(torch.tensor(X)), torch.tensor(TARGET))
    theirs.backward()
    value, gradients = jax.value_and_grad(lambda p: loss(name, p))(parts)
    np.testing.assert_allclose(theirs.item(), value, rtol=1e-5)
    for key, leaf in learnt.items():
        np.testing.assert_allclose(
            leaf.grad.numpy().reshape(gradients[key].T.shape), gradients[key].T, rtol=1e-4, atol=1e-5
        )
