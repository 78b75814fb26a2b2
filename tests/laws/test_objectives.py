"""What holds for every objective of `OBJECTIVES`, on a tiny model that fits it; and the formulas of single ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.adapt.headed import Headed
from llm_jax.core.table import lookup
from llm_jax.models.decoder.gpt2 import GPT2
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.encoder.bert import Bert
from llm_jax.models.latent.gan import Gan
from llm_jax.models.latent.vae import Vae
from llm_jax.models.seq2seq.bart import Bart
from llm_jax.models.seq2seq.t5 import T5
from llm_jax.objectives import OBJECTIVES
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.taught.distill import Distill
from llm_jax.objectives.taught.soft import Soft

pytestmark = pytest.mark.rotates(6)
V, B, T = 40, 4, 12
SIZES = {"vocab_size": V, "num_layers": 1, "embed_dim": 16, "num_heads": 2, "mlp_dim": 24}
MODEL = Llama(**SIZES)
RNG = np.random.default_rng(0)
BATCH = {
    "tokens": RNG.integers(0, V, (B, T)).astype(np.int32),
    "targets": RNG.integers(0, V, (B, T)).astype(np.int32),
    "weights": (RNG.integers(0, 3, (B, T)) / 2).astype(np.float32),
    "label": (np.arange(B) % 2).astype(np.int32),
    "teacher_logits": RNG.normal(size=(B, T, V)).astype(np.float32),
    "teacher_tokens": np.argsort(RNG.random((B, T, V)))[..., :3].astype(np.int32),
    "teacher_log_probs": np.log(RNG.dirichlet(np.ones(4), (B, T))[..., :3]).astype(np.float32),
    "tags": RNG.integers(0, 3, (B, T)).astype(np.int32),
    "source_tokens": RNG.integers(0, V, (B, 7)).astype(np.int32),
    "source_segments": (np.arange(7) < np.array([[7], [4], [1], [6]])).astype(np.int32),
}
BATCH["spans"] = np.stack([np.argmax(BATCH["weights"] > 0, axis=1), np.argmax(BATCH["weights"], axis=1)], axis=1)
for name in ("tokens", "targets", "weights"):
    BATCH[f"rejected_{name}"] = np.ascontiguousarray(BATCH[name][:, ::-1])
LABELS = ("a", "b", "c")
ENCODER, PAIRS = Bert(max_positions=T, **SIZES), T5(gated=True, tied=False, **SIZES)
FIT = {  # the model that an objective needs, where it is no llama
    "classification": Headed(MODEL, LABELS),
    "regression": Headed(ENCODER, (), "mean"),
    "spans": Headed(ENCODER, ("start", "end"), "tokens"),
    "tagging": Headed(ENCODER, LABELS, "tokens"),
    "denoising": Bart(max_positions=T, **SIZES),
    "several": PAIRS,
    "seq2seq": PAIRS,
    "span": PAIRS,
    "ul2": PAIRS,
    "masked": ENCODER,
    "adversarial": Gan(max_positions=T, latent_dim=3, **SIZES),
    "elbo": Vae(latent_dim=3, **SIZES),
}
VARIANTS = {  # options that change what is computed; every member has at least the empty line
    "adversarial": [{}, {"smoothing": 0.1}],
    "distill": [{}, {"temperature": 3.0, "alpha": 1.0}],
    "soft": [{}, {"alpha": 1.0}],
    "classification": [{}, {"label_smoothing": 0.1, "class_weights": [0.5, 2.0, 1.0]}],
    "dpo": [{}, {"beta": 0.3, "label_smoothing": 0.1}],
    "ipo": [{"beta": 2.0}],
    "elbo": [{}, {"free_bits": 0.2, "beta": 0.5}],
    "masked": [{}, {"sentence_order": 0.5, "label_smoothing": 0.1}],
    "prefix": [{}, {"label_smoothing": 0.2}],
    "several": [{"tasks": ({"name": "span", "weight": 0.75}, {"name": "prefix", "weight": 0.25})}],
    "span": [{}, {"z_loss": 0.1, "label_smoothing": 0.2}],
    "causal": [{}, {"z_loss": 0.1, "label_smoothing": 0.2}, {"cross_entropy": "chunked", "label_smoothing": 0.2}],
}
GUESSING = {  # nats, where it is not log V
    "adversarial": 3 * math.log(2),  # real, fake, and the fake again
    "classification": math.log(3),
    "grpo": 0.0,  # of texts without rewards; others in test_grpo.py
    "dr_grpo": 0.0,
    "dpo": math.log(2),
    "ipo": 1 / 4**2,
    "orpo": math.log(V) + 0.1 * math.log(2),
    "simpo": math.log1p(math.e),
    "spans": float(np.log((BATCH["weights"] > 0).sum(1)).mean()),  # of the tokens that count
    "regression": 0.5,  # of labels 0 and 1, of which rows weigh about the same
    "tagging": math.log(3),
    **dict.fromkeys(("seq2seq", "several", "span", "ul2"), math.log(V) + 0.5),  # T5's first logits have variance 1
}
KINDS = ("labelled", "preference", "reinforced")  # of objectives that predict no token of a text alone
LABELLED = {name for name, where in OBJECTIVES.items() if any(f".{kind}." in where for kind in KINDS)}
CASES = [(name, i) for name in OBJECTIVES for i in range(len(VARIANTS.get(name, [{}])))]
UNLABELLED = pytest.mark.parametrize("case", [c for c in CASES if c[0] not in LABELLED], ids="{0[0]}-{0[1]}".format)


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0))


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    return request.param


@pytest.fixture
def learn(case):
    """Batch -> ((total, (loss, stats)), gradient of the total by the parameters), compiled."""
    name, i = case
    objective = lookup(OBJECTIVES, name, "objective.name")(**VARIANTS.get(name, [{}])[i])
    model = FIT.get(name, MODEL)
    params = model.init(jax.random.key(0))

    def total(p, batch):
        loss, stats = objective(model, p, batch, None)
        return loss.total, (loss, stats)

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))
    return lambda batch: compiled(params, batch)


def leaves_close(a, b, rtol=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(1.0, float(np.abs(y).max())))


def test_a_target_of_zero_weight_changes_nothing_at_all(learn):
    other = {
        name: np.where(BATCH["weights"] == 0, (BATCH[name] + 1) % size, BATCH[name])
        for name, size in (("targets", V), ("tags", 3))
    }
    assert (other["targets"] != BATCH["targets"]).any()
    first, second = learn(BATCH), learn(BATCH | other)
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_batch_of_zero_weight_has_zero_gradient(learn):
    (total, (loss, _)), gradient = learn(BATCH | {"weights": np.zeros((B, T), np.float32)})
    assert total == 0 and loss.weight == 0 and loss.value == 0
    assert all(not np.any(g) for g in jax.tree.leaves(gradient))


def test_halves_add_up_to_the_whole(learn):
    whole = learn(BATCH)
    halves = [learn({k: v[rows] for k, v in BATCH.items()}) for rows in (slice(0, 1), slice(1, B))]
    leaves_close(jax.tree.map(jnp.add, *halves), whole, rtol=2e-6)


def test_it_is_finite_at_the_beginning_and_near_what_guessing_gives(learn, case):
    (_, (loss, stats)), gradient = learn(BATCH)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, stats, gradient)))
    assert abs(float(stats["loss"].value) - GUESSING.get(case[0], math.log(V))) < 0.2


def test_weights_scale_the_sums_and_not_the_mean(learn):
    (_, (loss, _)), gradient = learn(BATCH)
    (_, (heavy, _)), steep = learn(BATCH | {"weights": 2 * BATCH["weights"]})
    leaves_close(heavy.value, loss.value)
    leaves_close(steep, jax.tree.map(lambda g: 2 * g, gradient), rtol=5e-6)


def test_int64_numpy_is_legal(learn):
    wide = {k: v.astype(np.int64) if v.dtype == np.int32 else v.astype(np.float64) for k, v in BATCH.items()}
    leaves_close(learn(wide), learn(BATCH))


@UNLABELLED
def test_tokens_alone_are_legal_and_predict_the_next_one(learn):
    tokens = BATCH["tokens"]
    spelled = {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, axis=1),
        "weights": np.tile((np.arange(T) < T - 1).astype(np.float32), (B, 1)),
    }
    leaves_close(learn({"tokens": tokens}), learn(spelled))
    assert learn({"tokens": tokens})[0][1][0].weight == B * (T - 1)


@UNLABELLED
def test_no_text_predicts_the_beginning_of_the_next(learn):
    segments = np.repeat([[1, 2, 0]], 4, axis=1).repeat(B, axis=0).astype(np.int32)
    inside = np.tile([1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0], (B, 1)).astype(np.float32)
    tokens = {"tokens": BATCH["tokens"], "segments": segments}
    spelled = tokens | {"targets": np.roll(BATCH["tokens"], -1, axis=1), "weights": inside}
    leaves_close(learn(tokens), learn(spelled))


def test_padding_has_no_weight_when_weights_are_not_given(learn):
    segments = np.ones((B, T), np.int32)
    segments[:, T - 3 :] = 0
    batch = {"tokens": BATCH["tokens"], "targets": BATCH["targets"], "segments": segments}
    labels = {name: BATCH[name] for name in BATCH if name in ("label", "tags", "spans") or name.startswith("rejected")}
    changed = {
        name: np.where(segments == 0, (values + 7) % V, values)
        for name, values in {"targets": batch["targets"], "tags": BATCH["tags"]}.items()
    }
    leaves_close(learn(labels | batch), learn(labels | batch | changed))


def numpy_loss(logits, targets, weights, z_loss, smoothing):
    """Szegedy et al. 2016, §7 and Chowdhery et al. 2022, §5, spelled out."""
    logits = np.asarray(logits, np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    log_p = logits - log_z[..., None]
    wanted = (1 - smoothing) * np.eye(V)[targets] + smoothing / V
    return ((-(wanted * log_p).sum(-1) + z_loss * log_z**2) * weights).sum() / weights.sum()


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("kernel", ["plain", "chunked"])
def test_causal_is_the_formula(z_loss, smoothing, kernel, params):
    objective = Causal(z_loss=z_loss, label_smoothing=smoothing, cross_entropy=kernel)
    loss, _ = jax.jit(lambda p, b: objective(MODEL, p, b, None))(params, BATCH)
    logits = MODEL.apply(params, BATCH).logits
    wanted = numpy_loss(logits, BATCH["targets"], BATCH["weights"], z_loss, smoothing)
    np.testing.assert_allclose(loss.value, wanted, rtol=1e-5)


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.3), (4.0, 1.0)])
def test_distill_is_the_formula(temperature, alpha, params):
    """Hinton et al. 2015, section 2, with the divergence that a student equal to its teacher has none of."""
    run = jax.jit(lambda p, b: Distill(temperature=temperature, alpha=alpha)(MODEL, p, b, None))
    loss, stats = run(params, BATCH)
    student = np.asarray(MODEL.apply(params, BATCH).logits, np.float64)
    p, q = (np.exp(x / temperature) for x in (BATCH["teacher_logits"].astype(np.float64), student))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    weights = BATCH["weights"]
    apart = ((p * np.log(p / q)).sum(-1) * weights).sum() / weights.sum()
    plain = numpy_loss(student, BATCH["targets"], weights, 0.0, 0.0)
    np.testing.assert_allclose(loss.value, alpha * temperature**2 * apart + (1 - alpha) * plain, rtol=1e-5)
    np.testing.assert_allclose([stats["loss"].value, stats["distill"].value], [plain, apart], rtol=1e-5)
    same = run(params, BATCH | {"teacher_logits": student.astype(np.float32) + 7})[1]
    assert abs(float(same["distill"].value)) < 1e-6


def test_soft_targets_of_all_tokens_but_one_are_the_whole_teacher(params):
    order = np.argsort(RNG.random((B, T, V)))[..., : V - 1].astype(np.int32)
    told = np.take_along_axis(np.asarray(jax.nn.log_softmax(BATCH["teacher_logits"])), order, -1)
    few = BATCH | {"teacher_tokens": order, "teacher_log_probs": told}
    found, wanted = (
        jax.jit(lambda p, b, o=objective: o(MODEL, p, b, None))(params, few)
        for objective in (Soft(alpha=0.3), Distill(temperature=1.0, alpha=0.3))
    )
    np.testing.assert_allclose(found[0].value, wanted[0].value, rtol=1e-5)
    np.testing.assert_allclose(found[1]["distill"].value, wanted[1]["distill"].value, rtol=1e-5)


def test_soft_targets_are_the_formula_where_there_are_any_and_the_others_one_outcome(params):
    some = np.arange(T) % 3 > 0
    ids = np.where(some[:, None], BATCH["teacher_tokens"], -1)
    ids[..., 2] = -1
    loss, stats = jax.jit(lambda p, b: Soft(alpha=0.3)(MODEL, p, b, None))(params, BATCH | {"teacher_tokens": ids})
    student = np.asarray(jax.nn.softmax(MODEL.apply(params, BATCH).logits), np.float64)
    p = np.exp(BATCH["teacher_log_probs"][..., :2].astype(np.float64))
    q = np.take_along_axis(student, BATCH["teacher_tokens"][..., :2], -1)
    p, q = (np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in (p, q))
    apart, told = (p * np.log(p / q)).sum(-1), BATCH["weights"] * some
    nll = -np.log(np.take_along_axis(student, BATCH["targets"][..., None], -1)[..., 0])
    wanted = (nll * (BATCH["weights"] - 0.3 * told) + 0.3 * apart * told).sum() / BATCH["weights"].sum()
    np.testing.assert_allclose(loss.value, wanted, rtol=1e-5)
    np.testing.assert_allclose(stats["distill"].value, (apart * told).sum() / told.sum(), rtol=1e-5)


@pytest.mark.oracle
def test_distill_is_torchs_divergence(params):
    import torch
    from torch.nn import functional

    logits = torch.tensor(np.asarray(MODEL.apply(params, BATCH).logits))
    each = functional.kl_div(
        functional.log_softmax(logits / 2, -1),
        functional.softmax(torch.tensor(BATCH["teacher_logits"]) / 2, -1),
        reduction="none",
    )
    wanted = 4 * (each.sum(-1).numpy() * BATCH["weights"]).sum() / BATCH["weights"].sum()
    loss, _ = Distill(temperature=2.0, alpha=1.0)(MODEL, params, BATCH, None)
    np.testing.assert_allclose(loss.value, wanted, rtol=1e-5)


def test_what_is_logged_as_loss_is_the_plain_likelihood(params):
    _, stats = Causal(z_loss=0.3)(MODEL, params, BATCH, None)
    wanted = numpy_loss(MODEL.apply(params, BATCH).logits, BATCH["targets"], BATCH["weights"], 0.0, 0.0)
    np.testing.assert_allclose(stats["loss"].value, wanted, rtol=1e-5)


def test_dropout_follows_the_key_and_is_absent_without_one():
    model = GPT2(vocab_size=V, max_positions=T, num_layers=1, embed_dim=16, num_heads=2, dropout=0.5)
    params = model.init(jax.random.key(0))
    run = jax.jit(lambda key: Causal()(model, params, BATCH, key)[0].value)
    values = [float(run(key)) for key in (None, None, jax.random.key(1), jax.random.key(1), jax.random.key(2))]
    assert values[0] == values[1] and values[2] == values[3] and len(set(values)) == 3
