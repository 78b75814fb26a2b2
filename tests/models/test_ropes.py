"""Stretched rotary positions: logits of Hugging Face `transformers`, and what a cache makes of them."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.interop import configs
from llm_jax.interop.names import NAMES, from_hf, numbered
from llm_jax.models import MODELS
from llm_jax.nn.rotary import KINDS
from llm_jax.run.config import construct

with np.load(Path(__file__).parents[1] / "golden" / "ropes.npz") as arrays:
    GOLDEN = dict(arrays)
CASES = sorted({name.partition("/")[0] for name in GOLDEN})
ORIGINAL, LONG = 16, 24


def of(case):
    """The arrays of a case, our model and its parameters."""
    arrays = {name.removeprefix(case + "/"): a for name, a in GOLDEN.items() if name.startswith(case + "/")}
    family, fields, *_ = configs.read(json.loads(str(arrays["config"])))
    model = construct(lookup(MODELS, family, "model.name"), fields)
    shapes = {path: d.shape for path, d in model.declarations().items()}
    weights = {n.removeprefix("weight/"): a for n, a in arrays.items() if n.startswith("weight/")}
    names = numbered(lookup(NAMES, family, "names"), model)
    return arrays, model, tree.unflatten(dict(from_hf(names, shapes, weights.items())))


def logits(model, params, batch):
    return np.asarray(jax.jit(lambda p, b: model.apply(p, b).logits)(params, batch))


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_every_kind_that_transformers_was_asked_for_is_there():
    assert {of(case)[1].rope.chosen for case in CASES} >= {"dynamic", "longrope", "yarn"} and len(KINDS) == 5


@pytest.mark.parametrize("length", ["short", "long"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case, length):
    arrays, model, params = of(case)
    close(logits(model, params, {"tokens": arrays[f"{length}/tokens"]}), arrays[f"{length}/logits"])


@pytest.mark.parametrize("case", [case for case in CASES if "longrope" in case or "dynamic" in case])
def test_a_text_that_grows_through_a_cache_is_turned_by_the_length_it_has(case):
    """One layer, whose keys depend on nothing before: exact also across lengths at which wavelengths change."""
    arrays, model, params = of(case)
    tokens = arrays["long/tokens"]

    @jax.jit
    def prefill(params, tokens):
        out, cache = model.prefill(params, {"tokens": tokens}, model.empty_cache(2, 32))
        return out.logits, cache

    @jax.jit
    def extend(params, tokens, cache):
        out, cache = model.extend(params, tokens, cache)
        return out.logits, cache

    out, cache = prefill(params, tokens[:, :13])
    for start, stop in ((13, 14), (14, 17), (17, 18), (18, 24)):
        out, cache = extend(params, tokens[:, start:stop], cache)
        close(out, logits(model, params, {"tokens": tokens[:, :stop]})[:, start:])
    close(out, arrays["long/logits"][:, 18:])


@pytest.mark.parametrize("case", ["dynamic", "longrope"])
def test_each_document_is_turned_by_its_own_length(case):
    """A long one and a short one in a row, and a row beside them that is padded on the left."""
    arrays, model, params = of(case)
    long, short = arrays["long/tokens"][0], arrays["short/tokens"][0]
    tokens, segments = np.zeros((2, 33), np.int32), np.zeros((2, 33), np.int32)
    tokens[0], segments[0] = np.r_[long, short], np.r_[[1] * 24, [2] * 9]
    tokens[1, 24:], segments[1, 24:] = short, 1
    found = logits(model, params, {"tokens": tokens, "segments": segments})
    close(found[0, :24], arrays["long/logits"][0])
    close(found[0, 24:], arrays["short/logits"][0])
    close(found[1, 24:], arrays["short/logits"][0])
