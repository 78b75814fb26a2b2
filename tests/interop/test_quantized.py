"""Checkpoints in few bits: they mean what they mean in transformers, and whatever does not fit is told."""

import json
import shutil
import tracemalloc
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core.table import UserError
from llm_jax.interop import safetensors
from llm_jax.interop.quantized import unpack
from llm_jax.interop.quantized.unpack import unpacked
from llm_jax.interop.safetensors import Directory, Info

GOLDEN = Path(__file__).parents[1] / "golden" / "quantized"
FP8, MXFP4 = {"quant_method": "fp8", "weight_block_size": [3, 2]}, {"quant_method": "mxfp4"}
E4M3, E5M2, E8M0 = (getattr(ml_dtypes, f"float8_{name}") for name in ("e4m3fn", "e5m2", "e8m0fnu"))


class Memory:
    """Tensors in memory that note what is read."""

    def __init__(self, tensors):
        self.tensors, self.reads = tensors, []
        self.infos = {name: Info(t.shape, t.dtype) for name, t in tensors.items()}

    def read(self, name):
        self.reads.append(name)
        return self.tensors[name].copy()


def opened(said, tensors):
    return unpacked({"quantization_config": said}, Memory(tensors))[1]


def codes(shape, dtype=E4M3):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("case", sorted(unpack.SCHEMES))
def test_an_imported_checkpoint_in_few_bits_computes_what_transformers_does(tmp_path, case):
    assert main(["import", str(GOLDEN / case), f"--workdir={tmp_path / 'run'}"]) == 0
    run, golden = open_run(tmp_path / "run"), np.load(GOLDEN / case / "logits.npz")
    found = jax.jit(lambda p, t: run.model.apply(p, {"tokens": t}).logits)(run.params(), golden["tokens"])
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-4 * np.abs(golden["logits"]).max())


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("shape", [(6, 4), (7, 5), (1, 1), (0, 4)])
def test_every_weight_is_its_code_times_the_scale_of_its_block(shape, dtype):
    grid = (-(-shape[0] // 3), -(-shape[1] // 2))
    scales = np.random.default_rng(1).random(grid, np.float32)
    tensors = {"a.weight": codes(shape, dtype), "a.weight_scale_inv": scales}
    found = opened(FP8, tensors).read("a.weight")
    assert found.dtype == np.float32 and found.shape == shape
    for i, j in np.ndindex(shape):
        assert found[i, j] == np.float32(tensors["a.weight"][i, j]) * scales[i // 3, j // 2]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, E8M0, np.uint8])
def test_scales_are_numbers_of_any_size_or_exponents(dtype):
    exponents = np.array([[1, 127], [130, 254]], np.uint8)
    scales = exponents if dtype == np.uint8 else exponents.view(E8M0).astype(np.float32).clip(0.01, 8.0).astype(dtype)
    wanted = exponents.view(E8M0).astype(np.float32) if dtype == np.uint8 else scales.astype(np.float32)
    tensors = {"a.weight": np.ones((6, 4), E4M3), "a.weight_scale_inv": scales}
    found = opened(FP8 | {"scale_fmt": "ue8m0"}, tensors).read("a.weight")
    np.testing.assert_array_equal(found[::3, ::2], wanted)


def test_the_lower_half_of_a_byte_comes_first_and_groups_of_32_share_an_exponent():
    blocks = np.full((2, 3, 2, 16), 0x2F, np.uint8)  # 1 above, -6 below
    scales = np.full((2, 3, 2), 127, np.uint8)
    scales[1, 2, 1] = 129
    found = opened(MXFP4, {"x_blocks": blocks, "x_scales": scales}).read("x")
    assert found.shape == (2, 64, 3) and found.dtype == np.float32
    for e, i, o in np.ndindex(found.shape):
        assert found[e, i, o] == [-6, 1][i % 2] * (4 if (e, o, i // 32) == (1, 2, 1) else 1)


def test_tensors_that_are_not_in_few_bits_are_what_they_were_and_nothing_is_read_early():
    tensors = {"a.weight": codes((6, 4)), "a.weight_scale_inv": np.ones((2, 2), np.float32), "b": np.arange(3)}
    stored = Memory(tensors)
    config, found = unpacked({"quantization_config": FP8, "model_type": "llama"}, stored)
    assert config == {"model_type": "llama"} and not stored.reads
    assert found.infos == {"a.weight": Info((6, 4), np.dtype(np.float32)), "b": Info((3,), np.dtype(np.int64))}
    np.testing.assert_array_equal(found.read("b"), tensors["b"])
    assert stored.reads == ["b"]
    found.read("a.weight")
    assert sorted(stored.reads[1:]) == ["a.weight", "a.weight_scale_inv"]


def test_blocks_are_128_a_side_unless_it_is_said():
    tensors = {"a.weight": codes((130, 128)), "a.weight_scale_inv": np.ones((2, 1), np.float32)}
    assert opened({"quant_method": "fp8"}, tensors).read("a.weight").shape == (130, 128)


@pytest.mark.parametrize(
    ("said", "tensors"),
    [
        (FP8 | {"weight_block_size": [64, 64]}, {"w": codes((2048, 256)), "w_scale_inv": np.ones((32, 4), np.float32)}),
        (MXFP4, {"w_blocks": np.zeros((32, 128, 4, 16), np.uint8), "w_scales": np.ones((32, 128, 4), np.uint8)}),
    ],
)
def test_beyond_a_tensor_and_its_codes_little_is_held(said, tensors):
    source = opened(said, tensors)
    source.read("w")
    tracemalloc.start()
    found = source.read("w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * found.nbytes + sum(t.nbytes for t in tensors.values())


ONES = np.ones((2, 2), np.float32)
BLOCKS, SCALES = np.zeros((2, 3, 2, 16), np.uint8), np.ones((2, 3, 2), np.uint8)


@pytest.mark.parametrize(
    ("said", "tensors", "words"),
    [
        (FP8, {"a.weight": codes((6, 4))}, ["a.weight is float8_e4m3fn[6, 4] and has no scales", "a.weight_scale_inv"]),
        (FP8, {"a_scale_inv": ONES}, ["a_scale_inv is left over"]),
        (FP8, {"a": codes((6, 4)).astype(np.float32), "a_scale_inv": ONES}, ["a_scale_inv is left over"]),
        (
            FP8,
            {"a": codes((7, 4)), "a_scale_inv": ONES},
            ["a_scale_inv is float32[2, 2]", "[7, 4] needs scales [3, 2]"],
        ),
        (FP8, {"a": codes((6, 4)), "a_scale_inv": ONES.astype(int)}, ["a_scale_inv is int64", "float32"]),
        (FP8, {"a": codes((6, 4)), "a_scale_inv": SCALES[0, :2]}, ["a_scale_inv is uint8"]),
        (FP8, {"a": codes((1, 6, 4)), "a_scale_inv": ONES}, ["a is float8_e4m3fn[1, 6, 4]", "a matrix"]),
        (MXFP4, {"x_blocks": BLOCKS}, ["x_blocks is uint8[2, 3, 2, 16] and has no scales", "x_scales is missing"]),
        (MXFP4, {"x_scales": SCALES}, ["x_scales is left over"]),
        (MXFP4, {"x_blocks": BLOCKS, "x_scales": SCALES[:1]}, ["x_scales is uint8[1, 3, 2]", "needs scales [2, 3, 2]"]),
        (MXFP4, {"x_blocks": BLOCKS, "x_scales": SCALES.astype(np.int8)}, ["x_scales is int8"]),
        (MXFP4, {"x_blocks": BLOCKS[..., :8], "x_scales": SCALES}, ["x_blocks is uint8[2, 3, 2, 8]", "groups, 16]"]),
        (MXFP4, {"x_blocks": BLOCKS.astype(np.int8), "x_scales": SCALES}, ["x_blocks is int8"]),
        (MXFP4, {"x_blocks": BLOCKS, "x_scales": SCALES, "x": ONES}, ["x and x_blocks are the same tensor"]),
        ({"quant_method": "awq"}, {}, ["quant_method='awq'", "fp8, mxfp4"]),
        ({}, {}, ["quant_method='None'", "fp8, mxfp4"]),
        (["fp8"], {}, ["quantization_config=['fp8'] is not an object"]),
        (FP8 | {"weight_block_size": None}, {}, ["weight_block_size=None", "[128, 128]"]),
        (FP8 | {"weight_block_size": [0, 2]}, {}, ["weight_block_size=[0, 2]"]),
        (FP8 | {"activation_scheme": "static"}, {}, ["activation_scheme='static'", "dynamic"]),
        (FP8 | {"rotation": 3}, {}, ["rotation=3 is not understood"]),
        (MXFP4 | {"weight_block_size": [1, 32]}, {}, ["weight_block_size=[1, 32] is not understood"]),
    ],
)
def test_what_does_not_fit_is_told(said, tensors, words):
    with pytest.raises(UserError) as error:
        opened(said, tensors)
    assert all(word in str(error.value) for word in words), error.value


def test_all_that_does_not_fit_is_told_at_once():
    with pytest.raises(UserError) as error:
        opened(FP8, {f"a{i}": codes((6, 4)) for i in range(50)} | {"b_scale_inv": ONES})
    assert len(str(error.value).splitlines()) == 1 + unpack.SHOWN + 1 and "and 11 more" in str(error.value)


@pytest.mark.parametrize("case", sorted(unpack.SCHEMES))
def test_a_scale_that_is_no_number_ends_the_import_and_nothing_is_written(tmp_path, capsys, case):
    shutil.copytree(GOLDEN / case, tmp_path / "source")
    stored = Directory(tmp_path / "source")
    tensors = {name: stored.read(name) for name in stored.infos}
    name = next(name for name in reversed(tensors) if name.endswith(("_scale_inv", "_scales")))
    tensors[name].reshape(-1)[-1] = 255 if case == "mxfp4" else np.nan
    safetensors.write(tmp_path / "source", stored.infos, tensors.items())
    before = sorted(tmp_path.rglob("*"))
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 2
    assert name in capsys.readouterr().err and sorted(tmp_path.rglob("*")) == before


def test_fp8_without_a_word_of_it_in_the_config_is_refused(tmp_path, capsys):
    shutil.copytree(GOLDEN / "fp8", tmp_path / "source")
    config = json.loads((GOLDEN / "fp8" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps(config | {"quantization_config": None}))
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 2
    assert "_scale_inv" in capsys.readouterr().err
