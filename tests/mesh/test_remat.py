"""What a backward pass keeps by name, or sends to its host: less memory or more, and never another gradient."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from llm_jax.core.table import UserError, lookup
from llm_jax.learn.gradient import descent
from llm_jax.mesh import plan, remat
from llm_jax.models import MODELS
from llm_jax.objectives.causal import Causal
from llm_jax.optim.transform import transformation
from llm_jax.run import build
from tests.laws.conftest import TINY

NAMES = remat.NAMES
SIZES = {"vocab_size": 32, "num_layers": 8, "embed_dim": 32, "num_heads": 2, "num_kv_heads": 2, "mlp_dim": 64}
GEMMA = lookup(MODELS, "gemma2", "model.name")(**SIZES, head_dim=16)  # whose gradient needs every result in a layer
MODEL = lookup(MODELS, "llama", "model.name")(**SIZES | {"num_layers": 2})
MAMBA = lookup(MODELS, "mamba2", "model.name")(**TINY["mamba2"] | {"num_layers": 8})
BATCH = {"tokens": np.arange(8 * 32, dtype=np.int32).reshape(8, 32) % 30}


def gradient(layout, model=GEMMA):
    """The compiled gradient of a model under a plan, and its parameters."""
    params = model.init(jax.random.key(0))
    with layout.active():
        lowered = jax.jit(jax.grad(lambda p, b: (model.apply(p, b).logits ** 2).mean())).lower(params, BATCH)
        return lowered.compile(), params


@functools.cache
def temporary_bytes(what, model=GEMMA):
    """Of layers in a loop: outside of one the CPU compiler keeps what it likes."""
    layout = replace(plan.over(None, remat=what), unrolled=0)
    return gradient(layout, model)[0].memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", [n if n == "mlp_up" else pytest.param(n, marks=pytest.mark.exhaustive) for n in NAMES])
def test_what_is_kept_by_name_takes_memory_and_less_than_all_of_it(name):
    model = MAMBA if name == "ssm" else GEMMA
    assert temporary_bytes("full", model) < temporary_bytes(name, model) < temporary_bytes("none", model)


def test_a_name_more_takes_more_memory():
    assert temporary_bytes("attention") < temporary_bytes("attention,mlp_gate")


def test_what_is_kept_by_name_changes_no_gradient():
    found, expected = (gradient(plan.over(None, remat=what)) for what in (NAMES, "full"))
    for a, b in zip(*(jax.tree.leaves(step(params, BATCH)) for step, params in (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(b).max()))


def test_names_are_a_list_or_words_between_commas_in_any_order():
    assert remat.canonical("mlp_hidden, attention") == remat.canonical(["attention", "mlp_hidden"])
    assert remat.canonical(["full"]) == "full"


def test_a_name_that_nothing_has_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"mesh.remat='attention,mlp_hiden' .*did you mean 'mlp_hidden'"):
        plan.over(None, remat="attention,mlp_hiden")
    with pytest.raises(UserError, match=r"names nothing"):
        plan.over(None, remat="")
    with pytest.raises(UserError, match=r"full stands alone"):
        plan.over(None, remat=["full", "attention"])


def test_what_cannot_wait_in_the_hosts_memory_is_refused():
    with pytest.raises(UserError, match=r"mesh.offload='optimiser'.*did you mean 'optimizer'"):
        plan.over(None, offload="optimiser")
    with pytest.raises(UserError, match=r"mesh.remat=none keeps all; set mesh.remat=full"):
        plan.over(None, offload="activations")
    with pytest.raises(UserError, match=r"mesh.offload='optimizer': a CPU has no memory but its host's"):
        plan.build({"data": -1}, offload="optimizer")


@pytest.mark.parametrize(
    "again", ["attention,mlp_gate", *(pytest.param(a, marks=pytest.mark.exhaustive) for a in ("full", "dots"))]
)
def test_activations_that_waited_in_the_hosts_memory_are_the_same(again):
    step, params = gradient(plan.over(None, remat=again, offload="activations"))
    plain, _ = gradient(plan.over(None, remat=again))
    jax.tree.map(np.testing.assert_array_equal, step(params, BATCH), plain(params, BATCH))


@pytest.mark.exhaustive
def test_an_optimizer_that_waited_in_the_hosts_memory_takes_the_same_steps():
    mesh = jax.make_mesh((1, 2, 4), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    taught, found = descent(MODEL, Causal(), transformation("adamw", 1e-2)), {}
    for offload in (None, "optimizer"):
        layout = plan.over(mesh, offload=offload)
        places = build.shardings(layout, MODEL.declarations(), taught)
        with layout.active():
            state = jax.jit(taught.init, out_shardings=places)(jax.random.key(1))
            batch = jax.device_put(BATCH | {"targets": BATCH["tokens"]}, NamedSharding(mesh, PartitionSpec("fsdp")))
            update = jax.jit(taught.update, out_shardings=(places, None))
            for _ in range(3):
                state, _ = update(state, batch)
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.opt) if x.ndim}
        assert kinds == {remat.HOST if offload else "device"}
        assert all(x.sharding.memory_kind == "device" for x in jax.tree.leaves(state.params))
        found[offload] = jax.tree.map(jnp.asarray, state.params)
    jax.tree.map(np.testing.assert_array_equal, found[None], found["optimizer"])
