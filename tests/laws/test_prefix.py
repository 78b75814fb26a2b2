"""Decoders that read the prefix of a text in both directions: who sees whom, cached and split, and beside torch."""

from functools import partial

import jax
import numpy as np
import pytest

from benchmarks.foreign import save_random
from llm_jax import open_run
from llm_jax.adapt.adapted import adapted, merged
from llm_jax.adapt.lora import Lora
from llm_jax.adapt.pack import Packing
from llm_jax.adapt.packed import packed
from llm_jax.adapt.prefixed import Prefixed
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.decode.beam import Beams, search
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate
from llm_jax.decode.score import score
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.prefix import Prefix
from llm_jax.objectives.several import Several
from llm_jax.text import tokenizers
from tests.laws import plans
from tests.laws.plans import TOLERANCE, layout

T = 12
rng = np.random.default_rng(8)
TEXT = rng.integers(0, 40, (2, T)).astype(np.int32)
SEGMENTS = np.repeat([[1, 1, 2], [1, 1, 1]], 4, axis=1).astype(np.int32)
SIZES = np.array([10, 7])  # tokens of a row before its cut: of two texts, the cut is in the second
EARLY = np.arange(T) < SIZES[:, None]
ALONG = np.arange(T)


@pytest.fixture(scope="module")
def llama():
    return plans.alone("llama")[:2]


@pytest.mark.rotates(14)
@pytest.mark.of("attending")
def test_tokens_of_a_prefix_see_each_other_and_all_else_sees_what_is_before(model, params):
    """One token is changed at a time; a prefix of nothing is causal."""
    for row in range(2):
        tokens = np.concatenate([TEXT[row : row + 1], np.tile(TEXT[row], (T, 1))])
        tokens[1 + ALONG, ALONG] = (TEXT[row] + 1) % 40
        batch = {"tokens": tokens, "segments": np.tile(SEGMENTS[row], (T + 1, 1))}
        run = jax.jit(lambda p, b: model.apply(p, b).hidden)
        for early in (EARLY[row], np.zeros(T, bool)):
            hidden = np.asarray(run(params, batch | {"prefix": np.tile(early, (T + 1, 1))}))
            seen = np.abs(hidden[1:] - hidden[0]).max(-1) > 2e-5  # [which was changed, which changed]
            same = SEGMENTS[row][:, None] == SEGMENTS[row]
            wanted = same & ((ALONG[:, None] <= ALONG) | (early & early[:, None]))
            np.testing.assert_array_equal(seen, wanted)


def test_without_a_prefix_the_loss_is_causal_to_the_bit(llama):
    model, params = llama
    batch = {"tokens": TEXT, "targets": np.roll(TEXT, -1, 1), "segments": SEGMENTS}

    def learn(objective, batch):
        step = jax.jit(jax.value_and_grad(lambda p: (loss := objective(model, p, batch, None)[0]).total / loss.weight))
        return step(params)

    causal, none, some = (
        learn(objective, batch | fields)
        for objective, fields in (
            (Causal(), {}),
            (Prefix(bidirectional=True), {"prefix": np.zeros((2, T), bool)}),
            (Prefix(bidirectional=True), {"prefix": EARLY}),
        )
    )
    jax.tree.map(np.testing.assert_array_equal, causal, none)
    assert abs(causal[0] - some[0]) > 1e-3


def test_the_cut_is_that_of_causal_reading_and_the_prefix_ends_where_the_first_target_is_predicted():
    words, numbers = tokenizers.build("bytes"), np.arange(40)
    targets = rng.integers(0, 200, (40, T)).astype(np.int32)
    segments = np.repeat([[1, 1, 2, 0]], 3, axis=1).repeat(40, axis=0)
    fields = {
        "tokens": np.roll(targets, 1, 1),
        "targets": targets,
        "segments": segments,
        "weights": (segments > 0) & (ALONG != 5),
    }
    both, causal = (Prefix(bidirectional=b).transform(words, T, 0)(fields, numbers) for b in (True, False))
    assert "prefix" not in causal
    np.testing.assert_array_equal(both["weights"], causal["weights"])
    first = both["weights"].argmax(1)
    np.testing.assert_array_equal(both["prefix"], first[:, None] >= ALONG)
    assert set(first) == {1, 2, 3, 4, 6, 7, 8}  # each target but the first, and none that has no weight
    task = {"name": "prefix", "bidirectional": True}
    assert Several((task, {"name": "causal"})).bidirectional and not Several(({"name": "causal"}, task)).bidirectional


