"""Reading a text piece by piece through a cache gives the logits of reading it whole."""

from functools import partial

import jax
import numpy as np
import pytest

from llm_jax.mesh import plan
from llm_jax.nn import stack

TEXT = np.random.default_rng(3).integers(0, 40, (3, 12)).astype(np.int32)
LENGTHS = (5, 2, 4)  # of the prompts: unequal, so that right-aligned rows begin with padding
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5)


def prompts():
    """Rows of 5 that end together, padded on the left with tokens that must not matter."""
    tokens, segments = np.full((3, 5), 17, np.int32), np.zeros((3, 5), np.int32)
    for row, n in enumerate(LENGTHS):
        tokens[row, 5 - n :], segments[row, 5 - n :] = TEXT[row, :n], 1
    return {"tokens": tokens, "segments": segments}


def following(start, stop):
    """The tokens start..stop after each prompt."""
    return np.stack([TEXT[row, n + start : n + stop] for row, n in enumerate(LENGTHS)])


def unstacked(params):
    """Every stack as a tuple of its layers."""
    return {name: stack.unstack(part) if name.endswith("blocks") else part for name, part in params.items()}


@pytest.mark.rotates(4)
@pytest.mark.of("causal")
def test_cached_is_whole(model, params):
    """Prompts of unequal length, then one token, then three, then one."""
    with plan.Plan(unrolled=12).active():
        cached_is_whole(model, params, "stacked")


@pytest.mark.rotates(12)
@pytest.mark.of("causal")
@pytest.mark.parametrize("layout", ["unstacked", "scanned"])
def test_cached_is_whole_however_layers_lie(model, params, layout):
    with plan.Plan(unrolled=0 if layout == "scanned" else 12).active():
        cached_is_whole(model, params, layout)


def cached_is_whole(model, params, layout):
    whole = np.asarray(jax.jit(lambda p, t: model.apply(p, {"tokens": t}).logits)(params, TEXT))
    used = unstacked(params) if layout == "unstacked" else params

    def logits(function):
        def run(*arguments):
            out, cache = function(*arguments)
            return out.logits, cache

        return jax.jit(run)

    prefill, extend = logits(model.prefill), logits(model.extend)
    out, cache = prefill(used, prompts(), model.empty_cache(3, 16))
    for row, n in enumerate(LENGTHS):
        close(out[row, 5 - n :], whole[row, :n])
    for start, stop in ((0, 1), (1, 4), (4, 5)):
        out, cache = extend(used, following(start, stop), cache)
        for row, n in enumerate(LENGTHS):
            close(out[row], whole[row, n + start : n + stop])
    assert int(cache.length) == 10 and cache.position.tolist() == [n + 5 for n in LENGTHS]


LONG = np.random.default_rng(4).integers(0, 40, (3, 30)).astype(np.int32)
WINDOW = 3


WINDOWED = ("gemma2", "gemma3", "gpt_oss", "mistral", "mixtral", "phi3")


@pytest.mark.rotates(12)
@pytest.mark.parametrize(
    ("family", "layout"),
    [*((family, "unstacked") for family in WINDOWED), ("gemma2", "scanned"), ("mistral", "scanned")],
)
def test_cached_is_whole_in_texts_many_windows_long(make, draw, layout):
    """Prompts longer than the window and padded on the left, then pieces of one token and of two."""
    with plan.Plan(unrolled=0 if layout == "scanned" else 12).active():
        cached_is_whole_in_long_texts(make, draw, layout)


def cached_is_whole_in_long_texts(make, draw, layout):
    model = make(window=WINDOW, num_layers=4)
    params, lengths = draw(model), (8, 1, 5)  # the shortest: its padding is still in the first window
    whole = np.asarray(jax.jit(lambda p, t: model.apply(p, {"tokens": t}).logits)(params, LONG))
    used = unstacked(params) if layout == "unstacked" else params
    tokens, segments = np.full((3, 8), 17, np.int32), np.zeros((3, 8), np.int32)
    for row, n in enumerate(lengths):
        tokens[row, 8 - n :], segments[row, 8 - n :] = LONG[row, :n], 1

    @jax.jit
    def prefill(params, batch):
        out, cache = model.prefill(params, batch, model.empty_cache(3, 30))
        return out.logits, cache

    @jax.jit
    def extend(params, tokens, cache):
        out, cache = model.extend(params, tokens, cache)
        return out.logits, cache

    out, cache = prefill(used, {"tokens": tokens, "segments": segments})
    for row, n in enumerate(lengths):
        close(out[row, 8 - n :], whole[row, :n])
    start = 0
    for size in (1, 1, 2, 1, 2, 2, 1, 1, 1, 2, 2, 2, 2, 1):
        out, cache = extend(
            used, np.stack([LONG[r, n + start : n + start + size] for r, n in enumerate(lengths)]), cache
        )
        for row, n in enumerate(lengths):
            close(out[row], whole[row, n + start : n + start + size])
        start += size
    kept = {store[0].shape[-2] for stores in cache.stores.values() for store in stores}
    assert kept == ({WINDOW, 30} if "global_blocks" in params else {WINDOW})


@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_beyond_the_longest_text_keeps_it_all(make):
    assert list(make(window=99).empty_cache(2, 16).stores) == [16]


@pytest.mark.of("decoder")
def test_every_family_with_windows_is_tested(model, family):
    assert hasattr(model, "window") == (family in WINDOWED)


@pytest.mark.rotates(12)
@pytest.mark.of("causal")
def test_a_prompt_without_segments_is_all_text(model, params):
    @jax.jit
    def read(params, batch):
        out, cache = model.prefill(params, batch, model.empty_cache(3, 16))
        return out.logits, cache

    spelled = {"tokens": TEXT, "segments": np.ones_like(TEXT)}
    jax.tree.map(close, read(params, {"tokens": TEXT}), read(params, spelled))


@pytest.mark.rotates(12)
@pytest.mark.of("decoder")
def test_gradients_do_not_depend_on_the_layout(model, params):
    """Layers one by one or in one stack: the same gradient, leaf by leaf."""
    loss = jax.jit(jax.grad(lambda p: (model.apply(p, {"tokens": TEXT}).logits ** 2).mean()))
    stacked, rows = loss(params), loss(unstacked(params))
    stacks = [name for name in rows if isinstance(rows[name], tuple)]
    assert stacks
    for name in stacks:
        for i, row in enumerate(rows[name]):
            jax.tree.map(lambda a, b, i=i: close(a, b[i], rtol=1e-4), row, stacked[name])
