"""Preferences beside TRL: its losses and torch's gradients of them, on the same logits of two answers a row."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest

from llm_jax.core.types import Outputs
from llm_jax.objectives.preference.alone import Orpo, Simpo
from llm_jax.objectives.preference.referred import Dpo, Ipo

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
B, T, V = 5, 9, 17
PROMPT = np.array([1, 4, 2, 3, 6])
ENDS = np.array([[2, 8, 9, 4, 7], [5, 6, 9, 9, 7]])  # of chosen and rejected; answers of 1 to 7 tokens
RANDOM = np.random.default_rng(3)
IDS = RANDOM.integers(0, V, (2, B, T))
LOGITS = 2 * RANDOM.normal(size=(2 * B, T, V)).astype(np.float32)
COLUMN = np.arange(T)
ANSWERED = (PROMPT[:, None] <= COLUMN) & (ENDS[..., None] > COLUMN)  # [2,B,T]
REFERENCE = RANDOM.normal(size=(2, B)).astype(np.float32) * 3 - 15


class Told:
    """A model whose parameters are what it says."""

    def apply(self, params, batch, *, key=None):
        return Outputs(params, lambda hidden: hidden)


def ours(objective, reference=False):
    """The loss, and its gradient by the logits; the last position of a row predicts nothing."""
    batch = {}
    for side, prefix in enumerate(("", "rejected_")):
        batch[f"{prefix}tokens"] = IDS[side].astype(np.int32)
        batch[f"{prefix}targets"] = np.roll(IDS[side], -1, 1).astype(np.int32)
        batch[f"{prefix}weights"] = np.pad(ANSWERED[side][:, 1:], ((0, 0), (0, 1))).astype(np.float32)
        if reference:
            batch[("reference_chosen", "reference_rejected")[side]] = REFERENCE[side]
    return jax.value_and_grad(lambda logits: objective(Told(), logits, batch, None)[0].value)(LOGITS)


def same(found, loss, logits):
    """Whether a loss of ours and its gradient are those of torch."""
    loss.backward()
    np.testing.assert_allclose(found[0], loss.item(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[1], logits.grad, rtol=1e-5, atol=1e-6)
    assert np.abs(found[1]).max() > 1e-3


def torch_batch():
    """ids and the answers' mask, [2B,T], chosen first; and logits with a gradient."""
    ids, told = torch.tensor(IDS.reshape(2 * B, T)), torch.tensor(ANSWERED.reshape(2 * B, T))
    return ids, told, torch.tensor(LOGITS, requires_grad=True)


@pytest.mark.parametrize(("kind", "objective"), [("sigmoid", Dpo(beta=0.3)), ("ipo", Ipo(beta=0.4))])
def test_dpo_and_ipo_are_trls(kind, objective):
    trainer = pytest.importorskip("trl.trainer.dpo_trainer")
    ids, told, logits = torch_batch()
    log_probs = torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0] * told[:, 1:]
    nothing = torch.zeros(2 * B, T - 1)
    said = SimpleNamespace(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    itself = MagicMock(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[kind], loss_weights=[1.0],
        beta=objective.beta, use_weighting=False, aux_loss_enabled=False, _tp_size=1, _total_train_tokens=0,
    )  # fmt: skip
    itself.accelerator.gather_for_metrics = itself.accelerator.gather = lambda x: x
    itself.accelerator.device = "cpu"
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": told.long(),
        "ref_chosen_logps": torch.tensor(REFERENCE[0]), "ref_rejected_logps": torch.tensor(REFERENCE[1]),
    }  # fmt: skip
    loss = trainer.DPOTrainer._compute_loss(itself, MagicMock(return_value=said), inputs, False)
    same(ours(objective, reference=True), loss, logits)


def cpo(log_probs, **settings):
    """TRL's loss of log p of answers [2B] by the settings of its CPO trainer."""
    trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer").CPOTrainer
    itself = SimpleNamespace(alpha=0.0, accelerator=SimpleNamespace(device="cpu"), **settings)
    return trainer.cpo_loss(itself, *log_probs.chunk(2))[0].mean()


def log_probs_of(logits, ids, told, *, average):
    trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer").CPOTrainer
    return trainer.get_batch_logps(logits, ids.masked_fill(~told, -100), average_log_prob=average)


def test_dpo_of_preferences_that_are_often_wrong_is_trls():
    ids, told, logits = torch_batch()
    gains = log_probs_of(logits, ids, told, average=False) - torch.tensor(REFERENCE.reshape(-1))
    loss = cpo(gains, beta=0.3, loss_type="sigmoid", label_smoothing=0.2)
    same(ours(Dpo(beta=0.3, label_smoothing=0.2), reference=True), loss, logits)


def test_simpo_is_trls():
    ids, told, logits = torch_batch()
    means = log_probs_of(logits, ids, told, average=True)
    loss = cpo(means, beta=2.5, loss_type="simpo", label_smoothing=0.0, simpo_gamma=0.7)
    same(ours(Simpo(beta=2.5, gamma=0.7)), loss, logits)


def test_orpo_has_trls_odds_ratio_beside_the_mean_loss_of_chosen_answers():
    """TRL's other term is of the prompt too, and a mean over all tokens; the paper's (eq. 6) is of the answer."""
    trainer = pytest.importorskip("trl.experimental.orpo.orpo_trainer").ORPOTrainer
    ids, told, logits = torch_batch()
    means = log_probs_of(logits, ids, told, average=True)
    itself = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    ratio = trainer.odds_ratio_loss(itself, *means.chunk(2))[0]
    same(ours(Orpo(beta=0.3)), (-means.chunk(2)[0] - ratio).mean(), logits)
