"""embed: the vectors of texts, whole texts between the ids of their tokenizer; what makes no vectors is refused."""

import io
import json
import shutil

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.evals.vectors import vectors
from llm_jax.interop import configs, safetensors
from llm_jax.interop.names import NAMES, to_hf
from llm_jax.interop.safetensors import Info
from llm_jax.models.encoder.bert import Bert

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "kit", "##ten", "##s", "stock", "fell", "."]
TEXTS = ["The cat.", "the kittens fell", "stocks " * 9, "cat"]


def wordpiece():
    """A WordPiece tokenizer as BERT's, which would cut and pad."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    engine = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    engine.add_special_tokens(WORDS[:5])
    return engine


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A directory as sentence-transformers': `BertModel` with no head, and a tokenizer."""
    folder = tmp_path_factory.mktemp("source")
    model = Bert(len(WORDS), 24, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=24, head=False)
    shapes = {path: d.shape for path, d in model.declarations().items()}
    names = lookup(NAMES, "bert", "names")
    leaves = tree.flatten(model.init(jax.random.key(0))).items()
    tensors = {n.removeprefix("bert."): np.asarray(t) for n, t in to_hf(names, shapes, leaves)}
    fields = {name: getattr(model, name) for name in model.__dataclass_fields__}
    config = configs.write("bert", fields, shapes, context=24, dtype="float32")
    (folder / "config.json").write_text(json.dumps(config))
    infos = {n: Info(t.shape, t.dtype) for n, t in tensors.items()}
    safetensors.write(folder, infos, iter(tensors.items()), 1 << 30)
    engine = wordpiece()
    engine.enable_truncation(5)
    engine.enable_padding(length=9)
    engine.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def workdir(source, tmp_path_factory):
    run = tmp_path_factory.mktemp("embed") / "run"
    assert main(["import", str(source), f"--workdir={run}"]) == 0
    return run


def test_texts_stand_between_the_ids_of_their_tokenizer_and_are_not_cut(workdir):
    words, engine = open_run(workdir).tokenizer, wordpiece()
    assert words.frame == ((2,), (3,))
    for text in [*TEXTS, "", "[SEP] the [MASK]"]:
        engine.encode_special_tokens = True
        framed = [*words.frame[0], *words.encode(text).tolist(), *words.frame[1]]
        assert framed == engine.encode(text).ids


def test_vectors_are_those_of_each_text_alone_in_the_order_given(workdir, tmp_path, capsys, monkeypatch):
    run = open_run(workdir)
    alone = []
    for text in TEXTS:
        ids = np.array([[2, *run.tokenizer.encode(text), 3]])
        mean = np.asarray(run.model.apply(run.params(), {"tokens": ids}).hidden)[0].mean(0)
        alone.append(mean / np.linalg.norm(mean))
    np.testing.assert_allclose(vectors(run.model, run.params(), run.tokenizer, TEXTS * 9), alone * 9, atol=1e-5)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(TEXTS[1:])))
    assert main(["embed", f"--workdir={workdir}", TEXTS[0], "-", f"--out={tmp_path / 'v'}"]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "v"), alone, atol=1e-5)
    capsys.readouterr()
    assert main(["embed", f"--workdir={workdir}", *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = [[float(x) for x in line.split()[:4]] for line in lines]
    np.testing.assert_allclose(printed, np.array(alone) @ np.array(alone).T, atol=1e-4)
    assert [line.split("  ", 1)[1].endswith(text) for line, text in zip(lines, TEXTS, strict=True)] == [True] * 4


@pytest.mark.parametrize(("texts", "more", "said"), [
    (["the " * 23], [], "25 tokens; the model reads 24"),
    (["-", "-"], [], "twice"),
    (["a"], ["--out=/nowhere/at/all.npy"], "/nowhere/at"),
    ([], [], "TEXT"),
])  # fmt: skip
def test_what_cannot_be_embedded_is_refused(workdir, capsys, texts, more, said):
    assert main(["embed", f"--workdir={workdir}", *texts, *more]) == 2
    assert said in capsys.readouterr().err


def test_what_an_encoder_does_not_do_is_refused_before_a_word_is_said(workdir, capsys):
    for more in ([], ["--beams=2"], ["--num=2"]):
        assert main(["sample", f"--workdir={workdir}", "--prompt=the", *more]) == 2
        said = capsys.readouterr()
        assert said.out == "" and "does not continue texts" in said.err


def test_a_model_that_makes_no_vectors_is_refused(workdir, tmp_path, capsys):
    run = shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["model"] = {"name": "llama", "vocab_size": len(WORDS), "num_layers": 1, "embed_dim": 16, "num_heads": 2}
    (run / "config.json").write_text(json.dumps(config))
    assert main(["embed", f"--workdir={run}", "a"]) == 2
    assert "bert" in capsys.readouterr().err
