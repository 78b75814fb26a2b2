"""Workers that learn apart, from the command line: trained, stopped and gone on with, evaluated, refused."""

import re
import shutil

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.store.checkpoint import Checkpoints

ALL = jax.devices()
SHORT = ["--config.train.duration=10 steps", "--config.checkpoint.every=5", "--config.eval.every=0"]
DILOCO = ["--config.local.name=diloco", "--config.local.workers=4", "--config.local.every=4"]
STREAMING = [*DILOCO, "--config.local.fragments=2", "--config.local.overlap=1"]
ROUNDS = ["--config.local.name=adam", "--config.local.workers=4", "--config.local.every=2", "--config.data.clients=6"]
PLACES = {"one device": (1, []), "four slices": (8, ["--config.mesh.slice=4", "--config.data.batch_size=16"])}


def bits(workdir, step):
    leaves = tree.flatten(Checkpoints(workdir / "checkpoints").restore(None, step)[0])
    words = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return {path: np.asarray(words(x)).tobytes() for path, x in leaves.items()}


def train(recipe, workdir, *options):
    return main(["train", f"--config={recipe}", f"--workdir={workdir}", *SHORT, *options])


CASES = {
    "streaming, four slices": ("four slices", STREAMING),
    "rounds, one device": ("one device", ROUNDS),
    "streaming, one device": ("one device", STREAMING),
    "diloco, four slices": ("four slices", DILOCO),
}


@pytest.mark.rotates(4)
@pytest.mark.parametrize(("place", "kind"), CASES.values(), ids=CASES)
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(place, kind, recipe, tmp_path, monkeypatch, capsys):
    devices, more = PLACES[place]
    monkeypatch.setattr(jax, "devices", lambda *_: ALL[:devices])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(recipe, whole, *kind, *more) == 0
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / "10")
    assert train(recipe, stopped, *kind, *more) == 0
    assert "going on with" in capsys.readouterr().out
    assert bits(stopped, 10) == bits(whole, 10) != bits(whole, 5)
    losses = open_run(whole).metrics.query("split == 'train'").loss
    assert losses.iloc[-1] < losses.iloc[0] and np.isfinite(losses).all()


@pytest.mark.exhaustive
def test_what_is_evaluated_and_begun_from_are_the_outer_parameters(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "devices", lambda *_: ALL[:1])
    workdir = tmp_path / "run"
    assert train(recipe, workdir, *DILOCO) == 0
    state = Checkpoints(workdir / "checkpoints").restore(None, 10)[0]
    told = re.search(r"finished at step 10: loss (\S+)", capsys.readouterr().out)[1]
    found = tree.flatten(open_run(workdir).params())
    for path, leaf in tree.flatten(state["params"]).items():
        np.testing.assert_array_equal(found[path], leaf)
        assert not np.array_equal(leaf, tree.flatten(state["extra"]["workers"])[f"params/{path}"][0])
    assert main(["evaluate", f"--workdir={workdir}"]) == 0 and told in capsys.readouterr().out
    assert train(recipe, tmp_path / "next", *DILOCO, f"--config.init_from={workdir}") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["local.name=dilco"], "local.name='dilco' is not known; choose one of: adam, average, diloco; did you mean"),
        (["local.workers=4"], "local.workers=4 needs local.name, one of: adam, average, diloco"),
        (["local.name=diloco", "local.worker=4"], "local.worker is not a key"),
        (["local.name=diloco", "local.workers=3"], "data.batch_size=8 does not divide into local.workers=3 shares"),
        (["local.name=diloco", "local.workers=6", "mesh.slice=4"], "(mesh.slice=4); try local.workers=8"),
        (["local.name=diloco", "local.workers=2", "local.every=3", "local.fragments=4"], "try local.fragments=3"),
        (["local.name=diloco", "local.workers=2", "local.every=9", "local.fragments=4"], "the 2 layers of the model"),
        (["local.name=diloco", "local.every=3", "local.overlap=3"], "local.overlap=3 must be below local.every=3"),
        (["data.clients=4"], 'data.clients needs rounds; set local.name="average"'),
        (["data.clients=4", "local.name=average", "optimizer.schedule.name=cosine"], "choose 'constant'"),
        (["data.clients=4", "local.name=average", "local.every=4", "local.overlap=2"], "begin from one model"),
        (["data.clients=4", "data.client_pattern=x"], "two ways to find the clients"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_what_can(options, message, recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "devices", lambda *_: ALL[: 8 if "mesh.slice=4" in options else 1])
    assert train(recipe, tmp_path / "run", *(f"--config.{option}" for option in options)) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()
