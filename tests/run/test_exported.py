"""Exports during training: each is whole at any kill, and holds the parameters of its step."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.interop import load
from llm_jax.interop.source import open_source
from llm_jax.run.build import check
from llm_jax.run.config import differences, resolve
from llm_jax.run.exchange import exported

SMALL = [
    "--config.eval.every=0", "--config.checkpoint.every=2", "--config.train.duration=4 steps",
    "--config.export.every=2", "--config.train.ema=0.9", "--config.model.tied=True",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, recipe_in):
    """A run of four steps that exported twice, its averages too."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
        assert main(["train", f"--config={recipe_in(folder)}", f"--workdir={folder / 'run'}", *SMALL]) == 0
    return open_run(folder / "run")


def described(run, words=None):
    return exported.described(run.resolved.values, run.model, run.workdir, "float32", words)


@pytest.mark.exhaustive
def test_an_export_holds_the_averaged_parameters_of_its_step(trained):
    assert sorted(p.name for p in trained.workdir.exports.iterdir()) == ["2", "4"]
    what = described(trained)
    for step in (2, 4):
        source = open_source(str(trained.workdir.exports / str(step)))
        found = dict(load.leaves(source.tensors, what.names(), what.shapes))
        for path, leaf in tree.flatten(trained.params(step)).items():
            np.testing.assert_array_equal(found[path], leaf, err_msg=f"{step} {path}")
        assert source.tokenizer.encode("the people").tolist() == trained.tokenizer.encode("the people").tolist()


@pytest.mark.exhaustive
def test_what_is_read_leaf_by_leaf_is_what_is_restored_at_once(trained):
    whole = tree.flatten(trained.params())
    for path, leaf in trained.leaves(whole):
        np.testing.assert_array_equal(leaf, whole[path], err_msg=path)


def test_an_export_names_every_path_and_the_end_of_a_text(trained):
    what = described(trained, trained.tokenizer)
    assert sorted(what.paths()) == sorted(trained.model.declarations())
    assert what.config()["tie_word_embeddings"] and what.config()["eos_token_id"] == 256


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("every=-1", "export.every=-1"), ("dtype=int8", "export.dtype='int8'"), ("evry=2", "'every'"),
        ("format=onnx", "export.format='onnx'"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_refused_before_training(recipe, tmp_path, capsys, override, told):
    more = [] if override.startswith("ev") else ["--config.export.every=2"]
    words = ["train", f"--config={recipe}", f"--workdir={tmp_path / 'run'}", *more, f"--config.export.{override}"]
    assert main(words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_that_no_file_of_its_family_can_say_is_refused_before_training():
    model = {"name": "gpt2", "num_layers": 1, "embed_dim": 12, "num_heads": 2, "head_dim": 5}
    recipe = {"model": model, "data": {"source": "text", "options": {"files": "none"}}}
    check(resolve(recipe))
    with pytest.raises(UserError, match=r"model\.head_dim=5.*such as llama"):
        check(resolve(recipe | {"export": {"every": 2}}))


def test_exports_may_change_on_resume():
    assert not differences({"export": {"every": 0}}, {"export": {"every": 4}})


KILLED = """
import os, signal, sys
from llm_jax.cli import main
from llm_jax.interop import safetensors
write = safetensors.write
def dying(folder, infos, tensors, *rest):
    def some():
        for number, tensor in enumerate(tensors):
            if folder.name.startswith("4.") and number == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield tensor
    write(folder, infos, some(), *rest)
safetensors.write = dying
main(sys.argv[1:])
"""


def test_a_kill_in_the_middle_leaves_whole_exports_only(recipe, tmp_path):
    words = ["train", f"--config={recipe}", f"--workdir={tmp_path / 'run'}", *SMALL, "--no_huge_pages"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    names = sorted(p.name for p in (tmp_path / "run/exports").iterdir())
    assert names[0] == "2" and len(names) == 2 and names[1].startswith("4.tmp-")
    assert len(open_source(str(tmp_path / "run/exports/2")).tensors.infos) > 5
