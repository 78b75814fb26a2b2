"""Names and layouts: a round trip, strictness, and `transformers`' own logits and gradients through the map."""

import math

import numpy as np
import pytest
from small import MODELS_OF

from llm_jax.core.table import UserError, lookup
from llm_jax.interop.names import NAMES, from_hf, numbered, slots, to_hf
from llm_jax.models import MODELS


@pytest.fixture(params=sorted(NAMES))
def case(request):
    """(map, shapes, random leaves by path) of a small model."""
    model = lookup(MODELS, request.param, "model.name")(**MODELS_OF[request.param])
    shapes = {path: d.shape for path, d in model.declarations().items()}
    rng = np.random.default_rng(0)
    names = numbered(lookup(NAMES, request.param, "names"), model)
    return names, shapes, {p: rng.normal(size=s) for p, s in shapes.items()}


def test_a_model_comes_back_from_its_foreign_names(case):
    names, shapes, leaves = case
    for order in (1, -1):
        tensors = dict(list(to_hf(names, shapes, list(leaves.items())[::order]))[::order])
        for name, slot in slots(names, shapes).items():
            assert tensors[name].shape == slot.rule.shape(slot.shapes)
        back = dict(from_hf(names, shapes, tensors.items()))
        assert back.keys() == leaves.keys()
        for path, leaf in leaves.items():
            np.testing.assert_array_equal(back[path], leaf, err_msg=path)


def test_every_element_goes_abroad_once(case):
    """Beside zeros, which stand where a table abroad has more rows."""
    names, shapes, _ = case
    numbered = {p: 1 + i * 10_000 + np.arange(math.prod(s)).reshape(s) for i, (p, s) in enumerate(shapes.items())}
    abroad = np.concatenate([t.ravel() for _, t in to_hf(names, shapes, numbered.items())])
    assert sorted(abroad[abroad != 0]) == sorted(np.concatenate([a.ravel() for a in numbered.values()]))


def test_leaves_are_handed_on_as_soon_as_they_are_whole(case):
    names, shapes, leaves = case
    came = []

    def watched():
        for path, leaf in leaves.items():
            came.append(path)
            yield path, leaf

    for name, _ in to_hf(names, shapes, watched()):
        assert came[-1] in slots(names, shapes)[name].rule.ours  # it waited for nothing that it did not need


def test_nothing_is_lost_and_nothing_is_made_up(case):
    names, shapes, leaves = case
    tensors = list(to_hf(names, shapes, leaves.items()))
    name, tensor = tensors[3]
    for wrong, complaint in (
        (tensors[:-1], "missing"),
        ([*tensors, (name, tensor)], "comes twice"),
        ([*tensors, (name.replace("weight", "wieght"), tensor)], "did you mean|not known"),
        ([(name, tensor[:-1]), *tensors[:3], *tensors[4:]], "has shape"),
    ):
        with pytest.raises(UserError, match=complaint):
            list(from_hf(names, shapes, wrong))
    path, leaf = next(iter(leaves.items()))
    with pytest.raises(ValueError, match="did not come"):
        list(to_hf(names, shapes, list(leaves.items())[1:]))
    with pytest.raises(ValueError, match="has shape"):
        list(to_hf(names, shapes, [(path, leaf[:-1])]))
    with pytest.raises(ValueError, match="does not place"):
        slots(names, shapes | {"blocks/attention/sink": (3, 2)})


def test_old_files_of_gpt2_are_read():
    """No prefix, the masks as buffers, and the tied head repeated: as in the first published file."""
    model, names = lookup(MODELS, "gpt2", "model.name")(**MODELS_OF["gpt2"]), lookup(NAMES, "gpt2", "names")
    shapes = {path: d.shape for path, d in model.declarations().items()}
    leaves = {p: np.random.default_rng(1).normal(size=s) for p, s in shapes.items()}
    tensors = {n.removeprefix("transformer."): t for n, t in to_hf(names, shapes, leaves.items())}
    masks = {"h.0.attn.bias": np.tri(7), "h.0.attn.masked_bias": np.array(-1e4)}
    old = tensors | masks | {"lm_head.weight": tensors["wte.weight"]}
    back = dict(from_hf(names, shapes, old.items()))
    assert all(np.array_equal(back[path], leaf) for path, leaf in leaves.items())
    with pytest.raises(UserError, match="ties"):
        list(from_hf(names, shapes, (old | {"lm_head.weight": tensors["wte.weight"] + 1}).items()))


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_each_layer_has_its_number_whatever_stack_it_is_in(family):
    """Layers 0 to 2, of two stacks; a map that does not know their numbers says so rather than writing one twice."""
    model, names = lookup(MODELS, family, "model.name")(**MODELS_OF[family]), lookup(NAMES, family, "names")
    shapes = {path: d.shape for path, d in model.declarations().items()}
    table = slots(numbered(names, model), shapes)
    found = {n: table[f"model.layers.{n}.input_layernorm.weight"] for n in range(3)}
    main = "blocks" if family == "qwen3_moe" else "local_blocks"
    assert [slot.at for slot in found.values()] == [(0,), (0,), (1,)]
    assert [slot.rule.ours[0].split("/")[0] == main for slot in found.values()] == [True, False, True]
    with pytest.raises(ValueError, match="twice"):
        slots(names, shapes)


def test_layers_of_deepseek_that_predict_further_are_left_out():
    model = lookup(MODELS, "deepseek_v3", "model.name")(**MODELS_OF["deepseek_v3"])
    names = numbered(lookup(NAMES, "deepseek_v3", "names"), model)
    shapes = {path: d.shape for path, d in model.declarations().items()}
    tensors = dict(to_hf(names, shapes, ((p, np.ones(s)) for p, s in shapes.items())))
    more = {"model.layers.61.eh_proj.weight": np.ones((2, 2))}
    assert dict(from_hf(names, shapes, (more | tensors).items())).keys() == shapes.keys()
    with pytest.raises(UserError, match="not known"):
        list(from_hf(names, shapes, ({"model.layers.60.eh_proj.weight": np.ones(2)} | tensors).items()))
