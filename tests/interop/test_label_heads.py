"""Heads for labels as classes of `transformers`: scores from its weights, what config.json says, what is refused."""

import dataclasses
import io
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.adapt.headed import Headed
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.data.examples.forms import Around
from llm_jax.interop import safetensors, tokenizers
from llm_jax.interop.names.labelled import CLASSES, SPANS, TEXT, TOKENS, Head, read
from llm_jax.interop.safetensors import Info
from llm_jax.interop.save import Export, hf
from llm_jax.interop.source import open_source
from llm_jax.models import MODELS
from llm_jax.models.encoder.bert import Bert
from llm_jax.run.exchange.imported import import_run
from llm_jax.run.parts import models
from llm_jax.text import tokenizers as words
from llm_jax.text.simple import make_bytes, read_bytes
from tests.interop.small import MODELS_OF
from tests.laws.conftest import drawn

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
def test_a_class_of_transformers_is_imported_and_its_scores_are_those_from_its_weights(case, tmp_path):
    with np.load(GOLDEN) as golden:
        arrays = dict(golden)
    start = f"{case}/weight/"
    weights = {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}
    run = imported(tmp_path, json.loads(str(arrays[f"{case}/config"])), weights)
    head = CASES[case]
    model, batch = run.model, {"tokens": arrays["tokens"], "segments": arrays["mask"]}
    assert (model.labels, model.pooled, model.bias) == (head.labels, head.pooling, head.bias)
    found = jax.jit(lambda p: model.apply(p, batch).extras["scores"])(run.params())
    real = np.ones(2, bool) if head.kind == TEXT else arrays["mask"] > 0
    wanted = arrays[f"{case}/scores"]
    np.testing.assert_allclose(np.asarray(found)[real], wanted[real], rtol=0, atol=1e-4 * np.abs(wanted).max())


def imported(folder, config, weights):
    """Return the run that is imported from a config.json and tensors."""
    (folder / "config.json").write_text(json.dumps(config))
    infos = {name: Info(a.shape, a.dtype) for name, a in weights.items()}
    safetensors.write(folder, infos, weights.items(), 1 << 30)
    import_run(open_source(str(folder)), str(folder / "run"))
    return open_run(folder / "run")


EXPORTED = [
    (family, kind, pooling, labels)
    for family, kinds in CLASSES.items()
    for kind, found in kinds.items()
    for pooling in found.poolings or ["tokens"]
    for labels in ([("start", "end")] if kind == SPANS else [LABELS, ()] if kind == TEXT else [LABELS])
]


@pytest.mark.rotates(12)
@pytest.mark.parametrize(("family", "kind", "pooling", "labels"), EXPORTED)
def test_what_is_exported_comes_back_as_it_was(family, kind, pooling, labels, tmp_path):
    sizes = MODELS_OF[family] | ({"pooler": True} if pooling == "pooler" else {})
    sizes |= {"head_dim": None} if family == "gpt2" else {}  # whose heads are of width / heads abroad
    plain = lookup(MODELS, family, "model.name")(**sizes)
    head = Head(family, kind, labels, pooling, CLASSES[family][kind].biased or kind != TEXT, 0.25)
    model = Headed(plain, labels, pooling, head.dropout, head.bias)
    shapes = head.read({path: d.shape for path, d in model.declarations().items()})
    rng = np.random.default_rng(0)
    leaves = {path: rng.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    layers = plain.stacks() if hasattr(plain, "stacks") else {}
    what = Export(family, dataclasses.asdict(plain), shapes, 7, head=head, layers=layers)
    hf(tmp_path, what, ((path, leaves[path]) for path in what.paths()))
    import_run(open_source(str(tmp_path)), str(tmp_path / "run"))
    run = open_run(tmp_path / "run")
    back = run.model
    assert (back.labels, back.pooled, back.bias, back.dropout) == (labels, pooling, head.bias, head.dropout)
    assert models.abroad(run.resolved.values, back) == head
    assert not run.resolved.values["data"]["form"]["framed"]  # nothing stands around a text but what its tokenizer puts
    for path, leaf in run.leaves(shapes):
        np.testing.assert_array_equal(leaf, leaves[path], err_msg=path)


OLD = {"_num_labels": 3, "output_past": True, "directionality": "bidi", "pooler_type": "first_token_transform"}


@pytest.mark.parametrize(("family", "kind", "pooling"), [("bert", TOKENS, "tokens"), ("roberta", TEXT, "pooler")])
def test_what_the_class_does_not_read_may_lie_in_the_file(family, kind, pooling, tmp_path):
    """Old files have the pooler of the model without a head too, and keys that nobody reads."""
    sizes, head = MODELS_OF[family] | {"pooler": pooling == "pooler"}, Head(family, kind, LABELS, pooling)
    plain = lookup(MODELS, family, "")(**sizes, head=False)
    shapes = head.read({path: d.shape for path, d in Headed(plain, LABELS, pooling).declarations().items()})
    what = Export(family, dataclasses.asdict(plain), shapes, 7, head=head)
    weights = dict(what.tensors((path, np.ones(shapes[path], np.float32)) for path in what.paths()))
    weights |= {f"{family}.pooler.dense.weight": np.zeros((12, 12), np.float32)}
    run = imported(tmp_path, what.config() | OLD, weights)
    assert (run.model.pooled, run.model.base.pooler, run.model.labels) == (pooling, pooling == "pooler", LABELS)
    assert all(leaf.all() for _, leaf in run.leaves(shapes.keys() - {"embed/positions"}))


TINY = {"num_hidden_layers": 1, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 14, "vocab_size": 20}
BERT_TEXT = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], **TINY}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"problem_type": "multi_label_classification"}, "SequenceClassification with problem_type='multi_label"),
        ({"problem_type": "regression"}, "problem_type='regression' and 2 label"),
        ({"id2label": {"0": "a", "1": "a"}}, "each once"),
        ({"id2label": {"0": "a", "2": "b"}}, "a name for each of 0, 1"),
        ({"architectures": ["BertForTokenClassification"], "id2label": {"0": "a"}}, "tags are two or more"),
        ({"architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice .*BertForQuestionAnswering.*unknown"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, r"SequenceClassification: .*classifier.weight.*\[3, 12\]"),
    ],
)  # fmt: skip
def test_a_head_that_is_none_of_ours_is_refused_by_its_class(more, told, tmp_path):
    weights = {"classifier.weight": np.zeros((2, 12), np.float32)}
    with pytest.raises(UserError, match=f"(?s){told}"):
        imported(tmp_path, BERT_TEXT | more, weights)
    assert not (tmp_path / "run").exists()


