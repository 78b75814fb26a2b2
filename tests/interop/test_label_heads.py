"""Heads for labels as classes of `transformers`: scores from its weights, what config.json says, what is refused."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from llm_jax.adapt.headed import Headed
from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.data.examples.forms import Around
from llm_jax.interop import configs, tokenizers
from llm_jax.interop.names import NAMES, from_hf, numbered
from llm_jax.interop.names.labelled import SPANS, TEXT, TOKENS, Head
from llm_jax.interop.save import Export
from llm_jax.models import MODELS
from llm_jax.run.config import construct
from llm_jax.text.simple import make_bytes, read_bytes
from tests.interop.small import MODELS_OF

GOLDEN = Path(__file__).parents[1] / "golden/labels.npz"
LABELS = ("a", "b", "c")
BYTES = read_bytes(make_bytes([]))
CASES = {
    "bert": Head("bert", TEXT, LABELS, "pooler"),
    "gpt2": Head("gpt2", TEXT, LABELS, "last", bias=False),
    "llama": Head("llama", SPANS, ("start", "end"), "tokens"),
    "modernbert": Head("modernbert", TEXT, LABELS, "mean"),
    "roberta": Head("roberta", TEXT, LABELS, "pooler"),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_transformers_from_its_weights(case):
    with np.load(GOLDEN) as golden:
        arrays = dict(golden)
    head, config = CASES[case], json.loads(str(arrays[f"{case}/config"]))
    fields = configs.read({**config, "layer_types": None} if case == "modernbert" else config).fields
    more = {"pooler": True, "head": False} if head.pooling == "pooler" else {}
    plain = construct(lookup(MODELS, case, "model.name"), fields | more)
    model = Headed(plain, head.labels, head.pooling, bias=head.bias)
    shapes = head.read({path: d.shape for path, d in model.declarations().items()})
    names = head.names(numbered(lookup(NAMES, case, "family"), plain))
    start = f"{case}/weight/"
    weights = {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}
    unread = {path: np.zeros(d.shape) for path, d in model.declarations().items() if path not in shapes}
    params = tree.unflatten(dict(from_hf(names, shapes, weights.items())) | unread)
    batch = {"tokens": arrays["tokens"], "segments": arrays["mask"]}
    found = jax.jit(lambda p: model.apply(p, batch).extras["scores"])(params)
    real = np.ones(2, bool) if head.kind == TEXT else arrays["mask"] > 0
    wanted = arrays[f"{case}/scores"]
    np.testing.assert_allclose(np.asarray(found)[real], wanted[real], rtol=0, atol=1e-4 * np.abs(wanted).max())


def described(family, head):
    fields = dict(MODELS_OF[family])
    shapes = {"embed/tokens": (37, 12), "blocks/mlp/up": (3, 12, 18), "blocks/attention/key": (3, 12, 1, 2)}
    return Export(family, fields, shapes, 7, tokenizer=BYTES, head=head, frame=Around(BYTES, 7, 0).frame)


def test_the_config_names_the_class_and_its_labels():
    model = dataclasses.asdict(lookup(MODELS, "llama", "")(**MODELS_OF["llama"]))
    what = dataclasses.replace(described("llama", Head("llama", TEXT, LABELS, "last", False, 0.3)), fields=model)
    said = what.config()
    assert said["architectures"] == ["LlamaForSequenceClassification"] and said["classifier_dropout"] == 0.3
    assert said["id2label"] == {"0": "a", "1": "b", "2": "c"} and said["label2id"] == {"a": 0, "b": 1, "c": 2}
    assert said["problem_type"] == "single_label_classification"
    number = dataclasses.replace(what, head=Head("llama", TEXT, (), "last", False)).config()
    assert number["problem_type"] == "regression" and number["id2label"] == {"0": "LABEL_0"}
    spans = dataclasses.replace(what, head=Head("llama", SPANS, ("start", "end"), "tokens")).config()
    assert spans["architectures"] == ["LlamaForQuestionAnswering"] and "id2label" not in spans


def test_what_ends_a_text_is_not_said_to_be_padding():
    """`transformers` reads the last token that is no padding: where both are one id it would read the one before."""
    padded = dataclasses.replace(BYTES, pad_id=256)
    head = Head("llama", TEXT, LABELS, "last", False)
    what = dataclasses.replace(described("llama", head), tokenizer=padded)
    assert what.frame[1] == [256] and not what.pads and what.controls()["pad_token_id"] is None
    other = dataclasses.replace(what, frame=([], []))
    assert other.pads and other.controls()["pad_token_id"] == 256
    written = tokenizers.files(padded, context=7, frame=what.frame, pads=what.pads, typed=False)
    said = json.loads(written["tokenizer_config.json"])
    assert "pad_token" not in said and said["model_input_names"] == ["input_ids", "attention_mask"]


def test_a_tokenizer_is_written_with_the_frame_that_the_model_is_used_to():
    from tokenizers import Tokenizer

    def engine(**more):
        return Tokenizer.from_str(tokenizers.files(BYTES, context=7, **more)["tokenizer.json"].decode())

    framed = engine(frame=([256], [256]))
    assert framed.encode("ab").ids == [256, 97, 98, 256]
    both = framed.encode("a", "b")
    assert both.ids == [256, 97, 256, 98, 256] and both.type_ids == [0, 0, 0, 1, 1]
    assert engine().encode("ab").ids == [97, 98]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("lstm", TEXT, LABELS, "last"), r"no head of text for model\.name='lstm'.*bert"),
        (("olmo2", TOKENS, LABELS, "tokens"), r"no head of tokens for model\.name='olmo2'"),
        (("bert", TEXT, LABELS, "mean"), r"'pooler', and this model as 'mean'.*pooling=pooler .*model\.pooler=True"),
        (("modernbert", TEXT, LABELS, "last"), r"'first'.*'mean'.*as 'last'.*pooling=first"),
        (("llama", TEXT, LABELS, "last"), r"without a bias.*objective\.bias=False"),
    ],
)
def test_what_transformers_would_compute_otherwise_is_refused(given, told):
    with pytest.raises(UserError, match=told):
        Head(*given)
