"""The FLOPs that we claim beside those that the compiler counts, and the published numbers of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.cost import chips, flops
from llm_jax.mesh import plan
from llm_jax.models.decoder.gpt2 import GPT2, PRESETS
from llm_jax.models.decoder.llama import Llama
from llm_jax.nn.declare import declarations
from llm_jax.nn.initial import zeros
from llm_jax.nn.moe.experts import Experts, SparseMlp
from llm_jax.nn.moe.router import SoftmaxRouter
from llm_jax.objectives.causal import Causal

SIZES = {"vocab_size": 512, "num_layers": 2, "embed_dim": 128, "num_heads": 4, "attention": "plain"}
MODELS = {
    "gpt2": GPT2(**SIZES, max_positions=128),
    "llama, untied": Llama(**SIZES, mlp_dim=384),
    "llama, tied, grouped": Llama(**SIZES, mlp_dim=384, num_kv_heads=2, tied=True),
    "llama, narrow heads": Llama(**SIZES, mlp_dim=256, head_dim=16),
}


@pytest.mark.parametrize("name", MODELS)
def test_claimed_flops_are_those_the_compiler_counts(name):
    """Forward and backward of the loss, layers unrolled (the compiler counts a loop's body once), plain attention.

    Plain attention computes the masked half too, so that the claim compared is the one of the whole.
    """
    model, T = MODELS[name], 128
    params = tree.unflatten({p: jax.ShapeDtypeStruct(d.shape, "float32") for p, d in model.declarations().items()})
    batch = {k: jax.ShapeDtypeStruct((2, T), jnp.int32) for k in ("tokens", "targets")}
    loss = lambda p, b: Causal()(model, p, b, None)[0].total  # noqa: E731
    with plan.Plan(unrolled=99).active():
        analysis = jax.jit(jax.grad(loss)).lower(params, batch).cost_analysis()
    counted = (analysis[0] if isinstance(analysis, list) else analysis)["flops"] / (2 * T)
    assert flops.per_token(model.declarations(), T, seen=flops.WHOLE) == pytest.approx(counted, rel=0.05)


def test_the_matrices_of_gpt2_124m():
    """12 · L · D² in the blocks (Kaplan et al. 2020, table 1) and the tied head; vectors and positions are free."""
    declared = GPT2(vocab_size=50257, max_positions=1024, **PRESETS["124m"]).declarations()
    assert flops.matmul_parameters(declared) == 12 * 12 * 768**2 + 50257 * 768 == 123_532_032
    per_token = flops.per_token(declared, 1024)
    assert per_token == 6 * 123_532_032 + 6 * 12 * 768 * 1024
    assert flops.per_token(declared, 1024, seen=flops.WHOLE) - per_token == per_token - 6 * 123_532_032


def test_an_untied_table_is_only_looked_up():
    sizes = {"vocab_size": 100, "num_layers": 1, "embed_dim": 32, "num_heads": 4}
    tied, untied = (Llama(**sizes, tied=t).declarations() for t in (True, False))
    assert flops.matmul_parameters(tied) == flops.matmul_parameters(untied)
    total = sum(int(np.prod(d.shape)) for d in untied.values())
    assert total - flops.matmul_parameters(untied) == 100 * 32 + 3 * 32  # the table and three norms


def test_a_peak_is_known_for_named_chips_and_measured_on_cpu():
    class Chip:
        platform, device_kind = "tpu", "TPU v5p"

    assert chips.peak_flops(Chip) == 459e12
    Chip.device_kind = "TPU v99"
    assert chips.peak_flops(Chip) is None
    assert chips.peak_flops(jax.devices()[0], size=64) > 0


def test_longer_names_of_chips_are_not_taken_for_shorter_ones():
    for kind, peak in chips.PEAK_BF16.items():

        class Chip:
            platform, device_kind = "tpu", kind

        assert chips.peak_flops(Chip) == peak


def test_a_token_costs_the_experts_that_it_chooses_and_the_router():
    router, experts = SoftmaxRouter(8, 2, zeros), Experts(8, 48, zeros, zeros)
    declared = declarations(SparseMlp(router, experts), jnp.zeros((1, 1, 32)), jnp.ones((1, 1), bool))
    assert flops.matmul_parameters(declared) == 2 * 3 * 32 * 48 + 32 * 8