PROMPTS = [TEXT[0, :5].tolist(), TEXT[1, :9].tolist()]


def whole(model, params, prompts):
    """Logits after prompts read in both directions, padding behind them: what no cache computes."""
    tokens = np.zeros((len(prompts), 24), np.int32)
    real, early = np.zeros((2, len(prompts), 24), bool)
    for row, (given, more) in enumerate(prompts):
        tokens[row, : len(given) + len(more)] = [*given, *more]
        real[row, : len(given) + len(more)], early[row, : len(given)] = True, True
    batch = {"tokens": tokens, "segments": real.astype(np.int32), "prefix": early}
    return np.asarray(logits_of(model, params, batch))


@partial(jax.jit, static_argnums=0)
def logits_of(model, params, batch):
    return model.apply(params, batch).logits


@pytest.mark.rotates(14)
@pytest.mark.of("attending")
def test_a_prompt_that_is_cached_is_the_prefix_of_its_text(model, params):
    """Padded on the left, then tokens one by one and two by two."""
    more = rng.integers(0, 40, (2, 5)).astype(np.int32)
    wanted = whole(model, params, list(zip(PROMPTS, more.tolist(), strict=True)))
    tokens, segments = np.full((2, 9), 17, np.int32), np.zeros((2, 9), np.int32)
    for row, ids in enumerate(PROMPTS):
        tokens[row, 9 - len(ids) :], segments[row, 9 - len(ids) :] = ids, 1
    reader = Prefixed(model)

    def logits(function):
        def run(*arguments):
            out, cache = function(*arguments)
            return out.logits, cache

        return jax.jit(run)

    prefill, extend = logits(reader.prefill), logits(reader.extend)
    out, cache = prefill(params, {"tokens": tokens, "segments": segments}, reader.empty_cache(2, 16))
    found, start = [out], 0
    for size in (1, 2, 2):
        out, cache = extend(params, more[:, start : start + size], cache)
        found, start = [*found, out], start + size
    for row, n in enumerate(map(len, PROMPTS)):
        np.testing.assert_allclose(
            np.concatenate([part[row] for part in found])[9 - n :], wanted[row, : n + 5], rtol=1e-5, atol=5e-5
        )


def test_what_is_sampled_searched_and_scored_is_what_follows_a_prefix(llama):
    model, params = llama
    reader, texts = Prefixed(model), [[], []]
    for _ in range(6):
        logits = whole(model, params, list(zip(PROMPTS, texts, strict=True)))
        last = [len(a) + len(b) - 1 for a, b in zip(PROMPTS, texts, strict=True)]
        texts = [[*b, int(logits[i, n].argmax())] for i, (b, n) in enumerate(zip(texts, last, strict=True))]
    greedy = {"max_new_tokens": 6, "settings": Sampling(0.0)}
    assert generate(reader, params, PROMPTS, **greedy) == texts != generate(model, params, PROMPTS, **greedy)
    assert [found[0].ids for found in search(reader, params, PROMPTS, max_new_tokens=6, beams=Beams(1))] == texts
    logits = whole(model, params, list(zip(PROMPTS, texts, strict=True)))
    log_p = np.asarray(jax.nn.log_softmax(logits))
    wanted = [
        sum(log_p[i, len(given) - 1 + n, token] for n, token in enumerate(texts[i])) for i, given in enumerate(PROMPTS)
    ]
    found = score(reader, params, PROMPTS, texts)
    np.testing.assert_allclose(found.log_prob, wanted, rtol=1e-5)
    assert found.greedy.all() and not np.allclose(score(model, params, PROMPTS, texts).log_prob, wanted, rtol=1e-3)


@pytest.mark.exhaustive
def test_an_adapter_and_packed_kernels_leave_prompts_as_they_are_read(llama):
    model, params = llama
    greedy = {"max_new_tokens": 6, "settings": Sampling(0.0)}
    wanted = generate(Prefixed(model), params, PROMPTS, **greedy)
    tuned = adapted(Prefixed(model), Lora(2), ("attention/query$",))
    begun = tuned.attach(tuned.init(jax.random.key(0)), params)
    assert generate(*merged(tuned, begun), PROMPTS, **greedy) == wanted
    few = packed(Prefixed(model), Packing("int8", 8))
    stored = tree.unflatten(dict(pair for leaf in tree.flatten(params).items() for pair in few.pack(*leaf).items()))
    assert generate(few, stored, PROMPTS, **greedy) == wanted


