"""Every mistake of the user: exit code 2, one message that names the culprit and the way out, and nothing written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jax.cli import main
from llm_jax.run import train
from llm_jax.run.config import load_recipe, resolve

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*ROOT.glob("configs/**/*.py"), *ROOT.glob("experiments/*/recipe.py")])

OVERRIDES = {
    # unknown names
    "modle.num_layers=3": ["config.modle", "'model'"],
    "model.num_layer=3": ["model.num_layer", "'num_layers'"],
    "model.rope.thta=3": ["model.rope.thta", "'theta'"],
    "optimizer.learning_rat=1": ["optimizer.learning_rat", "'learning_rate'"],
    "optimizer.momentum=0.9": ["optimizer.momentum", "accepts b1, b2"],
    "optimizer.schedule.warmup=5": ["optimizer.schedule.warmup", "'warmup_steps'"],
    "eval.expected.bits_per_bite=3": ["eval.expected.bits_per_bite", "'bits_per_byte'"],
    "data.options.file=x": ["data.options.file", "'files'"],
    "data.tokenizer.vocab_siz=300": ["tokenizer.vocab_siz"],
    "model.name=lama": ["model.name='lama'", "gpt2, ", "'llama'"],
    "optimizer.name=adamwx": ["optimizer.name='adamwx'", "'adamw'"],
    "optimizer.schedule.name=cosin": ["optimizer.schedule.name='cosin'", "'cosine'"],
    "objective.name=causl": ["objective.name='causl'", "'causal'"],
    "objective.cross_entropy=chunkd": ["objective.cross_entropy='chunkd'", "'chunked'"],
    "model.attention=blockwize": ["attention='blockwize'", "'blockwise'"],
    "data.source=txt": ["data.source='txt'", "'text'"],
    "data.packing=firstfit": ["data.packing='firstfit'", "'first_fit'"],
    "data.tokenizer.name=byte": ["tokenizer.name='byte'", "'bytes'"],
    "data.normalization.form=NFX": ["form='NFX'", "NFC"],
    "mesh.compute_dtype=float16": ["mesh.compute_dtype='float16'", "float32, bfloat16"],
    "mesh.remat=some": ["mesh.remat='some'", "none, full, dots"],
    "mesh.zero=2": ["mesh.zero=2", "1, 3"],
    "mesh.context_by=rings": ["mesh.context_by='rings'", "ring, heads"],
    # wrong types
    "model=3": ["model=3", "section"],
    "model.rope=3": ["model.rope=3", "section"],
    "optimizer.schedule=cosine": ["optimizer.schedule='cosine'", "section"],
    "model.num_layers=two": ["model.num_layers='two'", "an integer"],
    "model.num_layers=2.0": ["model.num_layers=2.0", "an integer"],
    "model.num_layers=True": ["model.num_layers=True", "an integer"],
    "model.num_layers.x=3": ["num_layers", "has no keys"],
    "model.tied=1": ["model.tied=1", "True or False"],
    "optimizer.learning_rate=1e-3e": ["optimizer.learning_rate='1e-3e'", "a number"],
    "optimizer.learning_rate=True": ["optimizer.learning_rate=True", "a number"],
    "optimizer.b1=True": ["optimizer.b1=True", "a number"],
    "optimizer.schedule.warmup_steps=1.5": ["warmup_steps=1.5", "an integer"],
    "optimizer.freeze=embed": ["optimizer.freeze='embed'", "a list"],
    "data.tokenizer=bytes": ["data.tokenizer='bytes'", "section"],
    "data.options.held_out=much": ["data.options.held_out='much'", "float"],
    "sample.prompts=hello": ["sample.prompts='hello'", "a list"],
    "seed=True": ["seed=True", "an integer"],
    # out of range
    "model.num_layers=0": ["model.num_layers=0", "above zero"],
    "model.embed_dim=-32": ["model.embed_dim=-32", "above zero"],
    "model.num_layers=9223372036854775808": ["model.num_layers=9223372036854775808", "at most"],
    "model.vocab_size=0": ["model.vocab_size=0", "above zero"],
    "model.dropout=1": ["model.dropout=1.0", "below 1"],
    "model.rope.theta=-1": ["model.rope.theta=-1", "above zero"],
    "optimizer.learning_rate=nan": ["optimizer.learning_rate='nan'", "a number"],
    "optimizer.learning_rate=-1": ["optimizer.learning_rate=-1", "[0, inf)"],
    "optimizer.learning_rate=1e999": ["optimizer.learning_rate=inf", "[0, inf)"],
    "optimizer.weight_decay=-0.1": ["optimizer.weight_decay=-0.1", "[0, inf)"],
    "optimizer.clip_norm=0": ["optimizer.clip_norm=0", "(0, inf)"],
    "optimizer.b1=1": ["optimizer.b1=1", "[0, 1)"],
    "optimizer.schedule.warmup_steps=-1": ["warmup_steps=-1", "[0, inf)"],
    'optimizer.schedule={"name": "cosine", "warmup_steps": 50}': ["warmup_steps=50", "40 steps"],
    'optimizer.freeze=["nothing"]': ["optimizer.freeze", "'nothing'", "blocks/attention/key"],
    "objective.z_loss=-1": ["objective.z_loss=-1", "zero or above"],
    "objective.label_smoothing=1": ["objective.label_smoothing=1", "below 1"],
    "data.batch_size=0": ["data.batch_size=0", "above zero"],
    "data.batch_size=9223372036854775808": ["data.batch_size=", "at most"],
    "data.seq_len=-8": ["data.seq_len=-8", "above zero"],
    "data.options.held_out=2": ["held_out=2", "below 1"],
    "train.duration=40": ["train.duration='40'", "'2000 steps'"],
    "train.duration=40 stps": ["train.duration='40 stps'", "'2000 steps'"],
    "train.duration=0 steps": ["train.duration='0 steps'", "above zero"],
    "train.duration=nan steps": ["train.duration='nan steps'", "'2000 steps'"],
    "train.microbatches=0": ["train.microbatches=0", "above zero"],
    "train.ema=1": ["train.ema=1", "below 1"],
    "eval.every=-1": ["eval.every=-1", "zero or above"],
    "eval.batch_size=0": ["eval.batch_size=0", "above zero"],
    "checkpoint.every=0": ["checkpoint.every=0", "above zero"],
    "log.every=0": ["log.every=0", "above zero"],
    "sample.temperature=-1": ["sample.temperature=-1", "zero"],
    "sample.top_p=0": ["sample.top_p=0", "above 0"],
    "seed=-1": ["seed=-1", "at least 0"],
    "seed=4294967296": ["seed=4294967296", "2^32"],
    # things that do not fit together (the tests run on eight simulated devices)
    "model.num_heads=5": ["model.num_heads=5", "model.embed_dim=32", "[1, 2, 4, 8]"],
    "model.num_kv_heads=3": ["model.num_kv_heads=3", "model.num_heads=4", "[1, 2, 4]"],
    "model.vocab_size=100": ["model.vocab_size=100", "257"],
    "mesh.data=3": ["mesh.data=3", "8 are here"],
    "mesh.fsdp=3": ["mesh.fsdp=3", "multiple of 3"],
    "mesh.tensor=-1": ["mesh.tensor=-1", "at most one is -1"],
    "mesh.tensor=8": ["mesh.tensor=8", "the 4 heads of", "--config.mesh.fsdp=2 --config.mesh.tensor=4"],
    "mesh.expert=2": ["mesh.expert=2", "has no experts", "--config.mesh.data=4 --config.mesh.fsdp=2"],
    "data.batch_size=12": ["data.batch_size=12", "8 shards", "try 16"],
    "train.microbatches=3": ["train.microbatches=3", "try 24"],
    "eval.batch_size=12": ["eval.batch_size=12", "8 shards", "try 16"],
    "data.source=None": ["data.source", "data.mixture"],
    'data.mixture=[{"source": "text"}]': ["data.source", "data.mixture"],
    # files
    "data.options.files=nowhere/*.txt": ["data.options.files='nowhere/*.txt'", "matches no file"],
    'data.tokenizer={"name": "huggingface", "path": "no.json"}': ["path='no.json'", "No such file"],
    'data.tokenizer={"name": "bpe", "vocab_size": 0}': ["vocab_size=0", "257"],
    'data.tokenizer={"name": "bpe", "vocab_size": True}': ["vocab_size=True", "int"],
}  # fmt: skip


@pytest.fixture
def refused(recipe, tmp_path, capsys, monkeypatch):
    """Run a command that must be refused and return its message; nothing may be written or compiled."""

    def run(*arguments, wrote=()):
        monkeypatch.setattr(train, "train", lambda *_: pytest.fail("training began"))
        before = sorted(tmp_path.rglob("*"))
        code = main([a.format(recipe=recipe, tmp=tmp_path) for a in arguments])
        out, err = capsys.readouterr()
        assert code == 2, f"exit code {code}: {err}"
        assert sorted(tmp_path.rglob("*")) == before
        assert out == "" and err.startswith("llm_jax ") and "Traceback" not in err
        return err

    return run


def train_with(*overrides, config="{recipe}", workdir="{tmp}/run"):
    values = [f"--config.{o.replace('{', '{{').replace('}', '}}')}" for o in overrides]
    return ["train", f"--config={config}", f"--workdir={workdir}", *values]


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_wrong_value_is_named_with_what_is_allowed(override, refused):
    message = refused(*train_with(override))
    assert message.count("\n") == 1
    for word in OVERRIDES[override]:
        assert word in message


def test_a_row_longer_than_the_positions_of_the_model_is_refused(refused):
    message = refused(*train_with("model.max_positions=31", config="{recipe}:gpt2"))
    assert "model.max_positions=31 is below data.seq_len=32" in message


def test_starting_from_a_workdir_that_is_not_there_is_refused(refused):
    assert "'/nowhere'" in refused(*train_with("init_from=/nowhere"))


def test_an_override_given_twice_is_refused(refused):
    message = refused(*train_with("model.num_layers=3", "model.num_layers=4"))
    assert "--config.model.num_layers is given twice" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["commands are train, evaluate", "'train'"]),
        (["--wrkdir=x"], ["'--wrkdir'", "'--workdir'"]),
        (["--config={recipe}"], ["required: --workdir"]),
        (["--config={recipe}", "--workdir={tmp}/a", "--workdir={tmp}/b"], ["--workdir is given twice"]),
        (["--config={recipe}", "--workdir={tmp}/a", "more"], ["'more' is not a flag"]),
        ([*train_with()[1:], "--config.model.num_layers"], ["--config.model.num_layers=VALUE"]),
        ([*train_with()[1:], "--config.model.num_layers", "--allow_config_change"], ["no value"]),
    ],
)
def test_a_wrong_flag_is_named_with_the_nearest(arguments, words, refused):
    message = refused("train" if arguments else "trian", *arguments)
    for word in words:
        assert word in message


RECIPES = {
    "def get_config(:\n": ["bad.py:1", "SyntaxError"],
    "\ndef get_config():\n    return 1 / 0\n": ["bad.py:3", "ZeroDivisionError"],
    "import no_such_module\n": ["bad.py:1", "no_such_module"],
    "x = 1\n": ["bad.py", "get_config"],
    "def get_config():\n    return 5\n": ["bad.py", "5", "ConfigDict"],
    "def get_config():\n    return {'model': {'name': print}}\n": ["plain data", "print"],
    "def get_config():\n    return {'model': {'num_layers': 3}}\n": ["model.name=''", "gpt2, "],
    "def get_config():\n    return {'model': {'name': 'llama'}, 'optimizer': {'learning_rate': float('nan')},"
    " 'data': {'source': 'sotu'}}\n": ["optimizer.learning_rate=nan", "[0, inf)"],
}  # fmt: skip


@pytest.mark.parametrize("text", RECIPES)
def test_a_broken_recipe_is_named_with_its_line(text, refused, tmp_path):
    (tmp_path / "bad.py").write_text(text)
    message = refused(*train_with(config="{tmp}/bad.py"))
    for word in RECIPES[text]:
        assert word in message


def test_a_recipe_that_is_not_there_is_named_with_the_nearest(refused):
    assert "recipe.py'" in refused(*train_with(config="{tmp}/recpie.py"))
    assert "llm_jax configs" in refused(*train_with(config="/nowhere/x.py"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_an_argument_that_a_recipe_does_not_take_is_refused_and_each_that_it_names_is_a_recipe(path, refused):
    message = refused("describe", f"--config={path}:nonsense")
    assert f"--config={path}:nonsense: " in message and "'nonsense'" in message
    assert re.search("choose one of: .|takes no argument|must be ", message)
    named = message.strip().partition("choose one of: ")[2].partition(";")[0]
    found = [json.dumps(resolve(load_recipe(f"{path}:{name}")).values) for name in named.split(", ") if name]
    assert len(set(found)) == len(found)


def test_the_nearest_argument_is_proposed_and_a_missing_one_asked_for(refused, tmp_path):
    (tmp_path / "a.py").write_text(
        "from typing import Literal\ndef get_config(size: Literal['small', 'large']): return {}\n"
    )
    assert "size='larg' is not known; choose one of: large, small; did you mean 'large'?" in refused(
        *train_with(config="{tmp}/a.py:larg")
    )
    assert "size='' is not known; choose one of: large, small" in refused(*train_with(config="{tmp}/a.py"))


def test_a_workdir_that_cannot_be_written_is_refused_before_any_work(refused, tmp_path):
    (tmp_path / "file").write_text("")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    for path in ("{tmp}/file", "{tmp}/file/below", "{tmp}/loop/below"):
        assert "--workdir=" in refused(*train_with(workdir=path))
    assert "--workdir is empty" in refused(*train_with(workdir=""))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_workdir_without_permission_is_refused(refused, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "may not be written" in refused(*train_with(workdir="{tmp}/locked/run"))


def test_empty_data_are_refused(refused, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    assert "empty.txt is empty" in refused(*train_with(f"data.options.files={tmp_path}/empty.txt"))


@pytest.mark.parametrize("verb", [["evaluate"], ["sample", "--prompt=x"]])
def test_a_workdir_without_a_run_is_refused(verb, refused, tmp_path):
    assert "is not a directory" in refused(*verb, "--workdir={tmp}/none")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(*verb, "--workdir={tmp}/empty")
    (tmp_path / "empty" / "config.json").write_text("{torn")
    assert "config.json" in refused(*verb, "--workdir={tmp}/empty")
    (tmp_path / "empty" / "config.json").write_text('{"model": {"name": "rnn"}}')
    assert "model.name='rnn'" in refused(*verb, "--workdir={tmp}/empty")
    (tmp_path / "empty" / "config.json").write_text("[]")
    assert "config=[] must be a section" in refused(*verb, "--workdir={tmp}/empty")


SAMPLE = {
    "--tokens=0": "tokens=0", "--tokens=x": "'x'", "--temperature=nan": "temperature=nan", "--top_k=0": "top_k=0",
    "--top_p=2": "top_p=2", "--num=0": "num", "--num=-2": "num", "--seed=-1": "seed",
    "--repetition_penalty=0": "repetition_penalty=0", "--config.model.num_layers=3": "belong to train",
}  # fmt: skip


@pytest.mark.parametrize("flag", SAMPLE)
def test_a_wrong_flag_of_sample_is_named(flag, refused):
    message = refused("sample", "--workdir={tmp}/none", "--prompt=x", flag)
    assert SAMPLE[flag] in message


def test_a_missing_prompt_is_asked_for(refused):
    assert "--prompt is missing" in refused("sample", "--workdir={tmp}/none")


def test_describe_and_configs_refuse_the_same_things(refused):
    assert "'num_layers'" in refused("describe", "--config={recipe}", "--config.model.num_layer=3")
    assert "not there" in refused("describe", "--config={tmp}/none.py")
    assert "holds no recipe" in refused("configs", "--under={tmp}/none")


def test_a_resolved_configuration_that_is_torn_is_refused_by_train(refused, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "5").mkdir(parents=True)
    (run / "checkpoints" / "5" / "manifest.json").write_text("{}")
    (run / "config.json").write_text("{torn")
    assert "config.json" in refused(*train_with())


def test_in_a_process_of_its_own_a_mistake_costs_one_message_and_compiles_nothing(recipe, tmp_path):
    """As a user meets it: no traceback on either stream, no file, no compilation."""
    command = [sys.executable, "-m", "llm_jax", "train", f"--config={recipe}", f"--workdir={tmp_path / 'run'}"]
    environment = {**os.environ, "JAX_LOG_COMPILES": "1", "XLA_FLAGS": ""}
    done = subprocess.run(
        [*command, "--config.optimizer.learning_rat=1"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and done.stdout == ""
    message = [line for line in done.stderr.splitlines() if "huge pages" not in line]
    assert len(message) == 1 and "'learning_rate'" in message[0]
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_the_configuration_of_a_workdir_is_data_and_never_run(refused, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").write_text(json.dumps({"model": {"name": "__import__('os')"}}))
    assert "model.name" in refused("evaluate", "--workdir={tmp}/w")
