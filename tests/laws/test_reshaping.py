"""What holds for every objective that reshapes its batches: one shape, one answer whoever asks, no token lost."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from llm_jax.core.table import UserError, lookup
from llm_jax.data.corrupt import spans
from llm_jax.models.decoder.llama import Llama
from llm_jax.objectives import OBJECTIVES
from llm_jax.objectives.several import Several
from llm_jax.objectives.span import Span
from llm_jax.run.build import check
from llm_jax.run.config import resolve
from llm_jax.text import tokenizers
from tests.laws.bag import Bag

WORDS = tokenizers.build("bytes")
V, T, B = WORDS.vocab_size, 64, 8
CASES = {
    "span": {},
    "ul2": {},
    "denoising": {},
    "prefix": {},
    "prefix-bidirectional": {"bidirectional": True},
    "prefix-encoded": {"encoded": True},
    "several": {"tasks": ({"name": "span"}, {"name": "denoising", "weight": 0.5}, {"name": "span", "sentinels": 30})},
}
TEXT = "One sentence stands here. Another follows it. " * 40


def rows(numbers, size=T):
    """Packed rows whose targets are the text from a place that the number gives; `size` of them have weight."""
    ids = WORDS.encode(TEXT)
    targets = np.stack([ids[n % 500 : n % 500 + T] for n in numbers]).astype(np.int32)
    weights = np.tile((np.arange(T) < size).astype(np.float32), (len(numbers), 1))
    domain = np.zeros(len(numbers), np.int32)
    return {"tokens": np.roll(targets, 1, 1), "targets": targets, "weights": weights, "domain": domain}


@pytest.fixture(params=CASES)
def objective(request):
    return lookup(OBJECTIVES, request.param.split("-")[0], "objective.name")(**CASES[request.param])


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_a_batch_is_a_function_of_seed_and_number_on_any_number_of_hosts(objective):
    numbers = np.arange(10**12, 10**12 + B)
    reshape = objective.transform(WORDS, T, 3)
    whole = reshape(rows(numbers), numbers)
    parts = [reshape(rows(n), n) for n in np.split(numbers, 4)]
    assert same({k: np.concatenate([part[k] for part in parts]) for k in whole}, whole)
    assert not same(objective.transform(WORDS, T, 4)(rows(numbers), numbers), whole)
    assert not same(reshape(rows(numbers), numbers + B), whole)


def test_shapes_do_not_depend_on_the_rows_and_rows_without_weight_stay_without(objective):
    numbers = np.arange(B)
    reshape = objective.transform(WORDS, T, 0)
    whole = reshape(rows(numbers), numbers)
    for size in (0, 1, 2, 40):
        short = reshape(rows(numbers, size), numbers)
        assert {k: (v.shape, v.dtype) for k, v in short.items()} == {k: (v.shape, v.dtype) for k, v in whole.items()}
        weights = [v for k, v in short.items() if k.split("/")[-1] == "weights"]
        assert all((w.any() == (size > 0)) or size == 1 for w in weights)
        if size == 0:
            assert not any(w.any() for w in weights)
            assert "source_tokens" not in short or not (short["targets"].any() or short["source_tokens"].any())


def test_every_id_is_of_the_tokenizer_or_of_those_that_the_objective_adds(objective):
    numbers = np.arange(200)
    made = objective.transform(WORDS, T, 0)(rows(numbers), numbers)
    top = max(v.max() for k, v in made.items() if k.split("/")[-1] in ("tokens", "targets", "source_tokens"))
    extra = getattr(objective, "extra_tokens", 0)
    assert top == V + extra - 1 if extra and not isinstance(objective, Several) else top < V + extra


def test_the_decoder_reads_what_it_wrote_one_place_before(objective):
    made = objective.transform(WORDS, T, 0)(rows(np.arange(B)), np.arange(B))
    if "source_tokens" in made:
        np.testing.assert_array_equal(made["tokens"][:, 1:], made["targets"][:, :-1])


@pytest.mark.parametrize("name", ["span", "ul2"])
def test_source_and_target_of_a_batch_are_its_text(name):
    objective = lookup(OBJECTIVES, name, "objective.name")()
    numbers = np.arange(70)
    fields, end = rows(numbers), WORDS.eos_id
    made = objective.transform(WORDS, T, 0)(fields, numbers)
    modes = range(V, V + 3) if name == "ul2" else range(0)
    for i in numbers:
        source = made["source_tokens"][i][made["source_segments"][i] > 0].tolist()
        target = made["targets"][i][made["weights"][i] > 0].tolist()
        assert source.pop() == target.pop() == end
        assert not modes or source.pop(0) in modes
        sentinels = range(V + len(modes), V + objective.extra_tokens)
        assert spans.restore(source, target, sentinels) == fields["targets"][i].tolist()


@pytest.mark.parametrize("name", ["span", "ul2", "denoising"])
def test_a_decoder_is_refused_and_told_what_fits(name):
    model = Llama(vocab_size=40, num_layers=1, embed_dim=8, num_heads=2, mlp_dim=8)
    objective = lookup(OBJECTIVES, name, "objective.name")()
    with pytest.raises(UserError, match=f"{name}.*t5.*llama.*causal"):
        Several(({"name": "causal"}, {"name": name})).fits(model)
    with pytest.raises(UserError, match=f"{name}.*t5.*llama.*causal"):
        objective(model, model.init(jax.random.key(0)), {"tokens": np.zeros((1, 4), np.int32)}, None)


def test_too_few_sentinels_are_refused_with_the_number_that_is_enough():
    with pytest.raises(UserError, match="at least 3"):
        Span(sentinels=2).transform(WORDS, T, 0)
    Span(sentinels=3).transform(WORDS, T, 0)


def test_several_tasks_have_ids_of_their_own_and_a_loss_weighted_by_target():
    tasks = ({"name": "span", "sentinels": 9}, {"name": "denoising", "weight": 0.25})
    objective, numbers = Several(tasks), np.arange(B)
    made = objective.transform(WORDS, T, 0)(rows(numbers), numbers)
    assert objective.extra_tokens == 10 and (made["1/source_tokens"] == V + 9).any()
    span = Span(sentinels=9)
    alone = span.transform(WORDS, T, 0)(rows(numbers), numbers)
    assert all(np.array_equal(made[k], alone[k]) for k in alone)
    model = Bag(V + 10, 6)
    params = model.init(jax.random.key(0))
    loss, stats = objective(model, params, made, None)
    first = span(model, params, alone, None)[0]
    second = Span()(model, params, {k[2:]: v for k, v in made.items() if k.startswith("1/")}, None)[0]
    np.testing.assert_allclose(loss.total, first.total + 0.25 * second.total, rtol=1e-6)
    np.testing.assert_allclose(loss.weight, first.weight + 0.25 * second.weight, rtol=1e-6)
    assert stats["loss"] == first and set(stats) == {"loss", "span/loss", "denoising/loss"}


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ((), "tasks is empty"),
        (({"name": "spam"},), "span"),
        (({"name": "span", "weight": 0},), "weight=0"),
        (({"name": "span", "rates": 0.1},), "rate"),
        (({"name": "several"},), "into this one"),
        (("span",), "must be a section"),
    ],
)
def test_a_task_that_is_wrong_is_named(tasks, told):
    with pytest.raises(UserError, match=told):
        Several(tasks)


def test_a_tokenizer_without_an_end_ends_nothing():
    made = Span().transform(replace(WORDS, eos_id=None, pad_id=None), T, 0)(rows(np.arange(2)), np.arange(2))
    assert made["weights"].all() and made["targets"].shape[1] == 13


def test_a_run_whose_model_does_not_fit_is_refused_before_anything_is_read():
    recipe = {
        "model": {"name": "llama", "num_layers": 1, "embed_dim": 16, "num_heads": 2},
        "objective": {"name": "prefix", "encoded": True},
        "data": {"source": "text", "options": {"files": "none"}, "tokenizer": {"name": "bytes"}},
    }
    with pytest.raises(UserError, match=r"name='prefix' needs a model that writes"):
        check(resolve(recipe))
