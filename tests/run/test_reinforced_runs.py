"""Learning from rewards: from questions to a run that answers better, resumes to the bit, and what is refused."""

import json
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Learner, Mean, State
from llm_jax.data.examples.records import Record, open_records
from llm_jax.data.tasks import reasoning
from llm_jax.data.tasks.prompts import ChatPrompts, Prompts
from llm_jax.decode.score import laid_out
from llm_jax.evals import generation
from llm_jax.evals.tuned import rewards
from llm_jax.learn.repeated import repeated
from llm_jax.run import build, config
from llm_jax.run.exchange.rollouts import with_rollouts
from llm_jax.store.checkpoint import Checkpoints
from tests.data.read import rows, write

ANSWERS = [{"question": f"{a}{b}", "answer": "x" * (1 + (a + b) % 2)} for a in range(6) for b in range(6)]


@pytest.fixture
def flags(recipe, tmp_path):
    """The flags of a run that learns by rewards; it begins from the workdir `start`."""
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ANSWERS))
    return [*questions(recipe, tmp_path), *rewarded(tmp_path)]


def questions(recipe, folder):
    return [
        f"--config={recipe}", "--config.data.source=files", "--config.data.seq_len=16", "--config.log.every=1",
        f"--config.data.options={{'train': '{folder}/my.jsonl', 'held_out': 0.2}}", "--config.model.num_layers=1",
        '--config.data.form={"name": "prompts"}',
    ]  # fmt: skip


def rewarded(folder):
    options = {"name": "grpo", "group": 4, "tokens": 4, "updates": 2, "answer": "x"}
    return [f"--config.init_from={folder / 'start'}", *(f"--config.objective.{k}={v}" for k, v in options.items())]


def built(flags, *changes):
    """The run of these flags; what is changed comes last."""
    settings = dict(flag.removeprefix("--config.").split("=", 1) for flag in [*flags[1:], *changes])
    recipe = config.load_recipe(flags[0].removeprefix("--config="))
    return with_rollouts(build.build(config.resolve(recipe, list(settings.items()))), {})


def state_of(workdir):
    """{path: numpy array} of the newest saved state."""
    leaves = tree.flatten(Checkpoints(workdir / "checkpoints").restore(None)[0])
    return {
        p: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for p, x in leaves.items()
    }


@pytest.mark.exhaustive
def test_a_resumed_run_writes_the_same_texts_and_is_bit_equal(flags, recipe, tmp_path):
    begin = ["train", *questions(recipe, tmp_path), f"--workdir={tmp_path / 'start'}"]
    assert main([*begin, "--config.train.duration=4 steps"]) == 0
    train = [
        "train", *flags, "--config.eval.suites=['reward']", "--config.eval.every=4", "--config.checkpoint.every=2",
        "--config.objective.beta=0.1", "--config.optimizer.schedule.name=constant",
    ]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*train, f"--workdir={whole}", "--config.train.duration=4 steps"]) == 0
    for steps in (2, 4):
        assert main([*train, f"--workdir={parts}", f"--config.train.duration={steps} steps"]) == 0
    one, other = state_of(whole), state_of(parts)
    assert one.keys() == other.keys() and one["step"] == 4
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)
    rows, again = (open_run(path).metrics for path in (whole, parts))
    told, same = (r[r.split == "train"].to_dict("records") for r in (rows, again))
    names = ("loss", "reward", "reward_std", "advantage_size", "silent", "length", "kl", "clipped")
    assert [[row[n] for n in names] for row in told] == [[row[n] for n in names] for row in same]
    assert any(row["reward"] > 0 for row in told) and told[-1]["kl"] > 0 and 1 <= told[0]["length"] <= 4
    asked = rows[rows.split == "reward"]
    assert asked.step.tolist() == [0, 4] and asked.reward.between(0, 1).all()