def test_what_a_config_does_not_say_is_what_transformers_takes():
    said = {"architectures": ["BertForSequenceClassification"]}
    assert read("bert", said, {"dropout": 0.1}) == Head("bert", TEXT, ("LABEL_0", "LABEL_1"), "pooler", True, 0.1)
    number = read("bert", said | {"num_labels": 1, "classifier_dropout": 0.0}, {"dropout": 0.1})
    assert (number.labels, number.dropout) == ((), 0.0)
    modern = read("modernbert", {"architectures": ["ModernBertForSequenceClassification"]}, {})
    assert modern.pooling == "first"
    assert read("bert", {"architectures": ["BertForMaskedLM"]}, {}) is None


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


def test_a_tokenizer_is_written_with_the_frame_that_the_model_is_used_to(tmp_path):
    from tokenizers import Tokenizer, processors

    def engine(**more):
        return Tokenizer.from_str(tokenizers.files(BYTES, context=7, **more)["tokenizer.json"].decode())

    framed = engine(frame=([256], [256]))
    assert framed.encode("ab").ids == [256, 97, 98, 256]
    both = framed.encode("a", "b")
    assert both.ids == [256, 97, 256, 98, 256] and both.type_ids == [0, 0, 0, 1, 1]
    assert engine().encode("ab").ids == [97, 98]
    (tmp_path / "tokenizer.json").write_text(framed.to_str())
    back = words.build("huggingface", {"path": str(tmp_path)})
    assert (back.frame, back.between) == (((256,), (256,)), (256,))
    framed.post_processor = processors.RobertaProcessing(("<|endoftext|>", 256), ("a", 97))
    (tmp_path / "tokenizer.json").write_text(framed.to_str())
    assert words.build("huggingface", {"path": str(tmp_path)}).between == (256, 256)


def test_an_imported_head_answers_and_is_judged(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
    fields = {"vocab_size": 257, "num_layers": 1, "embed_dim": 8, "num_heads": 2, "max_positions": 16}
    plain = Bert(**fields, pooler=True, head=False)
    model, head = Headed(plain, ("bad", "good"), "pooler"), Head("bert", TEXT, ("bad", "good"), "pooler")
    leaves = {path: np.asarray(leaf) for path, leaf in tree.flatten(drawn(model)).items()}
    shapes = head.read({path: leaf.shape for path, leaf in leaves.items()})
    what = Export("bert", dataclasses.asdict(plain), shapes, 16, tokenizer=BYTES, head=head, frame=((), (256,)))
    (tmp_path / "source").mkdir()
    hf(tmp_path / "source", what, ((path, leaves[path]) for path in what.paths()))
    run = tmp_path / "run"
    assert main(["import", str(tmp_path / "source"), f"--workdir={run}"]) == 0
    assert f"next: python -m llm_jax classify --workdir={run}" in capsys.readouterr().out
    for form in ("gguf", "peft"):
        assert main(["export", f"--workdir={run}", f"--to={tmp_path / 'out'}", f"--format={form}"]) == 2
        assert "--format=hf" in capsys.readouterr().err and not (tmp_path / "out").exists()
    texts = ["a good one", "bad", "good, and bad, and good, and bad"]  # of which the last is too long, and cut
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts)))
    assert main(["classify", f"--workdir={run}"]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": label}) + "\n" for t, (label, _) in zip(texts, said, strict=True))
    )
    assert main(["evaluate", f"--workdir={run}", f"--data={tmp_path / 'a.jsonl'}"]) == 0
    told = capsys.readouterr().out
    nats = -sum(math.log(float(p)) for _, p in said) / 3
    assert "accuracy       1.0000" in told and float(told.split("loss")[1].split()[0]) == pytest.approx(nats, abs=1e-3)


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
