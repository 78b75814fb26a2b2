"""Options, masks and state shardings of the optimizer room."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.models import MODELS
from llm_jax.optim import OPTIMIZERS, SCHEDULES, masks
from llm_jax.optim.muon import orthogonalize
from llm_jax.optim.options import ALLOWED, accepted
from llm_jax.optim.transform import schedule, state_shardings, transformation

PARAMS = {
    "token_embed": jax.ShapeDtypeStruct((64, 8), jnp.float32),
    "blocks": {
        "q": {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in {"kernel": (2, 8, 2, 4), "bias": (2, 2, 4)}.items()},
        "norm": {"scale": jax.ShapeDtypeStruct((2, 8), jnp.float32)},
    },
    "lm_head": {"kernel": jax.ShapeDtypeStruct((8, 64), jnp.float32)},
}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("adamv", {}, "optimizer.name='adamv'.*adafactor.*did you mean 'adam"),
        ("adamw", {"beta1": 0.9}, "optimizer.beta1 is not an option of 'adamw'.*b1, b2, eps.*did you mean 'b1'"),
        ("adamw", {"b1": 1.0}, r"optimizer.b1=1.0 must be a number in \[0, 1\)"),
        ("adamw", {"layer_decay": 1.5}, r"optimizer.layer_decay=1.5 must be a number in \(0, 1\] or None"),
        ("adamw", {"eps": float("nan")}, "optimizer.eps=nan must be"),
        ("adamw", {"b2": True}, "optimizer.b2=True must be a number"),
        ("adamw", {"weight_decay": -0.1}, "optimizer.weight_decay=-0.1 must be"),
        ("adam", {"weight_decay": 0.1}, "optimizer.weight_decay=0.1.*adamw"),
        ("adamw", {"clip_norm": 0}, r"optimizer.clip_norm=0 must be a number in \(0, inf\) or None"),
        ("adamw", {"clip_norm": float("inf")}, "optimizer.clip_norm=inf"),
        ("adamw", {"freeze": "embed"}, "optimizer.freeze='embed' must be a list of regular expressions"),
        ("adamw", {"freeze": ["("]}, "optimizer.freeze.*must be a list of regular expressions"),
        ("sgd", {"nesterov": 1}, "optimizer.nesterov=1 must be True or False"),
        ("muon", {"ns_steps": 2.5}, "optimizer.ns_steps=2.5 must be an integer"),
    ],
)
def test_a_wrong_option_is_refused_by_name_value_and_way_out(name, options, said):
    with pytest.raises(UserError, match=said):
        transformation(name, 0.1, **options)


@pytest.mark.parametrize(
    ("name", "rate", "total", "options", "said"),
    [
        ("cosin", 0.1, 10, {}, "optimizer.schedule.name='cosin'.*did you mean 'cosine'"),
        ("cosine", -0.1, 10, {}, r"optimizer.learning_rate=-0.1 must be a number in \[0, inf\)"),
        ("cosine", float("nan"), 10, {}, "optimizer.learning_rate=nan"),
        ("cosine", 0.1, None, {}, "needs a length in steps"),
        (
            "cosine",
            0.1,
            10,
            {"warmup_steps": 11},
            "optimizer.schedule.warmup_steps=11 is longer than the training of 10 steps",
        ),
        (
            "wsd",
            0.1,
            10,
            {"warmup_steps": 6, "decay_steps": 5},
            "warmup_steps=6 . optimizer.schedule.decay_steps=5 is longer",
        ),
        ("constant", 0.1, 10, {"end_fraction": 0.5}, "optimizer.schedule.end_fraction is not an option of 'constant'"),
        ("linear", 0.1, 10, {"end_fraction": 1.5}, "optimizer.schedule.end_fraction=1.5 must be"),
    ],
)
def test_a_wrong_schedule_is_refused(name, rate, total, options, said):
    with pytest.raises(UserError, match=said):
        schedule(name, rate, total, **options)


@pytest.mark.parametrize("key", ["freeze", "decay_exclude"])
def test_a_pattern_that_matches_nothing_is_refused_when_the_parameters_are_known(key):
    with pytest.raises(
        UserError, match=f"optimizer.{key}: 'blocks/k/kernel' matches none .*did you mean 'blocks/q/kernel'"
    ):
        jax.eval_shape(transformation("adamw", 0.1, weight_decay=0.1, **{key: ["blocks/k/kernel"]}).init, PARAMS)


@pytest.mark.parametrize("table", [OPTIMIZERS, SCHEDULES], ids=["optimizers", "schedules"])
def test_every_option_says_what_it_allows_and_its_default_obeys(table):
    for name in table:
        for key, default in accepted(name, table).items():
            assert key in ALLOWED, (name, key)
            if table is OPTIMIZERS:
                transformation(name, 0.1, **{key: default})
    given = {"name", "rate", "stacks", "options"}  # all but options by name and stacks by the model
    assert {p for p in inspect.signature(transformation).parameters} - set(ALLOWED) == given


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("blocks/attention/q/kernel", (6, 8, 2, 4), (1, 1, 2)),
        ("blocks/attention/out/kernel", (6, 2, 4, 8), (1, 2, 1)),
        ("dense_blocks/mlp/up/kernel", (6, 8, 32), (1, 1, 1)),
        ("blocks/moe/experts/up", (6, 4, 8, 32), (2, 1, 1)),
        ("blocks/attention/q/bias", (6, 2, 4), (1, 2, 0)),
        ("blocks/norm/scale", (6, 8), (1, 1, 0)),
        ("head/kernel", (8, 64), (0, 1, 1)),
        ("temperature", (), (0, 0, 0)),
        ("blocks/mixer/conv_x", (6, 4, 2, 8), (1, 3, 0)),
        ("blocks/mixer/conv_bc_bias", (6, 2, 1, 8), (1, 3, 0)),
    ],
)
def test_a_leaf_is_read_as_matrices_of_one_layer(path, shape, expected):
    assert masks.layout(path, shape) == expected


def test_the_default_decay_spares_vectors_and_a_given_list_is_taken_as_it_is():
    default = masks.decay(PARAMS)
    assert default["blocks"] == {"q": {"kernel": True, "bias": False}, "norm": {"scale": False}}
    given = masks.decay(PARAMS, ["embed"])
    assert not given["token_embed"] and given["blocks"]["norm"]["scale"]


def test_filters_of_convolutions_decay_and_go_by_adam_under_muon():
    """As in Mamba's own code, which spares A_log, dt_bias, D, norms and biases."""
    model = lookup(MODELS, "mamba2", "model.name")(vocab_size=16, num_layers=2, embed_dim=8, head_dim=4, state_dim=4)
    params = jax.eval_shape(model.init, jax.random.key(0))
    spared = {path.split("/")[-1] for path, decays in tree.flatten(masks.decay(params)).items() if not decays}
    assert spared == {"A_log", "D", "dt_bias", "conv_x_bias", "conv_bc_bias", "norm_scale", "scale"}
    state = jax.eval_shape(transformation("muon", 0.1).init, params)["direction"].inner_states
    turned = {x.shape for x in jax.tree.leaves(state["muon"].inner_state)}
    mixer = params["blocks"]["mixer"]
    assert turned == {mixer[name].shape for name in ("gate", "x", "bc", "dt", "out")}
    assert mixer["conv_x"].shape not in turned and mixer["conv_bc"].shape not in turned


