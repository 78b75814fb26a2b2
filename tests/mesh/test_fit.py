"""Plans that do not fit a model: what is refused, why, and what is proposed instead."""

import jax.numpy as jnp
import pytest

from llm_jax.core.table import UserError
from llm_jax.core.types import Declaration
from llm_jax.mesh import fit, plan


def declared(width=16, heads=4, hidden=24, kv=2, experts=None, vocab=257):
    """The parameters of a small decoder, by their names and sizes."""
    shapes = {
        "embed/tokens": ((vocab, width), ("vocab", "embed")),
        "query": ((2, width, heads, 4), ("layer", "embed", "heads", "head")),
        "key": ((2, width, kv, 4), ("layer", "embed", "kv", "head")),
        "key_norm": ((2, 3), ("layer", "embed")),
        "up": ((2, width, hidden), ("layer", "embed", "mlp")),
    }
    if experts:
        shapes["gate"] = ((2, experts, width, hidden), ("layer", "expert", "embed", "mlp"))
    return {p: Declaration(shape, axes, lambda key, shape: jnp.zeros(shape)) for p, (shape, axes) in shapes.items()}


def refused(sizes, *, rows=(), zero=3, **model):
    with pytest.raises(UserError) as error:
        fit.check(plan.build(sizes, zero=zero), declared(**model), rows)
    return str(error.value)


@pytest.mark.parametrize(
    ("sizes", "model", "why", "proposed"),
    [
        ({"tensor": 8}, {}, "mesh.tensor=8 does not divide the 4 heads of query", {"fsdp": 2, "tensor": 4}),
        ({"tensor": 8}, {"heads": 8, "hidden": 20}, "the 20 hidden units of up", {"fsdp": 2, "tensor": 4}),
        ({"fsdp": 8}, {"width": 12}, "mesh.fsdp=8 does not divide the 12 width", {"data": 2, "fsdp": 4}),
        ({"expert": 8}, {"experts": 4}, "expert=8 does not divide the 4 experts", {"fsdp": 2, "expert": 4}),
        ({"data": 2, "expert": 4}, {}, "expert=4 splits nothing of this model", {"data": 2, "fsdp": 4}),
        ({"slice": 2, "tensor": 4}, {"heads": 6}, "the 6 heads", {"slice": 2, "fsdp": 2, "tensor": 2}),
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_that_leaves_whole_what_it_means_to_split_is_refused_with_the_nearest(sizes, model, why, proposed):
    text = refused(sizes, **model)
    assert why in text
    flags = {f.removeprefix("--config.mesh."): n for f, _, n in (w.partition("=") for w in text.split() if "--" in w)}
    assert {a: int(n) for a, n in flags.items() if n != "1"} == proposed
    fit.check(plan.build(proposed), declared(**model))


def test_what_is_proposed_takes_the_rows_of_a_batch():
    assert "--config.mesh.data=1 --config.mesh.fsdp=2" in refused({"tensor": 8}, rows=[8])
    text = refused({"tensor": 8}, rows=[3])
    assert "of plans of 8 devices no other fits" in text


def test_under_zero_1_the_state_must_split():
    assert "mesh.fsdp=8 does not divide the 12 width" in refused({"fsdp": 8}, width=12, zero=1)


@pytest.mark.parametrize("sizes", [{"tensor": 4, "data": 2}, {"fsdp": 8}, {"fsdp": 4, "tensor": 2}], ids=str)
def test_shared_key_heads_vectors_and_an_odd_vocabulary_may_stay_whole(sizes):
    fit.check(plan.build(sizes), declared(kv=1))


def test_one_device_fits_every_model():
    fit.check(plan.Plan(), declared(width=7, heads=5))


def test_the_nearest_of_thousands_of_devices_is_found_among_all_factors():
    sizes = {"data": 4, "fsdp": 128, "tensor": 16}
    found = fit.nearest(sizes, plan.RULES, declared(width=2880, heads=40, hidden=2880, experts=32))
    assert found == {"data": 16, "fsdp": 64, "tensor": 8, "expert": 1}