def test_the_texts_of_a_step_follow_from_the_state_alone(flags, monkeypatch):
    monkeypatch.setattr(rewards, "exact", lambda *_: lambda text, of: float(of.values["question"]) * (len(text) > 3))
    run, other = (built(flags, "objective.answer=None") for _ in range(2))
    state = run.learner.init(jax.random.key(0))
    asked = run.data.train.batch(0)
    batch, same, later = (
        each.lesson(asked, now) for each, now in ((run, state), (other, state), (run, replace(state, step=1)))
    )
    known = run.objective.known(run.model, state.params, batch)
    for name in batch:
        np.testing.assert_array_equal(batch[name], same[name], err_msg=name)
    assert not np.array_equal(batch["tokens"], later["tokens"])
    np.testing.assert_allclose(batch["behaviour"], known, atol=1e-5)
    first = np.asarray(batch["weights"]).argmax(1)
    for row, last in enumerate(first):  # a group of four after each question
        np.testing.assert_array_equal(batch["tokens"][row][: last + 1], asked["tokens"][row // 4][: last + 1])
    grouped, scores = (np.asarray(batch[name]).reshape(8, 4) for name in ("advantages", "rewards"))
    np.testing.assert_allclose(grouped.sum(1), 0, atol=1e-5)
    right = [float(bytes(ids[:2].tolist())) for ids in asked["tokens"]]
    np.testing.assert_array_equal(scores.max(1), right)
    assert set(scores.reshape(-1)) <= {0.0, *right}


def test_a_text_ends_at_any_of_the_ids_that_end_one(flags):
    """Half of all bytes do here, besides the tokenizer's own."""
    run = replace(built(flags), lesson=None, stops=[*range(0, 256, 2), 256])
    batch = with_rollouts(run, {}).lesson(run.data.train.batch(0), run.learner.init(jax.random.key(0)))
    targets, weights = np.asarray(batch["targets"]), np.asarray(batch["weights"])
    written = [row[weight > 0] for row, weight in zip(targets, weights, strict=True)]
    assert {len(ids) for ids in written} == {1, 2, 3, 4}
    for ids in written:
        assert not set(ids[:-1]) & set(run.stops) and (len(ids) == 4 or ids[-1] in run.stops)


@pytest.mark.exhaustive
def test_a_run_ends_its_texts_as_that_which_it_begins_from(flags, recipe, tmp_path):
    begin = ["train", *questions(recipe, tmp_path), f"--workdir={tmp_path / 'start'}"]
    assert main([*begin, "--config.train.duration=1 steps"]) == 0
    (tmp_path / "start" / "generation_config.json").write_text(json.dumps({"eos_token_id": [*range(257)]}))
    train = ["train", *flags, f"--workdir={tmp_path / 'run'}", "--config.train.duration=1 steps"]
    assert main([*train, "--config.sample.prompts=['5']", "--config.eval.suites=['reward']"]) == 0
    found = open_run(tmp_path / "run").metrics
    assert found[found.split == "train"].length.tolist() == [1]
    assert found[found.split == "reward"].ended.tolist() == [1, 1]
    assert (tmp_path / "run" / "samples" / "1.txt").read_text() == "5\n"


def test_questions_asked_by_a_chat_template_stand_one_a_row_with_the_number_of_their_record(tmp_path):
    template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
    template += "{% if add_generation_prompt %}a:{% endif %}"
    path = write(tmp_path / "my.jsonl", [{"question": q, "answer": a} for q, a in (("ab", "x"), ("c", "yz"))])
    form = {"name": "chat_prompts", "prefix": "Say ", "system": "S"}
    batch = rows(path, form, 40, tmp_path, template=template)
    assert batch["item"].tolist() == [0, 1]
    asked = list(generation.pairs(batch))
    assert [bytes(pair.prompt) for pair in asked] == [b"s:S;u:Say ab;a:", b"s:S;u:Say c;a:"]
    assert [bytes(pair.reference) for pair in asked] == [b"x;", b"yz;"]
    record = Record({"question": "ab", "answer": "x"}, "my.jsonl:1")
    assert rewards.reward(ChatPrompts(system="S"), "files", {})("x", record) == 1
    with pytest.raises(UserError, match=r"my.jsonl:1: 17 tokens are more than data.seq_len \+ 1=16"):
        rows(path, form, 15, tmp_path, template=template)


def test_updates_by_one_batch_are_as_many_steps_of_the_learner():
    def update(state, batch):
        new = replace(state, step=state.step + 1, params=0.5 * state.params + batch * state.step)
        return new, {"loss": Mean(state.params, jnp.float32(2))}

    one = Learner(lambda key: None, update)
    begin = State(jnp.int32(2), jnp.float32(8), (), jax.random.key(0), {})
    new, stats = repeated(one, 3).update(begin, 1.0)  # steps 6, 7 and 8: 8 -> 10 -> 12 -> 14
    assert (int(new.step), float(new.params)) == (3, 14.0)
    assert (float(stats["loss"].total), float(stats["loss"].weight)) == (30.0, 6.0)


def test_what_was_written_has_the_weight_and_nothing_else():
    fields = laid_out([[5, 6, 7, 1, 2], [8, 3, 4, 9]], [2, 3], (2, 6))
    assert fields["tokens"].tolist() == [[5, 6, 7, 1, 0, 0], [8, 3, 4, 0, 0, 0]]
    assert fields["targets"].tolist() == [[6, 7, 1, 2, 0, 0], [3, 4, 9, 0, 0, 0]]
    assert fields["weights"].tolist() == [[0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert fields["segments"].tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("init_from=None", "sometimes answers right"),
        ("data.form={'name': 'pairs', 'source': 'question', 'target': 'answer', 'joined': True}", "reads 'item'"),
        ("local.name=average", 'goes with train.learner="gradient"'),
        ("objective.tokens=14", "set it to at least 17"),
        ("objective.verifier=reasoning", 'objective.verifier="exact"'),
    ],
)
def test_what_cannot_learn_from_rewards_is_refused(flags, change, told):
    with pytest.raises(UserError, match=re.escape(told)):
        built(flags, change)


def test_a_verifier_that_fails_names_the_item(monkeypatch):
    record = Record({"question": "1", "answer": "x"}, "my.jsonl:7")
    checked = rewards.reward(Prompts(), "files", {}, answer=r"<(\w)>")
    assert [checked(text, record) for text in ("<y> <x>", "<x> <y>", "x")] == [1, 0, 0]
    assert rewards.reward(Prompts(), "files", {})(" x\n", record) == 1
    for broken, told in ((lambda *_: math.nan, "gives nan"), (lambda *_: 1 / 0, "ZeroDivisionError")):
        monkeypatch.setattr(rewards, "exact", lambda *_, broken=broken: broken)
        with pytest.raises(UserError, match=rf"my.jsonl:7: objective.verifier='exact'.*{told}"):
            rewards.reward(Prompts(), "files", {})("x", record)


@pytest.mark.oracle
def test_items_that_are_held_out_are_not_trained_on():
    options = {"task": "chain_sum", "options": {"max_terms": 2, "max_digits": 1}, "size": 60, "held_out": 20}
    train, held = (open_records("reasoning", options, split) for split in ("train", "validation"))
    questions = [{record.values["question"] for record in side} for side in (train, held)]
    assert len(held) == 20 and 0 < len(train) < 60 and not questions[0] & questions[1]
    score = rewards.reward(Prompts(), "reasoning", options, "reasoning")
    for record in (train[0], held[0]):
        assert score(record.values["answer"], record) == 1 and score("none", record) < 1
    for wrong, told in (({"task": "chain_sums"}, "did you mean"), ({"options": {"terms": 2}}, "terms")):
        with pytest.raises(UserError, match=re.escape(told)):
            open_records("reasoning", options | wrong, "train")


def test_without_the_package_the_file_of_requirements_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-reasoning.txt"):
        reasoning.installed()
