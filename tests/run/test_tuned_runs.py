"""Tuning on examples of one's own: from files to a run that answers, evaluated, gone on with, and refused."""

import json
import re

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.data.documents import is_held_out
from llm_jax.run import build
from llm_jax.run.config import load_recipe, resolve
from llm_jax.run.parts import reading

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a: {% endif %}"
)
TALKS = [{"prompt": f"count {i}", "response": f"{i}, {i + 1}"} for i in range(60)]


@pytest.fixture
def flags_of_tuning(recipe, tmp_path):
    """The flags that tune a run on conversations."""
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in TALKS))
    return [
        "train", f"--config={recipe}", f"--workdir={tmp_path / 'tuned'}", f"--config.init_from={tmp_path / 'run'}",
        "--config.data.source=files", f"--config.data.options={{'train': '{tmp_path}/my.jsonl', 'held_out': 0.2}}",
        '--config.data.form={"name": "chat"}', "--config.data.seq_len=64", "--config.log.every=1",
        "--config.eval.every=2",
    ]  # fmt: skip


@pytest.fixture
def begun(flags_of_tuning, recipe, tmp_path):
    """The same, and a run of text with a chat template to begin from."""
    assert (
        main(["train", f"--config={recipe}", f"--workdir={tmp_path / 'run'}", "--config.train.duration=1 steps"]) == 0
    )
    (tmp_path / "run/chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "run/generation_config.json").write_text(json.dumps({"eos_token_id": [256, 10]}))
    return flags_of_tuning


def test_a_run_is_tuned_on_answers_alone_and_talks(begun, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*begun, "--config.train.duration=2 steps"]) == 0
    tuned = open_run(tmp_path / "tuned")
    assert tuned.template == TEMPLATE and tuned.stops == [10, 256]
    rows = tuned.metrics
    assert rows[rows.split == "validation"].step.tolist() == [0, 2]  # before and after
    parts = build.parts_of(tuned.resolved)
    held = reading.batches(tuned.resolved, parts.data, parts.local, tuned.tokenizer, TEMPLATE).validation
    answers = sum(len(t["response"]) + 1 for t in TALKS if _is_held_out(t))
    assert sum(batch["weights"].sum() for batch in held.once(8)) == answers > 0
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={tmp_path / 'tuned'}"]) == 0
    assert f"over {answers:,} tokens" in capsys.readouterr().out
    assert main(["chat", f"--workdir={tmp_path / 'tuned'}", "--message=count 1", "--tokens=2"]) == 0
    # It goes on with what is its own, whatever became of where it began.
    (tmp_path / "run/chat_template.jinja").unlink()
    assert main([*begun, "--config.train.duration=3 steps"]) == 0


def _is_held_out(talk):
    return is_held_out(json.dumps(talk, sort_keys=True), 0.2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.init_from=None"], "data.form.name='chat' needs a chat template"),
        (['--config.data.form={"name": "chta"}'], "data.form.name='chta' is not known.*did you mean 'chat'"),
        (
            ['--config.data.form={"name": "chat", "promt": "x"}'],
            "data.form.promt is not an option here.*did you mean 'prompt'",
        ),
        (["--config.data.form=None"], "data.source='files' holds examples; say what is made of them"),
        (["--config.data.source=text"], "data.source='text' holds text, and data.form needs one of: csv"),
        (["--config.data.packing=first_fit"], "data.packing='first_fit' is for text"),
        (['--config.data.form={"name": "labelled"}'], "reads 'targets', which data.form.name='labelled' does not make"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(flags_of_tuning, tmp_path, flags, message, capsys):
    kept = [flag for flag in flags_of_tuning if not any(flag.startswith(f.split("=")[0] + "=") for f in flags)]
    assert main([*kept, *flags]) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "tuned").exists()


@pytest.mark.exhaustive
def test_an_encoder_decoder_learns_pairs(recipe, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("source,target\n" + "".join(f"say {i},{i}\n" for i in range(60)))
    t5 = {"name": "t5", "num_layers": 1, "embed_dim": 32, "num_heads": 2, "mlp_dim": 32}
    values = load_recipe(str(recipe)) | {"model": t5, "objective": {"name": "seq2seq"}}
    values["data"] |= {"source": "files", "options": {"train": str(path)}, "form": {"name": "pairs", "source_len": 16}}
    run = build.build(resolve(values))
    batch = run.data.train.batch(0)
    assert batch["source_tokens"].shape == (8, 16) and batch["tokens"].shape == (8, 32)
    (loss, _) = run.objective(run.model, run.model.init(jax.random.key(0)), batch, None)
    assert np.isfinite(loss.value) and loss.weight == batch["weights"].sum()
