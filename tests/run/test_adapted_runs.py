"""Runs with an adapter, from another run: what is learnt, what stays, what is saved, resumed, told and exported."""

import shutil

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.interop import load
from llm_jax.interop.names.llama import NAMES
from llm_jax.interop.source import open_source
from llm_jax.store.checkpoint import Checkpoints

SMALL = ["--config.model.num_layers=1", "--config.model.embed_dim=16", "--config.model.mlp_dim=16"]
SHORT = [*SMALL, "--config.eval.every=0", "--config.eval.batches=1", "--config.checkpoint.every=2"]
DORA = ["--config.adapt.name=dora", "--config.adapt.rank=2", "--config.adapt.targets=['attention/(query|out)','down']"]


def trained(recipe, workdir, *more):
    return main(["train", f"--config={recipe}", f"--workdir={workdir}", *SHORT, *more])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, recipe_in):
    """(folder, recipe) with a run `base` of 4 steps, and `dora` of 4 from it, with exports, averages and samples."""
    folder = tmp_path_factory.mktemp("adapted")
    recipe = recipe_in(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
        assert trained(recipe, folder / "base", "--config.train.duration=4 steps") == 0
        more = ["--config.train.duration=4 steps", "--config.train.ema=0.5", "--config.export.every=4"]
        options = [*DORA, *more, f"--config.init_from={folder / 'base'}", "--config.sample.prompts=['the people']"]
        assert trained(recipe, folder / "dora", *options) == 0
        yield folder, recipe, options


def stored(workdir, step=None):
    return tree.flatten(Checkpoints(workdir / "checkpoints").restore(step=step, part="params")[0])


def test_what_lies_below_an_adapter_keeps_every_bit_and_the_rest_learns(runs):
    folder, *_ = runs
    base, first, last = stored(folder / "base"), stored(folder / "dora", 2), stored(folder / "dora", 4)
    for path, leaf in base.items():
        np.testing.assert_array_equal(last[f"base/{path}"], leaf, err_msg=path)
        average = Checkpoints(folder / "dora/checkpoints").restore(part=f"extra/ema/base/{path}")[0]
        np.testing.assert_array_equal(average, leaf, err_msg=path)
    added = {path for path in last if path.startswith("adapter/")}
    assert {path.split("/")[-2] for path in added} == {"query", "out", "down"}
    assert all(not np.array_equal(first[path], last[path]) for path in added)


def test_an_opened_run_is_the_plain_model_with_merged_parameters(runs):
    folder, *_ = runs
    run = open_run(folder / "dora")
    assert type(run.model).__name__ == "Llama" and "Adapted" in type(run.trained).__name__
    apart = Checkpoints(folder / "dora/checkpoints").restore(part="extra/ema")[0]
    merged, plain = tree.flatten(run.params()), tree.flatten(run.trained.merge(apart))
    for path, leaf in run.leaves(plain):
        np.testing.assert_allclose(leaf, plain[path], rtol=1e-5, atol=1e-6, err_msg=path)
        np.testing.assert_allclose(merged[path], plain[path], rtol=1e-5, atol=1e-6, err_msg=path)
    source = open_source(str(folder / "dora/exports/4"))
    names = {p: d.shape for p, d in run.model.declarations().items()}
    for path, leaf in load.leaves(source.tensors, NAMES, names):
        np.testing.assert_allclose(leaf, plain[path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert (folder / "dora/samples/4.txt").read_text().startswith("the people")


def test_a_run_with_an_adapter_goes_on_with_the_same_bits(runs, monkeypatch):
    folder, recipe, options = runs
    monkeypatch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
    shutil.copytree(folder / "dora", folder / "stopped")
    shutil.rmtree(folder / "stopped/checkpoints/4")
    assert trained(recipe, folder / "stopped", *options) == 0
    whole, again = (Checkpoints(folder / name / "checkpoints").restore()[0] for name in ("dora", "stopped"))
    for path, leaf in tree.flatten(whole).items():
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(tree.flatten(again)[path], leaf, err_msg=path)


@pytest.mark.exhaustive
def test_another_run_begins_from_the_merged_kernels_with_a_larger_vocabulary_and_frozen_paths(runs, monkeypatch):
    """New rows are the mean of the old ones; what is frozen stays as it came."""
    folder, recipe, _ = runs
    monkeypatch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
    more = [f"--config.init_from={folder / 'dora'}", "--config.train.duration=1 steps", "--config.model.vocab_size=264"]
    assert trained(recipe, folder / "next", *more, "--config.optimizer.freeze=['embed','attention','down']") == 0
    merged, new, same = tree.flatten(open_run(folder / "dora").params()), stored(folder / "next"), set()
    for path, leaf in new.items():
        rows = len(merged[path])
        if np.allclose(leaf[:rows], merged[path], rtol=1e-6, atol=1e-7):
            same.add(path)
    assert same == {path for path in new if any(word in path for word in ("embed", "attention", "down"))}
    assert new["embed/tokens"].shape[0] == new["head/tokens"].shape[0] == 264
    table = np.asarray(merged["embed/tokens"])
    np.testing.assert_allclose(new["embed/tokens"][len(table) :], np.tile(table.mean(0), (7, 1)), atol=1e-6)


@pytest.mark.exhaustive
def test_what_is_packed_is_the_run_that_was_begun_from(runs, monkeypatch):
    """To the nearest codes; opened, it is the plain model again."""
    folder, recipe, _ = runs
    monkeypatch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
    more = [f"--config.init_from={folder / 'base'}", "--config.train.duration=1 steps"]
    assert trained(recipe, folder / "packed", *more, "--config.adapt.name=lora", "--config.adapt.pack=int8") == 0
    packed, run, base = stored(folder / "packed"), open_run(folder / "packed"), stored(folder / "base")
    unpacked = dict(run.leaves(base))
    for path, leaf in base.items():
        if f"base/{path}" in packed:
            np.testing.assert_array_equal(packed[f"base/{path}"], leaf, err_msg=path)
        elif path not in run.trained.chosen:
            assert packed[f"base/{path}/codes"].dtype == np.int8
            np.testing.assert_allclose(unpacked[path], leaf, atol=np.abs(leaf).max() / 250, err_msg=path)
    assert "base/blocks/mlp/up/codes" in packed


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rank=4", "adapt.rank=4 needs adapt.name"), ("name=lorra", "did you mean 'lora'"),
        ("rank=0", "adapt.rank=0"), ("pack=int3", "adapt.pack='int3'"), ("targets=['querry']", "'querry' matches none"),
        ("targets=['(']", "not a regular expression"), ("dropout=1.0", "adapt.dropout=1.0"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_refused_before_training(recipe, tmp_path, capsys, override, told):
    more = [] if override in ("rank=4", "name=lorra") else ["--config.adapt.name=lora"]
    assert trained(recipe, tmp_path / "run", *more, f"--config.adapt.{override}") == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_without_an_adapter_has_none_to_export(runs, tmp_path, capsys):
    folder, *_ = runs
    assert main(["export", f"--workdir={folder / 'base'}", f"--to={tmp_path / 'out'}", "--format=peft"]) == 2
    assert "without config.adapt" in capsys.readouterr().err and not (tmp_path / "out").exists()
