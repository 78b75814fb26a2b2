"""Held-out text judged with its state carried: what one unbroken pass over it finds, in runs and whole."""

import itertools

import jax
import numpy as np
import pytest

from benchmarks.compression import measured
from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.data.build import build
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.recurrent.gru import Gru
from llm_jax.models.recurrent.lstm import Lstm
from llm_jax.models.recurrent.mamba2 import Mamba2
from llm_jax.objectives.causal import Causal
from llm_jax.run.evaluate import held_out
from llm_jax.run.judge.kinds import evaluator
from llm_jax.text import tokenizers

T, ROWS = 16, 19
TARGETS = T * ROWS - 4
MODELS = {
    "lstm": Lstm(vocab_size=257, num_layers=1, embed_dim=16),
    "gru": Gru(vocab_size=257, num_layers=1, embed_dim=16),
    "mamba2": Mamba2(vocab_size=257, num_layers=1, embed_dim=16, head_dim=8, state_dim=4),
}


@pytest.fixture
def loader(tmp_path):
    """The last of its 19 rows is not full."""
    text = "".join(chr(97 + i * i % 23) for i in range(TARGETS - 1))
    (tmp_path / "a.txt").write_text(text)
    options = {"files": str(tmp_path / "a.txt"), "validation": str(tmp_path / "a.txt")}
    return build(
        tokenizer=tokenizers.build("bytes"), seq_len=T, batch_size=4, source="text", options=options,
        packing="contiguous", cache_dir=tmp_path / "cache",
    ).validation  # fmt: skip


def unbroken(model, params, loader, runs):
    """Nats of rows in so many runs, each read at once."""
    steps = -(-ROWS // runs)
    whole = {k: np.concatenate([b[k] for b in loader.once(1)]) for k in ("tokens", "targets", "weights")}
    pad = runs * steps - ROWS
    batch = {k: np.pad(v, ((0, pad), (0, 0))).reshape(runs, steps * T) for k, v in whole.items()}
    log_p = jax.nn.log_softmax(jax.jit(lambda p, b: model.apply(p, b).logits)(params, batch))
    return -(np.take_along_axis(np.asarray(log_p), batch["targets"][..., None], -1)[..., 0] * batch["weights"]).sum()


@pytest.mark.rotates(3)
@pytest.mark.parametrize("runs", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_one_unbroken_pass_over_each_run(name, runs, loader):
    model = MODELS[name]
    params = model.init(jax.random.key(1))
    found = held_out(evaluator(model, Causal(), "carried"), params, loader, runs)["loss"]
    assert found.count == TARGETS
    np.testing.assert_allclose(found.value * found.count, unbroken(model, params, loader, runs), rtol=1e-5)
    again = held_out(evaluator(model, Causal(), "carried"), params, loader, runs)["loss"]
    assert again == found, "each evaluation begins with nothing"
    rows = held_out(evaluator(model, Causal(), "gradient"), params, loader, 4)["loss"]
    assert rows.count == found.count and abs(rows.value - found.value) > 1e-4


@pytest.mark.parametrize("hosts", [1, 2])
def test_each_row_goes_on_in_the_next_batch_and_comes_once(hosts, loader):
    shares = zip(*(loader.once(4, host, hosts, runs=True) for host in range(hosts)), strict=True)
    batches = [{k: np.concatenate([s[k] for s in share]) for k in share[0]} for share in shares]
    assert len(batches) == 5 and sum(b["weights"].sum() for b in batches) == TARGETS
    for before, after in itertools.pairwise(batches):
        goes_on = after["weights"][:, 0] > 0
        np.testing.assert_array_equal(after["tokens"][goes_on, 0], before["targets"][goes_on, -1])
    first = np.concatenate([b["tokens"][:1] for b in batches])
    np.testing.assert_array_equal(first, np.concatenate([b["tokens"] for b in loader.once(1, limit=5)]))


def test_only_a_model_that_carries_its_state_is_judged_so():
    llama = Llama(vocab_size=257, num_layers=1, embed_dim=16, num_heads=2)
    assert evaluator(MODELS["lstm"], Causal(), "carried").empty is not None
    for model, learner in ((llama, "carried"), (MODELS["lstm"], "gradient")):
        assert evaluator(model, Causal(), learner).empty is None


@pytest.mark.exhaustive
def test_the_benchmark_of_smaller_models_judges_a_run_as_the_run_did(recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace('"num_heads": 4, "mlp_dim": 64', '"tied": True'))
    train = ["train", f"--config={recipe}:lstm", f"--workdir={tmp_path / 'run'}", "--config.train.duration=2 steps"]
    carried = ["--config.train.learner=carried", "--config.data.packing=contiguous"]
    assert main([*train, *carried]) == 0
    last = open_run(tmp_path / "run").metrics.iloc[-1]
    found = measured(str(tmp_path / "run"), "", 8, None).bits
    assert found.value == pytest.approx(last["bits_per_byte"], rel=1e-5)
