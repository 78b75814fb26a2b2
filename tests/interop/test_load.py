"""Foreign tensors into ours: everything that differs is told at once, before anything is read; then leaf by leaf."""

import threading
import time
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from small import MODELS_OF

from llm_jax.core.table import UserError, lookup
from llm_jax.interop import load
from llm_jax.interop.names import NAMES, numbered, slots, to_hf
from llm_jax.interop.safetensors import Info
from llm_jax.models import MODELS


class Memory:
    """Tensors in memory that count what is held of them."""

    def __init__(self, tensors):
        self._tensors = dict(tensors)
        self.infos = {name: Info(t.shape, t.dtype) for name, t in self._tensors.items()}
        self.reads = []

    def read(self, name):
        self.reads.append(name)
        return self._tensors[name].copy()


def made(family, dtype=np.float32, **fields):
    model = lookup(MODELS, family, "model.name")(**MODELS_OF[family] | fields)
    shapes = {path: d.shape for path, d in model.declarations().items()}
    rng = np.random.default_rng(0)
    leaves = {p: rng.normal(size=s).astype(dtype).astype(np.float32) for p, s in shapes.items()}
    names = numbered(lookup(NAMES, family, "names"), model)
    tensors = {n: t.astype(dtype) for n, t in to_hf(names, shapes, leaves.items())}
    return names, shapes, leaves, tensors


@pytest.mark.parametrize("family", sorted(NAMES))
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_leaf_comes_back_in_float32_whatever_the_order_and_dtype_of_the_file(family, dtype):
    names, shapes, leaves, tensors = made(family, dtype)
    found = dict(load.leaves(Memory(reversed(tensors.items())), names, shapes))
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        assert found[path].dtype == np.float32 and found[path].ctypes.data % load.ALIGNMENT == 0
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.parametrize("family", sorted(NAMES))
def test_a_leaf_is_handed_on_before_the_next_one_is_read(family):
    names, shapes, _, tensors = made(family)
    source = Memory(tensors)
    parts = max(len(rule.ours) for rule in names.rules)
    stacked = Counter(slot.rule.ours for slot in slots(names, shapes).values())
    seen = held = 0
    for _ in load.leaves(source, names, shapes):
        held = max(held, len(source.reads) - seen)
        seen = len(source.reads)
    assert held <= max(stacked.values()) and parts <= 4
    assert sorted(source.reads) == sorted(tensors)


def test_everything_that_differs_is_told_and_nothing_is_read():
    names, shapes, _, tensors = made("llama")
    del tensors["model.norm.weight"]
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"][:-1]
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].astype(np.int8)
    tensors["model.layers.7.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
    source = Memory(tensors)
    with pytest.raises(UserError) as error:
        load.leaves(source, names, shapes)
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 4 and not source.reads
    for word in ("norm.weight is missing", "float32[17, 12]; this model needs float[18, 12]", "int8", "layers.7"):
        assert any(word in line for line in lines), word


def test_a_partial_load_takes_whole_leaves_only():
    names, shapes, leaves, tensors = made("llama")
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["model.norm.weight"]
    tensors["strange"] = np.zeros(3, np.float32)
    found = dict(load.leaves(Memory(tensors), names, shapes, partial=True))
    assert leaves.keys() - found.keys() == {"blocks/mlp/up", "final_norm/scale"}


def test_a_tied_copy_must_equal_its_original():
    names, shapes, _, tensors = made("llama", tied=True)
    table = tensors["model.embed_tokens.weight"]
    assert len(dict(load.leaves(Memory(tensors | {"lm_head.weight": table}), names, shapes))) == len(shapes)
    with pytest.raises(UserError, match=r"lm_head.weight differ"):
        load.leaves(Memory(tensors | {"lm_head.weight": table + 1}), names, shapes)


def test_old_files_without_a_prefix_and_with_masks_are_read():
    names, shapes, leaves, tensors = made("gpt2")
    old = {n.removeprefix("transformer."): t for n, t in tensors.items()}
    old |= {"h.0.attn.bias": np.ones((1, 1, 7, 7), np.float32), "lm_head.weight": old["wte.weight"]}
    assert dict(load.leaves(Memory(old), names, shapes)).keys() == leaves.keys()
    with pytest.raises(UserError, match="are the same tensor"):
        load.leaves(Memory(old | {"transformer.wpe.weight": old["wpe.weight"]}), names, shapes)


@pytest.mark.parametrize("layers", [3, 16, 40])
def test_layers_are_read_at_once_only_where_they_are_a_small_part_of_a_leaf(monkeypatch, layers):
    monkeypatch.setattr(load.os, "cpu_count", lambda: 4)
    names, shapes, leaves, tensors = made("llama", num_layers=layers)
    lock, now, most = threading.Lock(), [0], [0]

    class Slow(Memory):
        def read(self, name):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.002)
            with lock:
                now[0] -= 1
            return super().read(name)

    found = dict(load.leaves(Slow(tensors), names, shapes))
    assert most[0] == {3: 1, 16: 2, 40: 4}[layers]
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(found[path], leaf)
