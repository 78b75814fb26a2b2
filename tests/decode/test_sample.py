"""Laws of generation, for every decoder family: against the whole forward pass, across batches, buckets and chunks."""

import jax
import numpy as np
import pytest
from scipy import stats

from llm_jax.core.table import UserError
from llm_jax.core.types import Outputs
from llm_jax.decode import sample
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate, stream
from llm_jax.models.decoder.gpt2 import GPT2
from llm_jax.models.decoder.llama import Llama
from llm_jax.nn import cache as caches

SMALL = {"vocab_size": 97, "num_layers": 2, "embed_dim": 16, "num_heads": 2}
MODELS = {"gpt2": GPT2(max_positions=128, **SMALL), "llama": Llama(num_kv_heads=1, **SMALL)}
PARAMS = {name: jax.tree.map(lambda x: 4 * x, model.init(jax.random.key(0))) for name, model in MODELS.items()}
PROMPTS = [[1, 2, 3], [5, 90] * 10, [7], [8, 9, 10, 11, 12]]
GREEDY = Sampling(temperature=0.0)

every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "llama" else pytest.mark.exhaustive) for name in MODELS]
)


def run(name, prompts=PROMPTS, **options):
    return generate(MODELS[name], PARAMS[name], prompts, **{"max_new_tokens": 12, **options})


def next_logits(name, text):
    tokens = np.zeros((1, 64), np.int32)
    tokens[0, : len(text)] = text
    return np.array(whole(name)(PARAMS[name], tokens)[0, len(text) - 1])


def whole(name, compiled={}):  # noqa: B006
    model = MODELS[name]
    return compiled.setdefault(name, jax.jit(lambda p, tokens: model.apply(p, {"tokens": tokens}).logits))


@every_model
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_decoding_with_a_cache_takes_the_argmax_of_the_whole_forward_pass(name, penalty):
    settings = Sampling(temperature=0.0, repetition_penalty=penalty)
    for prompt, ids in zip(PROMPTS, run(name, settings=settings), strict=True):
        text = list(prompt)
        for token in ids:
            logits = next_logits(name, text)
            seen = list(set(text))
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
            assert token == logits.argmax()
            text.append(token)


@every_model
def test_a_continuation_does_not_depend_on_its_companions_or_their_order(name):
    settings = Sampling(top_p=0.9, repetition_penalty=1.3)
    together = run(name, settings=settings)
    assert run(name, PROMPTS[::-1], settings=settings)[::-1] == together
    for prompt, ids in zip(PROMPTS, together, strict=True):
        assert run(name, [prompt], settings=settings) == [ids]


@every_model
def test_a_continuation_does_not_depend_on_the_buckets(name):
    longer = run(name, [*PROMPTS, [4] * 40], max_new_tokens=60)
    assert [ids[:12] for ids in longer[:-1]] == run(name)


@every_model
@pytest.mark.parametrize("settings", [Sampling(top_k=1), Sampling(temperature=1e-6), Sampling(temperature=1e-45)])
def test_one_candidate_or_no_temperature_is_greedy(name, settings):
    assert run(name, settings=settings) == run(name, settings=GREEDY)


def test_streamed_pieces_join_to_what_generate_returns():
    for chunk in (1, 5):
        rows = [[] for _ in PROMPTS]
        for piece in stream(MODELS["llama"], PARAMS["llama"], PROMPTS, max_new_tokens=12, chunk=chunk):
            assert max(map(len, piece)) <= chunk
            rows = [row + new for row, new in zip(rows, piece, strict=True)]
        assert rows == run("llama")


def test_a_row_ends_with_its_first_stop_id_and_the_others_go_on():
    free = run("llama")
    eos, other = free[0][3], free[1][5]
    stopped = run("llama", eos_id=eos, stop_ids=[other])
    for before, after in zip(free, stopped, strict=True):
        ends = [i for i, token in enumerate(before) if token in (eos, other)]
        assert after == before[: ends[0] + 1 if ends else None]
    assert len(stopped[0]) <= 4


def test_samples_of_one_prompt_differ_and_are_repeated_by_the_seed():
    one, two = run("gpt2", num=3, seed=1), run("gpt2", num=3, seed=1)
    assert one == two and len(one) == 3 * len(PROMPTS)
    assert len({tuple(ids) for ids in one}) == len(one)
    assert run("gpt2", num=3, seed=2) != one
    assert run("gpt2", num=1, seed=1) == one[::3]


def test_only_ids_below_vocab_size_are_drawn():
    ids = run("gpt2", [[1]], num=8, max_new_tokens=30, settings=Sampling(temperature=50.0), vocab_size=11)
    assert max(map(max, ids)) == 10


