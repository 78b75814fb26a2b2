"""Sizes that make no model are refused when it is made, in every family, by name and with the way out."""

import dataclasses
import re
import typing

import pytest

from llm_jax.core.table import UserError, lookup
from llm_jax.models import MODELS

MAY_BE_ZERO = ("dense_layers", "shared", "seed", "order")


def sizes(family, where=""):
    """The dotted names of all whole numbers among the fields of a family, nested sections included."""
    for name, hint in typing.get_type_hints(family).items():
        if dataclasses.is_dataclass(hint):
            yield from sizes(hint, f"{where}{name}.")
        elif int in (hint, *typing.get_args(hint)) and tuple not in (hint, typing.get_origin(hint)):
            yield where + name


SIZES = [(family, name) for family in sorted(MODELS) for name in sizes(lookup(MODELS, family, "model.name"))]


def changed(model, name, value):
    """The model with a field, perhaps of a section, of another value."""
    first, _, rest = name.partition(".")
    return dataclasses.replace(model, **{first: changed(getattr(model, first), rest, value) if rest else value})


def refused(model, name, value, why=""):
    with pytest.raises(UserError, match=re.escape(f"model.{name}={value} ") + why):
        changed(model, name, value)


@pytest.mark.parametrize("family, name", SIZES)
def test_a_size_below_one_is_refused(make, name):
    refused(make(), name, -1, "must be (above zero|zero or above|2 or more)")
    if not name.endswith(MAY_BE_ZERO):
        refused(make(), name, 0, "must be (above zero|2 or more)")


@pytest.mark.parametrize("family, name", [pair for pair in SIZES if pair[1] == "num_kv_heads"])
def test_heads_of_keys_that_do_not_divide_those_of_queries_are_refused(make, name):
    refused(make(), name, 3, r"does not divide model.num_heads=4; try one of \[1, 2, 4\]")


@pytest.mark.parametrize("family, name", [pair for pair in SIZES if pair[1] == "num_kv_heads"])
def test_more_heads_of_keys_than_of_queries_are_refused(make, name):
    refused(make(), name, 8, r"does not divide model.num_heads=4; try one of \[1, 2, 4\]")


DERIVED = ("gpt2", "gpt_neox", "llama", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen3")


@pytest.mark.parametrize("family", DERIVED)
def test_heads_that_do_not_divide_the_width_are_refused_where_their_size_derives_from_it(make, family):
    own = {name: None for name in ("head_dim", "num_kv_heads") if hasattr(make(), name)}
    with pytest.raises(UserError, match=r"model.num_heads=3 does not divide model.embed_dim=16; try one of \[1, 2, 4"):
        make(**own, num_heads=3)


UNTURNED = ("gpt2", "mamba2", "t5")
TURNED = [pair for pair in SIZES if pair[1] in ("head_dim", "latent.rope_dim") and pair[0] not in UNTURNED]


@pytest.mark.parametrize("family, name", TURNED)
def test_an_odd_number_of_turned_dimensions_is_refused(make, name):
    refused(make(), name, 5, "must be even: rotary positions turn pairs")


@pytest.mark.parametrize("family, name", [pair for pair in SIZES if pair[1] == "moe.top_k"])
def test_more_experts_a_token_than_there_are_are_refused(make, name):
    refused(make(), name, 5, "is above model.moe.num_experts=4; choose at most 4")


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_dense_layer_that_the_model_does_not_have_is_refused(layer):
    with pytest.raises(UserError, match=rf"model.dense_layers=\[{layer}\] names layer {layer}, and model.num_layers=4"):
        lookup(MODELS, "qwen3_moe", "model.name")(vocab_size=8, num_layers=4, dense_layers=(layer,))
