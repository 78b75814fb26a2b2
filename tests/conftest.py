"""Eight simulated CPU devices for every test, and a compiler that is quick rather than thorough.

A test marked `rotates(n)` runs an n-th of its cases, others with each commit; `make test-laws` runs them all.
"""

import os
import random
import subprocess
import zlib
from importlib.metadata import version
from pathlib import Path

import pytest

FLAGS = ["force_host_platform_device_count=8", "backend_optimization_level=0", "llvm_disable_expensive_passes=true"]
if version("jaxlib") < "0.11":  # unknown to later ones; compiles three times as fast
    FLAGS.append("cpu_use_fusion_emitters=false")

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *(f"--xla_{flag}" for flag in FLAGS)]).strip()

RECIPE = '''"""A recipe as small as it can be."""

from ml_collections import ConfigDict


def get_config(arg="llama"):
    return ConfigDict({{
        "model": {{"name": arg, "num_layers": 2, "embed_dim": 32, "num_heads": 4, "mlp_dim": 64}},
        "optimizer": {{"learning_rate": 3e-3}},
        "data": {{
            "source": "text", "options": {{"files": {files!r}, "separator": "\\n", "held_out": 0.1}},
            "tokenizer": {{"name": "bytes"}}, "batch_size": 8, "seq_len": 32,
        }},
        "train": {{"duration": "40 steps"}},
        "eval": {{"every": 20, "batches": 2}},
        "checkpoint": {{"every": 5}},
        "log": {{"every": 5, "tensorboard": False}},
    }})
'''


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The path of a tiny recipe over a text of its own, beside an empty cache."""
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
    return write_recipe(tmp_path)


@pytest.fixture(scope="session")
def recipe_in():
    """Write the tiny recipe and its text into a folder; return the recipe's path."""
    return write_recipe


def write_recipe(folder):
    """Write a recipe and the text that it trains on; return the recipe's path."""
    draw = random.Random(0)
    words = ["the", "of", "and", "people", "in", "that", "it", "is", "was", "for", "on", "as", "union", "his"]
    lines = [" ".join(draw.choices(words, k=25)) for _ in range(300)]
    (folder / "text.txt").write_text("\n".join(lines))
    (folder / "recipe.py").write_text(RECIPE.format(files=str(folder / "text.txt")))
    return folder / "recipe.py"


def pytest_configure(config):
    config.addinivalue_line("markers", "of(kind): a law over the families of one kind, of tests/laws/kinds.py")
    config.addinivalue_line("markers", "rotates(n): an n-th of a test's cases, others with each commit")
    config.addinivalue_line("markers", "oracle: beside a foreign program or real weights, run live (make test-oracles)")
    config.addinivalue_line("markers", "exhaustive: every corner of a law whose middle is always tested")
    config.addinivalue_line("markers", "plan: compiles for chips that are not here (make test-plan)")
    config.addinivalue_line("markers", "faults: kills, stops and starts real processes again (make test-faults)")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items):
    turn, tests = commit(), {}
    for item in items:
        if item.get_closest_marker("rotates") and not item.get_closest_marker("exhaustive"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, cases in tests.items():
        parts = min(len(cases), cases[0].get_closest_marker("rotates").args[0])
        first = (zlib.crc32(name.encode()) + turn) % parts
        for number, case in enumerate(cases):
            if number % parts != first:
                case.add_marker(pytest.mark.exhaustive)


def commit():
    """Return a number that follows from the commit, 0 where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout[:8], 16)
    except (OSError, subprocess.CalledProcessError):
        return 0