class Bigram:
    """A model whose next-token distribution is a row of a table: what is drawn can be counted."""

    vocab_size = 6

    def declarations(self):
        return {}

    def empty_cache(self, batch_size, max_len):
        return caches.full(1, batch_size, max_len, 1, 1)

    def prefill(self, params, batch, cache):
        return self._outputs(params, batch["tokens"]), cache

    def extend(self, params, tokens, cache):
        return self._outputs(params, tokens), cache

    def _outputs(self, params, tokens):
        return Outputs(params["table"][tokens], lambda hidden: hidden)


@pytest.mark.parametrize("settings", [Sampling(), Sampling(temperature=0.6), Sampling(top_k=3), Sampling(top_p=0.7)])
def test_the_draws_follow_the_distribution_that_the_settings_define(settings):
    table = np.random.default_rng(3).normal(size=(6, 6)).astype(np.float32)
    counts = np.zeros((6, 6), np.int64)
    for text in generate(Bigram(), {"table": table}, [[0]], num=64, max_new_tokens=128, settings=settings, seed=5):
        np.add.at(counts, ([0, *text[:-1]], text), 1)
    often = counts.sum(axis=1) > 500
    assert often.sum() >= 3
    for seen, row in zip(counts[often], table[often], strict=True):
        expected = truncated(row, settings)
        assert not seen[expected == 0].any()
        possible = expected > 0
        assert stats.chisquare(seen[possible], seen.sum() * expected[possible]).pvalue > 1e-3


def test_no_token_is_computed_once_every_row_is_done():
    steps = []

    class Counted(Bigram):
        def extend(self, params, tokens, cache):
            jax.debug.callback(lambda: steps.append(1))
            return super().extend(params, tokens, cache)

    cycle = 50 * np.roll(np.eye(6, dtype=np.float32), 1, axis=1)  # after i comes i + 1
    ids = generate(Counted(), {"table": cycle}, [[0], [1]], max_new_tokens=20, eos_id=4)
    jax.effects_barrier()
    assert ids == [[1, 2, 3, 4], [2, 3, 4]]
    assert len(steps) == 3  # the first token comes from the prompt


def truncated(logits, settings):
    p = np.exp(logits.astype(np.float64) / settings.temperature)
    order = np.argsort(-p)
    p[order[settings.top_k or len(p) :]] = 0
    p /= p.sum()
    reached = np.cumsum(p[order])
    p[order[1 + (reached < settings.top_p).sum() :]] = 0
    return p / p.sum()


def test_prompt_lengths_and_settings_of_a_bucket_share_their_programs():
    model = GPT2(max_positions=256, **SMALL)
    params = model.init(jax.random.key(1))
    before = sample._start._cache_size(), sample._proceed._cache_size()
    rng = np.random.default_rng(0)
    for _ in range(20):
        settings = Sampling(
            temperature=float(rng.uniform(0.1, 2)), top_k=int(rng.integers(2, 50)), top_p=float(rng.uniform(0.1, 1)),
            min_p=float(rng.uniform(0, 0.5)), repetition_penalty=float(rng.uniform(0.5, 2)),
        )  # fmt: skip
        prompt = rng.integers(0, 97, rng.integers(1, 65)).tolist()
        generate(model, params, [prompt], max_new_tokens=int(rng.integers(2, 33)), settings=settings, seed=7, eos_id=3)
    assert sample._start._cache_size() - before[0] <= 2  # prompts of up to 32 and up to 64
    assert sample._proceed._cache_size() - before[1] <= 2


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        ([], {}, "there is no prompt"),
        ([[1], []], {}, "prompt 1 holds no token"),
        ([[1, 97]], {}, "prompt 0 holds id 97, outside model.vocab_size=97"),
        ([[-1]], {}, "prompt 0 holds id -1"),
        (
            [[1] * 100],
            {"max_new_tokens": 29},
            "100 tokens, and with 29 new ones .*model.max_positions=128; .*at most 28",
        ),
        ([[1]], {"max_new_tokens": 0}, r"sample\.max_new_tokens=0"),
        ([[1]], {"num": 0}, r"sample\.num=0"),
        ([[1]], {"seed": -1}, r"sample\.seed=-1"),
        ([[1]], {"chunk": 0}, r"sample\.chunk=0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(prompts, options, message):
    before = sample._start._cache_size()
    with pytest.raises(UserError, match=message):
        stream(MODELS["gpt2"], PARAMS["gpt2"], prompts, **{"max_new_tokens": 4, **options})
    assert sample._start._cache_size() == before


def test_the_last_position_of_the_model_can_be_used():
    assert len(run("gpt2", [[1] * 100], max_new_tokens=28)[0]) == 28