def test_muon_keeps_adams_second_moment_for_embeddings_heads_and_vectors_alone():
    state = jax.eval_shape(transformation("muon", 0.1).init, PARAMS)["direction"].inner_states
    second_moments = jax.tree.leaves(state["adam"].inner_state.nu)
    assert [x.shape for x in second_moments] == [(2, 8), (2, 2, 4), (8, 64), (64, 8)]
    assert [x.shape for x in jax.tree.leaves(state["muon"].inner_state)] == [(2, 8, 2, 4)]


def test_orthogonalized_matrices_have_singular_values_near_one():
    x = np.float32(np.random.default_rng(0).normal(size=(3, 10, 16)))
    for a in (x, x[:, :4], np.swapaxes(x, 1, 2)):
        values = np.linalg.svd(orthogonalize(a), compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.25


def test_an_averaged_axis_is_not_split_and_counts_are_replicated():
    mesh = jax.make_mesh((1, 1), ("fsdp", "tensor"), devices=jax.devices()[:1])

    def at(*spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    params = {"blocks": {"up": jax.ShapeDtypeStruct((2, 8, 32), jnp.float32)}}
    shardings = {"blocks": {"up": at(None, "fsdp", "tensor")}}
    got = state_shardings(transformation("adafactor", 0.1, min_dim_to_factor=2), params, shardings, at())["direction"]
    assert got.row["blocks"]["up"].spec == PartitionSpec(None, "fsdp", None)
    assert got.col["blocks"]["up"].spec == PartitionSpec(None, None, "tensor")
    assert got.count.spec == PartitionSpec()
