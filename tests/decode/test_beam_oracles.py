"""Beam search beside `transformers`' generate(num_beams=…), live, on tiny random models: the same texts and scores."""

import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.decode.beam import Beams, search
from llm_jax.models.seq2seq.t5 import T5

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

VOCAB, EOS, NEW = 31, 1, 12
TEXTS = [[5, 9, 3], [7, 4, 30, 22, 8, 11], [2]]
STOPPING = {"full": True, "likely": False, "sure": "never"}
SEARCHES = [
    Beams(width, penalty, stopping)
    for width, penalty, stopping in [
        (2, 1.0, "likely"), (4, 1.0, "full"), (4, 0.0, "sure"), (4, 2.0, "likely"), (5, -1.0, "likely"),
        (3, 0.6, "sure"), (7, 1.5, "full"), (4, 2.5, "sure"),
    ]
]  # fmt: skip


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers")


def padded(texts, left):
    width = max(map(len, texts))
    rows = [[0] * (width - len(t)) * left + t + [0] * (width - len(t)) * (not left) for t in texts]
    mask = [[0] * (width - len(t)) * left + [1] * len(t) + [0] * (width - len(t)) * (not left) for t in texts]
    return rows, mask


def theirs(torch, model, texts, beams, left, stops):
    rows, mask = padded(texts, left)
    found = model.generate(
        torch.tensor(rows), attention_mask=torch.tensor(mask), num_beams=beams.width, do_sample=False,
        num_return_sequences=beams.width, length_penalty=beams.length_penalty, max_new_tokens=NEW,
        early_stopping=STOPPING[beams.stopping], eos_token_id=stops, pad_token_id=0, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    start = len(rows[0]) if left else 1
    ids = [cut(row[start:], stops) for row in found.sequences.tolist()]
    W = beams.width
    scores = found.sequences_scores.tolist()
    return [(ids[i * W : i * W + W], scores[i * W : i * W + W]) for i in range(len(texts))]


def cut(row, stops):
    ends = [i for i, token in enumerate(row) if token in stops]
    return row[: ends[0] + 1] if ends else row[:NEW]


def compared(torch, model, params, foreign, texts, *, conditional, stops=(EOS,)):
    """Compare all searches; return the lengths of the texts."""
    lengths = set()
    given = {"prompts": [[0]] * len(texts), "sources": texts} if conditional else {"prompts": texts}
    for beams in SEARCHES:
        found = search(
            model, params, max_new_tokens=NEW, beams=beams, num=beams.width, stop_ids=list(stops), **given
        )  # fmt: skip
        for ours, (ids, scores) in zip(
            found, theirs(torch, foreign, texts, beams, not conditional, list(stops)), strict=True
        ):
            assert [text.ids for text in ours] == ids, beams
            np.testing.assert_allclose([text.score for text in ours], scores, rtol=2e-4, atol=2e-5)
            lengths |= {len(text.ids) for text in ours}
    return lengths


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("stops", [(EOS,), (EOS, 17, 23)])
def test_decoders_find_the_texts_of_transformers(torch, transformers, tmp_path, family, stops):
    torch.manual_seed(0)
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.6
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.6,
        )  # fmt: skip
    foreign = transformers.AutoModelForCausalLM.from_config(config).eval()
    foreign.save_pretrained(tmp_path / "source")
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 0
    run = open_run(tmp_path / "run")
    lengths = compared(torch, run.model, run.params(), foreign, TEXTS, conditional=False, stops=stops)
    assert min(lengths) < NEW - 4 and max(lengths) == NEW


@pytest.mark.parametrize("gated", [False, True])
def test_encoder_decoders_find_the_texts_of_transformers(torch, transformers, gated):
    torch.manual_seed(1)
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=4, relative_attention_num_buckets=8,
        relative_attention_max_distance=12, feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated, dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    foreign = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for p in foreign.parameters():
            p.copy_(torch.randn_like(p) * 0.6 + (p.dim() == 1))
    model = T5(VOCAB, 2, 16, 4, head_dim=6, mlp_dim=24, buckets=8, furthest=12, gated=gated, tied=not gated)
    params = copied(model, {n: p.detach().numpy() for n, p in foreign.state_dict().items()})
    lengths = compared(torch, model, params, foreign, TEXTS, conditional=True, stops=(EOS, 6, 12, 17, 23))
    assert min(lengths) < NEW - 4 and max(lengths) == NEW


PARTS = {
    "attention_norm/scale": "layer.0.layer_norm", "attention/query": "layer.0.SelfAttention.q",
    "attention/key": "layer.0.SelfAttention.k", "attention/value": "layer.0.SelfAttention.v",
    "attention/out": "layer.0.SelfAttention.o", "cross_norm/scale": "layer.1.layer_norm",
    "cross/query": "layer.1.EncDecAttention.q", "cross/key": "layer.1.EncDecAttention.k",
    "cross/value": "layer.1.EncDecAttention.v", "cross/out": "layer.1.EncDecAttention.o",
    "mlp_norm/scale": "layer.{last}.layer_norm", "mlp/gate": "layer.{last}.DenseReluDense.wi_0",
    "mlp/up": "layer.{last}.DenseReluDense.wi_1", "mlp/inner": "layer.{last}.DenseReluDense.wi",
    "mlp/down": "layer.{last}.DenseReluDense.wo",
}  # fmt: skip
WHOLE = {
    "embed/tokens": "shared",
    "head/tokens": "lm_head",
    "{}_norm/scale": "{}.final_layer_norm",
    "{}_bias/buckets": "{}.block.0.layer.0.SelfAttention.relative_attention_bias",
}


def copied(model, tensors):
    """Our parameters with the values of a T5 of `transformers`."""
    names = {path.format(side): name.format(side) for path, name in WHOLE.items() for side in ("encoder", "decoder")}

    def value(path, shape):
        if path in names:
            return tensors[f"{names[path]}.weight"].reshape(shape)
        side, part = path.split("_blocks/")
        name = PARTS[part].format(last=1 + (side == "decoder"))
        layers = [tensors[f"{side}.block.{i}.{name}.weight"] for i in range(shape[0])]
        return np.stack([layer.T if layer.ndim == 2 else layer for layer in layers]).reshape(shape)

    return tree.unflatten({path: value(path, d.shape) for path, d in model.declarations().items()})
