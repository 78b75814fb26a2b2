"""Group-relative policy optimisation: the published equation in another framework, and what holds of any group."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.models.decoder.llama import Llama
from llm_jax.objectives.reinforced.grpo import EPSILON, DrGrpo, Grpo, gains

MODEL = Llama(vocab_size=30, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=16)
PARAMS = jax.tree.map(lambda x: 3 * x, MODEL.init(jax.random.key(0)))
RANDOM = np.random.default_rng(0)
B, T = 4, 7
REWARDS = np.array([[1.0, 0.0], [0.0, 3.0]])
LENGTHS = np.array([5, 2, 3, 4])
WEIGHTS = ((np.arange(T) >= 1) & (np.arange(T) < 1 + LENGTHS[:, None])).astype(np.float32)
TOKENS = RANDOM.integers(0, 30, (B, T + 1)).astype(np.int32)
BATCH = {"tokens": TOKENS[:, :-1], "targets": TOKENS[:, 1:], "weights": WEIGHTS}


NOTHING = {name: np.zeros(B, np.float32) for name in ("advantages", "rewards", "spreads")}


@partial(jax.jit, static_argnums=0)
def learnt(objective, batch):
    """The gradient of a batch, and its statistics."""

    def loss(params):
        found, stats = objective(MODEL, params, batch, None)
        return found.value, {name: stat.value for name, stat in stats.items()}

    return jax.grad(loss, has_aux=True)(PARAMS)


@pytest.fixture(scope="module")
def own():
    """log p of the targets by the model itself."""
    return np.asarray(Grpo().known(MODEL, PARAMS, BATCH))


def largest(tree):
    return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


def apart(a, b):
    return largest(jax.tree.map(lambda x, y: x - y, a, b))


@pytest.mark.oracle
@pytest.mark.parametrize("objective", [Grpo(beta=0.3, clip_high=0.4), DrGrpo(beta=0.3)], ids=["grpo", "dr_grpo"])
def test_the_loss_and_its_gradient_are_those_of_the_published_equation(objective):
    import torch

    rewards = torch.tensor(REWARDS)
    advantages = rewards - rewards.mean(1, keepdim=True)
    if type(objective) is Grpo:
        advantages = advantages / (rewards.std(1, keepdim=True) + EPSILON)
    np.testing.assert_allclose(objective.advantages(REWARDS), advantages.numpy(), rtol=1e-6)
    advantages = advantages.reshape(-1)
    with jax.enable_x64(True):
        now, behaviour, reference = (-RANDOM.exponential(0.7, (B, T)) for _ in range(3))
        high = objective.clip_high or objective.clip

        def ours(log_prob):
            told = gains(
                log_prob, behaviour, reference, grouped, clip=objective.clip, clip_high=high, beta=objective.beta
            )
            return -(told.gain * objective.share(jnp.asarray(WEIGHTS, jnp.float64))).sum() / B

        grouped = np.array([float(each) for each in advantages])
        value, slope = jax.value_and_grad(ours)(jnp.asarray(now))
        value, slope = float(value), np.asarray(slope)
    x, old, ref = (torch.tensor(a, dtype=torch.float64) for a in (now, behaviour, reference))
    total = torch.zeros((), dtype=torch.float64)
    x.requires_grad_()
    for i in range(B):
        advantage, text = advantages[i], 0.0
        for t in range(1, 1 + int(LENGTHS[i])):
            ratio = torch.exp(x[i, t] - old[i, t])
            cut = torch.clamp(ratio, 1 - objective.clip, 1 + high)
            quotient = torch.exp(ref[i, t] - x[i, t])
            text = text + torch.minimum(ratio * advantage, cut * advantage)
            text = text - objective.beta * (quotient - torch.log(quotient) - 1)
        total = total - text / (int(LENGTHS[i]) if type(objective) is Grpo else objective.tokens) / B
    total.backward()
    assert value == pytest.approx(total.item(), rel=1e-6)
    np.testing.assert_allclose(slope, x.grad.numpy(), rtol=1e-6, atol=1e-8)


def test_the_first_update_is_reinforce_with_the_group_as_baseline(own):
    @jax.jit
    @jax.grad
    def reinforce(params, counted):
        log_p = jax.nn.log_softmax(MODEL.apply(params, {"tokens": BATCH["tokens"]}).logits)
        return -(jnp.take_along_axis(log_p, BATCH["targets"][..., None], -1)[..., 0] * counted).sum() / B

    given = BATCH | NOTHING | {"behaviour": own, "reference": own}
    for objective, parts in ((Grpo(), LENGTHS[:, None]), (DrGrpo(), DrGrpo().tokens)):
        advantages = objective.advantages(REWARDS).reshape(-1)
        wanted = reinforce(PARAMS, WEIGHTS / parts * advantages[:, None])
        gradient, stats = learnt(objective, given | {"advantages": advantages})
        assert apart(gradient, wanted) < 1e-5 * largest(wanted) and largest(wanted) > 0
        assert stats["clipped"] == 0 and abs(stats["kl"]) < 1e-9 and stats["length"] == LENGTHS.mean()
    gradient, _ = learnt(DrGrpo(), BATCH | {"advantages": advantages})  # nothing said: it is the model's own
    assert apart(gradient, wanted) < 1e-5 * largest(wanted)


def test_equal_rewards_teach_nothing(own):
    equal = {"advantages": Grpo().advantages(np.full((2, 2), 0.7)).reshape(-1)}
    gradient, stats = learnt(Grpo(), BATCH | NOTHING | equal | {"behaviour": own - 0.1, "reference": own})
    assert largest(gradient) == 0 and stats["silent"] == 1


def test_where_all_tokens_are_clipped_nothing_is_learnt(own):
    for sign in (1, -1):  # already likelier, and unlikelier, than ε allows
        given = BATCH | NOTHING | {"behaviour": own - sign, "reference": own}
        gradient, stats = learnt(Grpo(), given | {"advantages": np.full(B, sign, np.float32)})
        assert largest(gradient) == 0 and stats["clipped"] == 1
        gradient, stats = learnt(Grpo(), given | {"advantages": np.full(B, -sign, np.float32)})
        assert largest(gradient) > 0 and stats["clipped"] == 0


def test_the_divergence_draws_towards_the_reference(own):
    reference = own + np.where(np.arange(T) % 2, 0.5, -0.5).astype(np.float32)

    def gained(log_prob):
        return gains(log_prob, log_prob, reference, np.zeros(B), clip=0.2, clip_high=0.2, beta=2.0).gain.sum()

    slope = jax.grad(gained)(own)
    np.testing.assert_allclose(slope, 2 * (np.exp(reference - own) - 1), rtol=1e-4)


def test_probabilities_are_those_of_the_temperature_that_texts_are_drawn_by():
    log_p = jax.nn.log_softmax(MODEL.apply(PARAMS, {"tokens": BATCH["tokens"]}).logits / 0.5)
    wanted = jnp.take_along_axis(log_p, BATCH["targets"][..., None], -1)[..., 0]
    np.testing.assert_allclose(Grpo(temperature=0.5).known(MODEL, PARAMS, BATCH), wanted, rtol=1e-5, atol=1e-5)


def test_a_group_of_one_is_refused():
    with pytest.raises(UserError, match=r"objective\.group=1"):
        Grpo(group=1)
