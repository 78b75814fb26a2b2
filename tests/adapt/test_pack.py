"""Kernels in few bits: how far they may be from what they were, and what is kept of them."""

from dataclasses import replace
from statistics import NormalDist

import jax
import numpy as np
import pytest

from llm_jax.adapt.adapted import adapted
from llm_jax.adapt.lora import Lora
from llm_jax.adapt.pack import FORMS, LEVELS, NF4, Packing
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.learn.gradient import descent
from llm_jax.mesh import plan
from llm_jax.models.decoder.llama import Llama
from llm_jax.objectives.causal import Causal
from llm_jax.optim.masks import layout
from llm_jax.optim.transform import transformation

BITS = {"int8": 8, "int4": 4, "nf4": 4}
TOKENS = np.arange(12, dtype=np.int32)[None] % 40
BATCH = {"tokens": TOKENS, "targets": np.roll(TOKENS, -1, axis=1)}
MODEL = Llama(vocab_size=40, num_layers=5, embed_dim=16, num_heads=4, head_dim=8, mlp_dim=24)


def packed(form, group=8):
    return adapted(MODEL, Lora(rank=2), (r"attention/(query|value)$",), Packing(form, group))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("path", "shape"),
    [("blocks/mlp/up", (2, 12, 5)), ("blocks/attention/out", (2, 3, 8, 5)), ("blocks/q", (1, 6, 2, 4))],
)
def test_a_kernel_stays_within_half_a_step_of_its_groups_scale(form, path, shape):
    packing, rng = Packing(form, 4), np.random.default_rng(0)
    kernel = rng.normal(size=shape).astype(np.float32)
    kernel[..., 0] = 0
    form_of = layout(path, shape)
    parts = packing.pack(kernel, form_of)
    made = np.asarray(packing.unpack(parts, form_of))
    at = form_of.batch + form_of.inputs - 1
    width = shape[at] // parts["scales"].shape[at]
    largest = np.repeat(parts["scales"], width, axis=at)
    levels = np.arange(-127, 128) / 127 if form == "int8" else np.array(LEVELS[form])
    assert (np.abs(made - kernel) <= np.diff(levels).max() / 2 * largest + 1e-6).all()
    assert np.abs(made - kernel).max() > 1e-4 and not made[..., 0].any()
    again = packing.pack(made, form_of)
    np.testing.assert_array_equal(again["codes"], parts["codes"])
    assert parts["codes"].nbytes * 8 == kernel.size * BITS[form]


def test_nf4_has_the_levels_of_the_paper():
    """Appendix E, as the authors' code makes them: quantiles from 1 - 1/2 (1/30 + 1/32) to 1/2 on each side."""
    far = 1 - (1 / 30 + 1 / 32) / 2
    above = [NormalDist().inv_cdf(p) for p in np.linspace(far, 0.5, 9)[:-1]]
    below = [-NormalDist().inv_cdf(p) for p in np.linspace(far, 0.5, 8)[:-1]]
    wanted = np.sort([*above, 0.0, *below]) / max(above)
    np.testing.assert_allclose(NF4, wanted, atol=2e-6)


@pytest.mark.parametrize("form", [f if f == "nf4" else pytest.param(f, marks=pytest.mark.exhaustive) for f in FORMS])
def test_what_is_packed_stays_to_the_bit_and_its_adapter_learns(form):
    both = packed(form)
    learner = descent(both, Causal(), transformation("sgd", 0.5))
    state = jax.jit(learner.init)(jax.random.key(0))
    assert {p: (x.shape, x.dtype) for p, x in tree.flatten(state.params).items()} == {
        p: (d.shape, np.dtype(d.dtype)) for p, d in both.declarations().items()
    }
    with plan.Plan(unrolled=0).active():
        after, stats = jax.jit(learner.update)(state, BATCH)
        merged = MODEL.apply(both.merge(state.params), BATCH).logits
        np.testing.assert_allclose(both.apply(state.params, BATCH).logits, merged, atol=1e-5)
    before, now = tree.flatten(state.params), tree.flatten(after.params)
    same = {path for path in now if np.array_equal(before[path], now[path])}
    assert {path for path in now if path.startswith("base/")} <= same
    assert all(f"adapter/blocks/attention/{name}/up" not in same for name in ("query", "value"))
    blocks = sum(x.nbytes for p, x in now.items() if p.startswith("base/blocks") and "norm" not in p)
    whole = sum(4 * x.size for p, x in tree.flatten(both.merge(state.params)["blocks"]).items() if "norm" not in p)
    assert blocks / whole == BITS[form] / 32 + 1 / 8  # groups of 8 inputs have a float32 scale
    assert np.isfinite(stats["loss"].value)


def test_no_whole_stack_of_kernels_is_unpacked_at_once():
    """Neither forwards nor backwards, as the program that is compiled shows; of one that is not packed it does."""

    def program(model):
        learner = descent(model, Causal(), transformation("sgd", 0.5))
        state = jax.eval_shape(learner.init, jax.random.key(0))
        with plan.Plan(unrolled=0).active():
            return jax.jit(learner.update).lower(state, BATCH).as_text()

    whole = ("5x16x24xf32", "5x16x4x8xf32")
    assert not any(shape in program(packed("nf4")) for shape in whole)
    assert all(shape in program(replace(packed("nf4"), packing=None)) for shape in whole)


@pytest.mark.parametrize(("form", "group", "told"), [("int3", 8, "adapt.pack='int3'"), ("nf4", 0, "pack_group=0")])
def test_a_wrong_packing_is_refused(form, group, told):
    with pytest.raises(UserError, match=told):
        Packing(form, group)
