"""The pseudo-likelihood of a text is what hiding its tokens one by one gives."""

import math

import jax
import numpy as np
import pytest

from llm_jax.cli import main
from llm_jax.core.table import UserError
from llm_jax.evals.perplexity import perplexity
from llm_jax.evals.pseudo import row_sums
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.encoder.bert import Bert

MASK = 19
MODEL = Bert(vocab_size=20, max_positions=16, num_layers=1, embed_dim=16, num_heads=2, pooler=False)
IDS = np.random.default_rng(0).integers(0, 19, (2, 7)).astype(np.int32)
BATCH = {
    "tokens": np.roll(IDS, 1), "targets": IDS, "bytes": np.full((2, 7), 3, np.int32),
    "segments": np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0]], np.int32),
    "weights": np.array([[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0, 0]], np.float32),
}  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: x + 0.3 * np.sin(np.arange(x.size)).reshape(x.shape), MODEL.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def by_hand(params):
    """Each document alone, each of its tokens hidden in a text of its own."""
    scores = jax.jit(lambda tokens: jax.nn.log_softmax(MODEL.apply(params, {"tokens": tokens}).logits))
    found = []
    for documents in ([IDS[0, :3], IDS[0, 3:6]], [IDS[1, :5]]):
        total = 0.0
        for text in documents:
            rows = np.where(np.eye(len(text), dtype=bool), MASK, text)
            total -= np.asarray(scores(rows))[np.arange(len(text)), np.arange(len(text)), text].sum()
        found.append(total)
    return np.array(found)


@pytest.mark.parametrize("group", [3, 8])
def test_each_token_is_told_from_all_others_of_its_document_alone(params, by_hand, group):
    found = np.asarray(jax.jit(lambda p, b: row_sums(MODEL, p, b, MASK, group))(params, BATCH))
    np.testing.assert_allclose(found, np.stack([by_hand, [6, 5], [18, 15]], axis=1), rtol=1e-5)


def test_it_is_reported_in_bits_a_byte_with_its_error(params, by_hand):
    found = perplexity(jax.jit(lambda b: row_sums(MODEL, params, b, MASK)), [BATCH])["bits_per_byte"]
    assert found.value == pytest.approx(by_hand.sum() / math.log(2) / 33, rel=1e-5)
    assert found.count == 33 and found.error > 0


def test_a_decoder_has_none():
    with pytest.raises(UserError, match=r"'llama' is no encoder"):
        row_sums(Llama(vocab_size=20, num_layers=1, embed_dim=16, num_heads=2), {}, BATCH, MASK)


@pytest.mark.exhaustive
def test_the_verb_reads_whole_texts_and_says_what_it_counted(recipe, tmp_path, capsys):
    small = ["--config.train.duration=1 steps", "--config.eval.every=0", "--config.model.num_layers=1"]
    small += ["--config.model.name=bert", "--config.objective.name=masked", "--config.data.seq_len=16"]
    assert main(["train", f"--config={recipe}", f"--workdir={tmp_path / 'run'}", *small]) == 0
    counts = []
    for flags in ([], ["--pseudo"]):
        capsys.readouterr()
        assert main(["evaluate", f"--workdir={tmp_path / 'run'}", "--batches=1", *flags]) == 0
        counts.append(int(capsys.readouterr().out.split("over ")[1].split()[0].replace(",", "")))
    assert counts[1] == 8 * 16 and counts[0] < 0.3 * counts[1]  # all tokens of the batch, or those that were hidden
