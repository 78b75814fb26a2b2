"""Smaller and private models from the command line: pruned in training, compressed, distilled, with noise."""

import json
import shutil

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.store.checkpoint import Checkpoints

SMALL = ["--config.model.num_layers=1", "--config.model.embed_dim=16", "--config.model.mlp_dim=16"]
SHORT = [*SMALL, "--config.eval.every=0", "--config.checkpoint.every=2", "--config.train.duration=4 steps"]
PRUNED = ["--config.prune.sparsity=2:4", "--config.prune.begin=1", "--config.prune.end=3", "--config.prune.every=1"]


def trained(recipe, workdir, *more):
    return main(["train", f"--config={recipe}", f"--workdir={workdir}", *SHORT, *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, recipe_in):
    """A folder with a run `pruned` of 4 steps and what `compress` makes of it, `int8`."""
    folder = tmp_path_factory.mktemp("smaller")
    recipe_in(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
        assert trained(folder / "recipe.py", folder / "pruned", *PRUNED) == 0
        flags = [f"--workdir={folder / 'pruned'}", f"--to={folder / 'int8'}", "--quantize=int8"]
        assert main(["compress", *flags]) == 0
        yield folder


def kernels(path):
    leaves = tree.flatten(open_run(path).params())
    return {p: np.asarray(x) for p, x in leaves.items() if p.startswith("blocks/") and "norm" not in p}


@pytest.mark.exhaustive
def test_masks_are_part_of_a_run_that_goes_on_with_the_same_bits(folder):
    whole = kernels(folder / "pruned")
    assert len(whole) == 7 and all((x == 0).mean() == 0.5 for x in whole.values())
    shutil.copytree(folder / "pruned", folder / "stopped")
    shutil.rmtree(folder / "stopped/checkpoints/4")
    assert trained(folder / "recipe.py", folder / "stopped", *PRUNED) == 0
    first, again = (Checkpoints(folder / name / "checkpoints").restore()[0] for name in ("pruned", "stopped"))
    assert sum("masks" in path for path in tree.flatten(first)) == 7
    for path, leaf in tree.flatten(first).items():
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(tree.flatten(again)[path], leaf, err_msg=path)


def test_a_compressed_run_is_stored_in_few_bits_and_opens_like_any_other(folder, capsys):
    stored = tree.flatten(Checkpoints(folder / "int8/checkpoints").restore(part="params")[0])
    whole, opened = kernels(folder / "pruned"), open_run(folder / "int8")
    for path, kernel in whole.items():
        codes, scales = stored[f"{path}/codes"], stored[f"{path}/scales"]
        assert codes.dtype == np.int8 and codes.shape == kernel.shape
        np.testing.assert_allclose(codes / 127 * scales, kernel, atol=np.abs(kernel).max() / 250, err_msg=path)
        assert not codes[kernel == 0].any()
    assert {p: x.dtype for p, x in tree.flatten(opened.params()).items()} == {p: x.dtype for p, x in stored.items()}
    for path in ("embed/tokens", "head/tokens"):
        assert stored[f"{path}/codes"].dtype == np.int8 and path not in stored
    losses = []
    for name in ("pruned", "int8"):
        assert main(["evaluate", f"--workdir={folder / name}", "--batches=2"]) == 0
        losses.append(float(capsys.readouterr().out.split("loss")[1].split()[0]))
    assert abs(losses[0] - losses[1]) < 0.01
    assert main(["sample", f"--workdir={folder / 'int8'}", "--prompt=the people", "--tokens=4"]) == 0
    assert capsys.readouterr().out.startswith("the people")


def test_what_is_exported_of_few_bits_computes_the_same(folder, tmp_path, capsys):
    assert main(["export", f"--workdir={folder / 'int8'}", f"--to={tmp_path / 'out'}"]) == 0
    assert main(["import", f"{tmp_path / 'out'}", f"--workdir={tmp_path / 'back'}"]) == 0
    batch = {"tokens": np.arange(12, dtype=np.int32)[None]}
    few, whole = (
        run.model.apply(run.params(), batch).logits for run in map(open_run, (folder / "int8", tmp_path / "back"))
    )
    np.testing.assert_allclose(few, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("verb", "flags", "told"),
    [
        ("train", ["--workdir={int8}"], "holds a model that was compressed, which is not trained in its place"),
        ("train", ["--workdir={new}", "--config.init_from={int8}"], "holds a model packed in int8, which"),
        ("train", ["--workdir={new}", "--config.compress.quantize=int4"], "a packed model is not trained"),
        ("train", ["--workdir={new}", "--config.prune.begin=2"], "need prune.sparsity"),
        ("train", ["--workdir={new}", "--config.prune.sparsity=0.5", "--config.train.ema=0.9"], "train.ema=0.9"),
        ("train", ["--workdir={new}", "--config.objective.name=distill"], "objective.teacher is missing"),
        ("train", ["--workdir={new}", "--config.train.learner=private"], "needs data.poisson"),
        ("compress", ["--workdir={int8}", "--to={new}", "--quantize=int4"], "holds a packed model"),
        ("compress", ["--workdir={pruned}", "--to={int8}", "--quantize=int4"], "is there and not empty"),
        ("compress", ["--workdir={pruned}", "--to={new}"], "nothing to do"),
        ("compress", ["--workdir={pruned}", "--to={new}", "--prune=3"], "--prune='3' must be a share"),
        ("compress", ["--workdir={pruned}", "--to={new}", "--quantize=int4", "--group=0"], "a number of inputs"),
        ("compress", ["--workdir={pruned}", "--to={new}", "--prune=0.5", "--group=8"], "--group is of the scales"),
        ("compress", ["--workdir={pruned}", "--to={new}", "--prune=0.5", "--embeddings=int8"], "--embeddings is of"),
        ("train", ["--workdir={new}", "--config.compress.embeddings=int4"], "embeddings='int4' is not known"),
        ("train", ["--workdir={new}", "--config.compress.embeddings=int8"], "set compress.quantize too"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_is_written(folder, capsys, monkeypatch, verb, flags, told):
    monkeypatch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
    places = {name: folder / name for name in ("int8", "pruned", "new")}
    given = [flag.format(**places) for flag in flags]
    assert main([verb, *given, *([f"--config={folder / 'recipe.py'}", *SHORT] if verb == "train" else [])]) == 2
    assert told in capsys.readouterr().err and not (folder / "new").exists()


@pytest.mark.exhaustive
def test_a_student_learns_from_a_teacher_and_only_from_one_with_its_tokenizer(folder, monkeypatch, capsys):
    """With all of the loss the teacher's, a student that begins as the teacher stays where it is."""
    monkeypatch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
    taught = ["--config.objective.name=distill", f"--config.objective.teacher={folder / 'pruned'}"]
    alone = ["--config.objective.alpha=1.0", f"--config.init_from={folder / 'pruned'}", "--config.log.every=1"]
    alone += ["--config.optimizer.name=sgd"]
    assert trained(folder / "recipe.py", folder / "student", *taught, *alone) == 0
    rows = [json.loads(line) for line in (folder / "student/metrics.jsonl").read_text().splitlines()]
    apart = [row["distill"] for row in rows if row["split"] == "train"]
    assert len(apart) == 4 and max(map(abs, apart)) < 1e-6
    other = ["--config.data.tokenizer.name=characters"]
    assert trained(folder / "recipe.py", folder / "new", *taught, *other) == 2
    assert "has another tokenizer" in capsys.readouterr().err and not (folder / "new").exists()


@pytest.mark.exhaustive
def test_a_private_run_says_what_it_promises(folder, monkeypatch, capsys):
    monkeypatch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
    private = ["--config.train.learner=private", "--config.data.batch_size=40", "--config.data.poisson=8"]
    assert trained(folder / "recipe.py", folder / "private", *private, "--config.log.every=2") == 0
    told = capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "private/metrics.jsonl").read_text().splitlines()]
    spent = [row["epsilon"] for row in rows if row["split"] == "train"]
    assert 0 < spent[0] < spent[1] and f"private: epsilon {spent[1]:.3f} at delta 1e-05, for one row of 32" in told
    tight = ["--config.data.batch_size=16", "--config.data.poisson=12"]
    assert trained(folder / "recipe.py", folder / "new", *private[:1], *tight) == 2
    assert "data.batch_size=16 has too little room" in capsys.readouterr().err and not (folder / "new").exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["pruned", "taught", "private"])
def test_a_run_over_a_mesh_ends_where_that_of_one_device_does(folder, monkeypatch, kind):
    monkeypatch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
    more = {
        "pruned": PRUNED,
        "taught": ["--config.objective.name=distill", f"--config.objective.teacher={folder / 'pruned'}"],
        "private": ["--config.train.learner=private", "--config.data.batch_size=40", "--config.data.poisson=8"],
    }[kind]
    mesh = [f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    ends = []
    for name, over in (("one", []), ("eight", mesh)):
        assert trained(folder / "recipe.py", folder / f"{kind}_{name}", *more, *over) == 0
        ends.append(tree.flatten(open_run(folder / f"{kind}_{name}").params()))
    for path, wanted in ends[0].items():
        np.testing.assert_allclose(ends[1][path], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=path)
