"""llama.cpp, live, reads what is exported as GGUF: the same logits, the same greedy tokens, the same split of texts."""

import itertools

import jax
import numpy as np
import pytest
import spaced
from gguf_cases import CASES, case

from llm_jax.core import tree
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate
from llm_jax.interop import tokenizers
from llm_jax.interop.gguf import writer

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def tolerance(name):
    """Of the largest logit. llama.cpp's GELU, which Gemma has, is a table in float16."""
    return 2e-3 if name.startswith("gemma") else 1e-5


@pytest.fixture(scope="module")
def llama_cpp():
    return pytest.importorskip("llama_cpp")


@pytest.fixture(scope="module", params=CASES)
def both(request, llama_cpp, tmp_path_factory):
    """(name, our model, our parameters, llama.cpp's model) of one file."""
    model, what, leaves = case(request.param)
    folder = tmp_path_factory.mktemp("gguf")
    writer.gguf(folder, what, leaves.items())
    exact = {"n_threads": 1, "type_k": 0, "type_v": 0}  # keys and values in float32
    theirs = llama_cpp.Llama(str(folder / "model.gguf"), n_ctx=64, logits_all=True, verbose=False, **exact)
    yield request.param, model, tree.unflatten(leaves), theirs
    theirs.close()


def test_llama_cpp_computes_the_same_logits(both):
    name, model, params, theirs = both
    tokens = np.random.default_rng(1).integers(0, 300, (1, 40))
    theirs.reset()
    theirs.eval(tokens[0].tolist())
    found = np.array(theirs.scores)[:40]
    wanted = np.asarray(jax.jit(lambda p, t: model.apply(p, {"tokens": t}).logits)(params, tokens))[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance(name) * np.abs(wanted).max())


def test_llama_cpp_says_the_same(both):
    _, model, params, theirs = both
    prompt = np.random.default_rng(2).integers(0, 300, 8).tolist()
    theirs.reset()
    said = list(itertools.islice(theirs.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0), 20))
    assert generate(model, params, [prompt], max_new_tokens=20, settings=Sampling(0.0), seed=0) == [said]


@pytest.mark.parametrize("style", spaced.STYLES)
def test_llama_cpp_splits_texts_alike(llama_cpp, tmp_path, style):
    words = spaced.tokenizer(spaced.specification(style, tmp_path), tmp_path)
    _, what, leaves = case(vocab_size=400, tokenizer=words)
    writer.gguf(tmp_path, what, leaves.items())
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    letters = [*"aehiost '12é東🙂\n\t", "  ", "the", " the", "<table>", "<s>"]
    draw = np.random.default_rng(0)
    drawn = ["".join(draw.choice(letters, length)) for length in draw.integers(1, 30, 300)]
    engine = tokenizers._engine(words.files["tokenizer.json"].decode())
    engine.encode_special_tokens = True
    for text in (*spaced.TEXTS, *tokenizers.PROBES, *drawn):
        found = theirs.tokenize(text.encode(), add_bos=False, special=False)
        assert found == engine.encode(text, add_special_tokens=False).ids, text
    theirs.close()
