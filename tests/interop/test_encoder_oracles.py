"""BERT and RoBERTa beside `transformers` on torch, both ways, and a real model: all-MiniLM-L6-v2."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.data.fetch import fetch
from llm_jax.evals.vectors import vectors
from llm_jax.interop.names import NAMES, from_hf, numbered

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

TINY = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 48,
}  # fmt: skip
CLASSES = [
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertModel",
    "ModernBertForMaskedLM",
    "RobertaForMaskedLM",
    "RobertaModel",
]
OWN = {"ModernBertForMaskedLM": {"num_hidden_layers": 5, "local_attention": 6, "pad_token_id": 1}}
TEXTS = [
    "a cat", "a kitten", "stocks", "The cat sits outside.", "A man is playing the guitar!", "Kätzchen, 東京 🙂 naïve",
    "The new movie is awesome; " * 30, "[SEP] is [MASK] no control token",
]  # fmt: skip


@pytest.fixture(scope="module")
def torch():
    found = pytest.importorskip("torch")
    found.manual_seed(0)
    return found


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("name", CLASSES)
def test_a_random_encoder_means_the_same_on_both_sides_both_ways(torch, transformers, tmp_path, name):
    family = getattr(transformers, name)
    theirs = family(family.config_class(**TINY | OWN.get(name, {}))).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
        if name.startswith("Roberta"):
            theirs.base_model.embeddings.position_embeddings.weight[:2] = 0  # which no token takes
    theirs.save_pretrained(tmp_path / "source")
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 0
    run = open_run(tmp_path / "run")
    tokens = np.random.default_rng(0).integers(2, 300, (2, 40))
    mask = np.ones((2, 40), int)
    mask[1, 25:], tokens[1, 25:] = 0, 1  # the padding of RoBERTa
    real = mask > 0
    out = theirs(torch.tensor(tokens), attention_mask=torch.tensor(mask))
    scores = out[0]  # of tokens, or hidden states
    weight = np.random.default_rng(1).normal(size=tuple(scores.shape)).astype(np.float32) * real[..., None]
    (scores * torch.tensor(weight)).sum().backward()

    def total(params):
        found = run.model.apply(params, {"tokens": tokens, "segments": mask})
        made = found.logits if getattr(run.model, "head", True) else found.hidden
        return (made * weight).sum(), (made, found.extras)

    (_, (made, extras)), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(run.params())
    wanted = scores.detach().numpy()
    np.testing.assert_allclose(np.asarray(made)[real], wanted[real], rtol=0, atol=1e-4 * np.abs(wanted).max())
    beside = {"BertForPreTraining": "order", "BertModel": "pooled", "RobertaModel": "pooled"}.get(name)
    if beside:
        np.testing.assert_allclose(extras[beside], out[1].detach().numpy(), rtol=0, atol=1e-4)
    grads = {
        n: (torch.zeros_like(p) if p.grad is None else p.grad).numpy() for n, p in theirs.named_parameters()
    }  # the pooler has none
    names = numbered(lookup(NAMES, run.resolved.values["model"]["name"], "names"), run.model)
    shapes = {path: d.shape for path, d in run.model.declarations().items()}
    expected = dict(from_hf(names, shapes, grads.items()))
    largest = max(np.abs(a).max() for a in expected.values())
    for path, found in tree.flatten(gradient).items():
        bound = 1e-3 * np.abs(expected[path]).max() + 1e-6 * largest
        np.testing.assert_allclose(found, expected[path], rtol=0, atol=bound, err_msg=path)

    assert main(["export", f"--workdir={tmp_path / 'run'}", f"--to={tmp_path / 'out'}"]) == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == [name]
    again, report = family.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for (key, p), (other, q) in zip(theirs.state_dict().items(), again.state_dict().items(), strict=True):
        assert key == other and torch.equal(p, q), key


@pytest.fixture(scope="module")
def minilm(torch, transformers, tmp_path_factory):
    """(ours, theirs, their tokenizer, a function text -> their vector) of the real model."""
    try:
        folder = fetch("minilm")
    except UserError as error:
        pytest.skip(str(error))
    run = tmp_path_factory.mktemp("minilm") / "run"
    assert main(["import", str(folder), f"--workdir={run}"]) == 0
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)

    def vector(text):
        with torch.no_grad():
            states = model(**words(text, return_tensors="pt", split_special_tokens=True)).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0), dim=0).numpy()

    return open_run(run), model, words, vector


def test_the_real_model_finds_texts_as_alike_as_in_transformers(minilm):
    run, _, words, vector = minilm
    for text in TEXTS:
        ids = [*run.tokenizer.frame[0], *run.tokenizer.encode(text).tolist(), *run.tokenizer.frame[1]]
        assert ids == words(text, split_special_tokens=True).input_ids, text
    found = vectors(run.model, run.params(), run.tokenizer, TEXTS)
    theirs = np.stack([vector(text) for text in TEXTS])
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found @ found.T, theirs @ theirs.T, rtol=0, atol=1e-4)
    assert jnp.argmax(found[0] @ found[1:3].T) == 0  # a cat is a kitten rather than stocks


def test_the_real_model_goes_out_with_its_tokenizer(minilm, transformers, torch, tmp_path):
    run, model, words, _ = minilm
    assert main(["export", f"--workdir={run.workdir.path}", f"--to={tmp_path / 'out'}"]) == 0
    again = transformers.AutoModel.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for (key, p), (other, q) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert key == other and torch.equal(p, q), key
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert all(tokens(text).input_ids == words(text).input_ids for text in TEXTS[:6])
