"""From questions with passages to a model that answers typed ones by the words of a passage."""

import io
import json
import random
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.data.examples.passages import Passages
from llm_jax.evals import generation
from llm_jax.models.seq2seq.t5 import T5
from llm_jax.objectives.labelled import spans
from llm_jax.text import tokenizers
from tests.data.read import rows, write

RECIPE = '''"""Questions."""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict({{
        "model": {{"name": "bert", "num_layers": 1, "embed_dim": 32, "num_heads": 2, "pooler": False, "head": False}},
        "objective": {{"name": "spans"}},
        "optimizer": {{"name": "adamw", "learning_rate": 1e-2}},
        "data": {{
            "source": "jsonl", "options": {{"train": {file!r}, "held_out": 0.1}}, "form": {{"name": "passages"}},
            "tokenizer": {{"name": "bytes"}}, "batch_size": 16, "seq_len": 20,
        }},
        "train": {{"duration": "60 steps"}},
        "eval": {{"every": 0, "batches": None}},
        "log": {{"every": 20, "tensorboard": False}},
    }})
'''


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that learnt to point at the number in a passage, if there is one."""
    folder = tmp_path_factory.mktemp("ask")
    draw = random.Random(0)
    rows = []
    for _ in range(200):
        parts = draw.sample(["a", "b", "c", "d"], 3)
        number = " ".join(draw.choice("0123456789") * 2)
        there = draw.random() < 0.8
        if there:
            parts.insert(draw.randrange(4), number)
        context = " ".join(parts)
        answers = {"text": [number] * there, "answer_start": [context.find(number)] * there}
        rows.append({"question": "n?", "context": context, "answers": answers})
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.py").write_text(RECIPE.format(file=str(folder / "q.jsonl")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
        assert main(["train", f"--config={folder / 'recipe.py'}", f"--workdir={folder / 'run'}"]) == 0
    return folder / "run"


def test_it_answers_with_the_words_of_the_passage(workdir, tmp_path, capsys, monkeypatch):
    last = open_run(workdir).metrics.query("split == 'validation'").iloc[-1]
    assert last.exact > 0.8 and last.f1 >= last.exact and last.loss < 0.5
    (tmp_path / "p.txt").write_text("b  4 4 d a\n")
    asked = ["ask", f"--workdir={workdir}", f"--passage={tmp_path / 'p.txt'}"]
    assert main([*asked, "--question=n?"]) == 0
    assert capsys.readouterr().out == "4 4\n"
    (tmp_path / "p.txt").write_text("b c a")
    monkeypatch.setattr("sys.stdin", io.StringIO("n?\n\nn?\n"))
    located, read = Passages.located, []

    def listening(form, texts, words):
        read.extend(texts)
        return located(form, texts, words)

    monkeypatch.setattr(Passages, "located", listening)
    assert main(asked) == 0
    assert capsys.readouterr().out == "(no answer)\n" * 2 and read == ["b c a"]  # once, however many ask
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert main(asked) == 0 and capsys.readouterr().out == ""


def test_a_model_that_writes_is_asked_as_its_rows_are(tmp_path, capsys, monkeypatch):
    """What it writes from the rows of a file it answers to typed questions; one text stands for no answer."""
    words = tokenizers.build("bytes")
    model = T5(words.vocab_size, 1, embed_dim=16, num_heads=2, mlp_dim=16, buckets=8, furthest=12, tied=False)
    params = jax.tree.map(lambda x: 1.3 * x, model.init(jax.random.key(3)))
    asked = [{"question": question, "context": "b 4 4 d a", "answers": ["4 4"]} for question in ("n?", "a good deal?")]
    form = {"name": "answers", "source_len": 24}
    pairs = list(generation.pairs(rows(write(tmp_path / "q.jsonl", asked), form, 8, tmp_path)))
    made = generation.written(model, params, pairs, max_new_tokens=8, vocab_size=words.vocab_size)
    first, second = (words.decode(ids) for ids in made)
    assert first != second
    values = {"data": {"form": form | {"none": second.strip()}, "seq_len": 8, "normalization": {}}, "seed": 0}
    opened = SimpleNamespace(
        model=model,
        params=lambda step: params,
        tokenizer=words,
        stops=[],
        workdir=SimpleNamespace(path="run"),
        resolved=SimpleNamespace(values=values),
    )
    monkeypatch.setattr("llm_jax.run.open_run.open_run", lambda path: opened)
    monkeypatch.setattr("sys.stdin", io.StringIO("n?\na good deal?\n"))
    (tmp_path / "p.txt").write_text("b 4 4 d a")
    assert main(["ask", "--workdir=run", f"--passage={tmp_path / 'p.txt'}"]) == 0
    assert capsys.readouterr().out == f"{first}\n(no answer)\n"
    values["data"]["form"] = {"name": "pairs"}
    assert main(["ask", "--workdir=run", f"--passage={tmp_path / 'p.txt'}"]) == 2


def test_what_cannot_be_asked_says_why(workdir, tmp_path, capsys):
    asked = ["ask", f"--workdir={workdir}"]
    assert main([*asked, f"--passage={tmp_path / 'no.txt'}", "--question=n?"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "p.txt").write_text("b c a " * 9)
    assert main([*asked, f"--passage={tmp_path / 'p.txt'}", "--question=n?"]) == 2
    assert "question 1: 57 tokens are more than data.seq_len=20" in capsys.readouterr().err


def test_the_best_span_is_that_of_a_search_over_all():
    random = np.random.default_rng(0)
    scores = random.normal(size=(30, 9, 2)).astype(np.float32)
    scores[:, 1:2] = spans.NEVER  # a question
    found = np.asarray(jax.jit(spans.best, static_argnums=1)(scores, 3))
    for row, (first, last) in zip(scores, found, strict=True):
        pairs = [(0, 0), *((i, j) for i in range(1, 9) for j in range(i, min(i + 3, 9)))]
        assert (first, last) == max(pairs, key=lambda p: row[p[0], 0] + row[p[1], 1])
    assert (found[:, 1] == 0).any() and (found[:, 1] > found[:, 0]).any()
