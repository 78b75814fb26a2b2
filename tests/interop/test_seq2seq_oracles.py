"""T5, BART and Marian beside `transformers` on torch, both ways: logits, gradients, and what both write greedily."""

import json

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.interop.names import NAMES, from_hf

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

START, WRITTEN = 3, 24
T5 = {
    "vocab_size": 300, "d_model": 32, "d_kv": 10, "num_heads": 4, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
}  # fmt: skip
BART = {
    "vocab_size": 300, "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 48,
    "pad_token_id": 0, "bos_token_id": 2, "forced_eos_token_id": None, "decoder_start_token_id": START,
}  # fmt: skip
CASES = {
    "T5": ("T5ForConditionalGeneration", T5),
    "T5 v1.1": ("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "BART": ("BartForConditionalGeneration", BART),
    "BART, scaled": ("BartForConditionalGeneration", BART | {"scale_embedding": True}),
    "Marian": ("MarianMTModel", BART | {"scale_embedding": True, "activation_function": "swish"}),
    "Marian, relu": ("MarianMTModel", BART | {"activation_function": "relu"}),
}


@pytest.fixture(scope="module")
def torch():
    found = pytest.importorskip("torch")
    found.manual_seed(0)
    return found


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers")


def random_model(torch, transformers, name, fields):
    """A model with drawn weights; transformers ties the head of every T5, so v1.1 is given one of its own."""
    family = getattr(transformers, name)
    theirs = family(family.config_class(**fields, eos_token_id=1)).eval()
    if fields.get("tie_word_embeddings") is False:
        theirs.lm_head.weight = torch.nn.Parameter(torch.zeros_like(theirs.lm_head.weight))
    with torch.no_grad():
        for parameter, p in theirs.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape) * (0.02 if parameter == "shared.weight" else 0.2))
        if "Bart" in name:
            for side in (theirs.model.encoder, theirs.model.decoder):
                side.embed_positions.weight[:2] = 0  # which no token takes
        if hasattr(theirs, "final_logits_bias"):
            theirs.final_logits_bias.add_(torch.randn(theirs.final_logits_bias.shape))
    theirs.generation_config.decoder_start_token_id = START
    return theirs


@pytest.mark.parametrize("case", CASES)
def test_a_random_encoder_decoder_means_the_same_on_both_sides_both_ways(torch, transformers, tmp_path, case):
    name, fields = CASES[case]
    theirs = random_model(torch, transformers, name, fields)
    theirs.save_pretrained(tmp_path / "source")
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 0
    run = open_run(tmp_path / "run")
    rng = np.random.default_rng(0)
    tokens, source, mask = rng.integers(2, 300, (2, 30)), rng.integers(2, 300, (2, 40)), np.ones((2, 40), int)
    mask[1, 25:] = 0
    logits = theirs(
        torch.tensor(source), attention_mask=torch.tensor(mask), decoder_input_ids=torch.tensor(tokens)
    ).logits
    weight = rng.normal(size=tuple(logits.shape)).astype(np.float32)
    (logits * torch.tensor(weight)).sum().backward()
    batch = {"tokens": tokens, "source_tokens": source, "source_segments": mask}

    def total(params):
        made = run.model.apply(params, batch).logits
        return (made * weight).sum(), made

    (_, made), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(run.params())
    wanted = logits.detach().numpy()
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    grads = {n: p.grad.numpy() for n, p in theirs.named_parameters() if p.requires_grad}
    if hasattr(theirs, "final_logits_bias"):
        grads["final_logits_bias"] = weight.sum((0, 1))[None]
    names = lookup(NAMES, run.resolved.values["model"]["name"], "names")
    shapes = {path: d.shape for path, d in run.model.declarations().items()}
    expected = dict(from_hf(names, shapes, grads.items()))
    largest = max(np.abs(a).max() for a in expected.values())
    for path, found in tree.flatten(gradient).items():
        bound = 1e-3 * np.abs(expected[path]).max() + 1e-6 * largest
        np.testing.assert_allclose(found, expected[path], rtol=0, atol=bound, err_msg=path)

    assert main(["export", f"--workdir={tmp_path / 'run'}", f"--to={tmp_path / 'out'}"]) == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == [name] and config["decoder_start_token_id"] == START
    family = getattr(transformers, name)
    again, report = family.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert all("embed_positions" in key for key in report["missing_keys"])
    for (key, p), (other, q) in zip(theirs.state_dict().items(), again.state_dict().items(), strict=True):
        assert key == other and torch.equal(p, q), key

    def generated(model, **given):
        return model.generate(
            torch.tensor(source[:1]), do_sample=False, num_beams=1, max_new_tokens=WRITTEN, eos_token_id=None,
            pad_token_id=0, **given,
        )[0, 1:].tolist()  # fmt: skip

    written = generated(theirs)
    params = run.params()
    first = {"tokens": np.full((1, 1), START), "source_tokens": source[:1]}
    out, cache = run.model.prefill(params, first, run.model.empty_cache(1, 1 + WRITTEN))
    logits = out.logits
    step = jax.jit(lambda p, tokens, cache: (lambda out: (out[0].logits, out[1]))(run.model.extend(p, tokens, cache)))
    ours = []
    for _ in range(WRITTEN):
        ours.append(int(logits[0, -1].argmax()))
        logits, cache = step(params, np.full((1, 1), ours[-1]), cache)
    assert ours == written == generated(again)  # whose first token the export says
