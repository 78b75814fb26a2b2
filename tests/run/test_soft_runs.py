"""Learning from what a service said of its tokens, from the file to the log."""

import json

import numpy as np
import pytest

from llm_jax.cli import main

RECIPE = '''"""A student of bytes."""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict({{
        "model": {{"name": "llama", "num_layers": 1, "embed_dim": 16, "num_heads": 2, "mlp_dim": 16}},
        "objective": {{"name": "soft"}},
        "data": {{
            "source": "files", "options": {{"train": "{folder}/a.jsonl", "held_out": 0.3}},
            "form": {{"name": "soft", "top": 2, "template": "{folder}/template"}},
            "tokenizer": {{"name": "bytes"}}, "batch_size": 8, "seq_len": 24,
        }},
        "train": {{"duration": "3 steps"}}, "log": {{"every": 1, "tensorboard": False}},
    }})
'''


@pytest.mark.exhaustive
def test_a_student_learns_from_the_likeliest_tokens_of_a_service(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
    lines = []
    for i in range(60):
        answer = f"yes {i}"
        tokens = [[[letter, -0.1], [letter, -0.1], ["?", -3.0]] for letter in answer]
        lines.append({"prompt": f"{i}?", "response": answer, "service": {"tokens": tokens}})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "template").write_text(
        "{% for m in messages %}{{ m.role[0] + m.content }}{% endfor %}{% if add_generation_prompt %}a{% endif %}"
    )
    (tmp_path / "recipe.py").write_text(RECIPE.format(folder=tmp_path))
    assert main(["train", f"--config={tmp_path}/recipe.py", f"--workdir={tmp_path}/run"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    apart = [row["distill"] for row in rows if row["split"] == "train"]
    assert len(apart) == 3 and np.isfinite(apart).all() and min(apart) > 1
    assert any(row["split"] == "validation" for row in rows)
