"""A run of a prefix LM, from the recipe to what it writes: it reads prompts as it learnt to, or says that it cannot."""

import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.adapt.prefixed import Prefixed
from llm_jax.cli import main
from llm_jax.core.table import UserError
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate
from llm_jax.run.build import check, model
from llm_jax.run.config import resolve

PREFIX = ["--config.objective.name=prefix", "--config.objective.bidirectional=True"]


def recipe_of(family, *, bidirectional):
    return {
        "model": {"name": family, "num_layers": 1, "embed_dim": 24},
        "objective": {"name": "prefix", "bidirectional": bidirectional},
        "data": {"source": "text", "options": {"files": "none"}, "tokenizer": {"name": "bytes"}},
    }


@pytest.mark.exhaustive
def test_it_is_trained_judged_sampled_and_not_exported(recipe, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    more = ["--config.train.duration=2 steps", "--config.eval.every=0", '--config.sample.prompts=["the people of"]']
    assert main(["train", f"--config={recipe}", f"--workdir={run}", *PREFIX, *more, "--config.sample.tokens=4"]) == 0
    said = capsys.readouterr().out.splitlines()
    judged = next(line for line in said if "held-out loss" in line).split("held-out ")[1]
    assert main(["evaluate", f"--workdir={run}"]) == 0
    assert f" {judged.split()[1]} ± " in capsys.readouterr().out
    assert main(["sample", f"--workdir={run}", "--prompt=the people of", "--tokens=4", "--greedy"]) == 0
    sampled = capsys.readouterr().out
    opened = open_run(run)
    params, prompt = opened.params(), opened.tokenizer.encode("the people of").tolist()
    assert isinstance(opened.model, Prefixed)
    (ids,) = generate(opened.model, params, [prompt], max_new_tokens=4, settings=Sampling(0.0))
    assert opened.tokenizer.decode(ids) in sampled
    whole = {"tokens": np.array([prompt]), "prefix": np.ones((1, len(prompt)), bool)}
    assert ids[0] == opened.model.base.apply(params, whole).logits[0, -1].argmax()
    assert main(["export", f"--workdir={run}", f"--to={out}"]) == 2
    assert "both directions" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_objective_says_how_the_model_of_a_run_reads_prompts(bidirectional):
    built = model(resolve(recipe_of("llama", bidirectional=bidirectional)), vocab_size=9)
    assert isinstance(built, Prefixed) == bidirectional and built.vocab_size == 9


@pytest.mark.parametrize(
    ("family", "section", "more", "told"),
    [
        ("lstm", "objective", {}, "'lstm' is not"),
        ("bart", "objective", {}, "'bart' is not.*encoded=True"),
        ("llama", "export", {"every": 2}, "both directions.*bidirectional=False"),
        ("llama", "objective", {"encoded": True}, "leave out one"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(family, section, more, told):
    recipe = recipe_of(family, bidirectional=True)
    with pytest.raises(UserError, match=told):
        check(resolve(recipe | {section: recipe.get(section, {}) | more}))