@pytest.mark.parametrize("family", ["mamba2", "lstm", "ngram", "hmm", "bert", "t5", "bart", "vae", "gan"])
def test_what_cannot_see_ahead_is_refused_by_name(model, family):
    for read in (model, Prefixed(model)):
        with pytest.raises(UserError, match=f"bidirectional=True needs a decoder.*'{family}' is not.*encoded=True"):
            Prefix(bidirectional=True).fits(read)
    with pytest.raises(UserError, match="leave out one"):
        Prefix(encoded=True, bidirectional=True)


@pytest.mark.rotates(7)
@pytest.mark.of("attending")
def test_every_decoder_with_attention_fits(model):
    Prefix(bidirectional=True).fits(model)


@pytest.mark.rotates(105)
@pytest.mark.of("attending")
@pytest.mark.parametrize(
    "text",
    [
        "data2 fsdp2 tensor2", "fsdp8 full", "data2 expert2 tensor2", "stage2 fsdp2 tensor2", "context2 fsdp2 tensor2",
        "context2 stage2 data2", "data2 fsdp2 tensor2 explicit",
    ],
)  # fmt: skip
def test_a_plan_changes_no_loss_and_no_gradient_of_prefixes(family, text):
    model, params, causal = plans.alone(family)
    batch = plans.BATCH | {"prefix": np.arange(3, 11)[:, None] > ALONG}
    value, gradient = jax.jit(plans.loss(model))(params, batch)
    assert abs(float(value) - causal[0]) > 1e-4
    found = plans.on(layout(text), model, params, batch)
    expected = float(value), jax.tree.map(np.asarray, gradient)
    far = {path: d for path, d in plans.differences(found[:2], expected).items() if d > TOLERANCE}
    assert not far, far


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["gpt2", "llama", "gemma", "qwen3", "mixtral", "deepseek_v3"])
def test_transformers_with_the_mask_spelled_out_agrees_and_continues_alike(case, tmp_path):
    import torch

    torch.manual_seed(0)
    theirs = save_random(case, tmp_path / "source")
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 0
    run = open_run(tmp_path / "run")
    tokens, early = rng.integers(0, 300, (2, 40)), np.arange(40) < np.array([[17], [30]])

    def judged(tokens, early):
        along = np.arange(tokens.shape[1])
        seen = (along <= along[:, None]) | (early[:, None] & early[:, :, None])
        mask = torch.tensor(np.where(seen, 0.0, -np.inf)[:, None], dtype=torch.float32)
        return theirs(torch.tensor(tokens), attention_mask=mask, use_cache=False).logits.detach().numpy()

    found = jax.jit(lambda p, b: run.model.apply(p, b).logits)(run.params(), {"tokens": tokens, "prefix": early})
    wanted = judged(tokens, early)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * max(1.0, np.abs(wanted).max()))
    text = tokens[:1, :17]
    for _ in range(8):
        following = judged(text, np.arange(text.shape[1])[None] < 17)[0, -1].argmax()
        text = np.append(text, [[following]], axis=1)
    prompt, more = text[0, :17].tolist(), text[0, 17:].tolist()
    assert generate(Prefixed(run.model), run.params(), [prompt], max_new_tokens=8, settings=Sampling(0.0)) == [more]


@pytest.mark.oracle
def test_one_layer_of_attention_is_torchs_with_the_same_mask():
    import torch

    from llm_jax.kernels.attention import blockwise, plain

    q, k, v = (rng.normal(size=(2, heads, 40, 6)).astype(np.float32) for heads in (4, 2, 2))
    early, along = np.arange(40) < np.array([[17], [30]]), np.arange(40)
    seen = (along <= along[:, None]) | (early[:, None] & early[:, :, None])
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *(torch.tensor(x) for x in (q, k, v)), attn_mask=torch.tensor(seen[:, None]), enable_gqa=True
    ).numpy()
    for kernel in (plain, lambda *x, **o: blockwise(*x, block=8, **o)):
        found = kernel(*(np.moveaxis(x, 1, 2) for x in (q, k, v)), prefix=early)
        np.testing.assert_allclose(np.moveaxis(found, 1, 2), wanted, atol=1e-5)
