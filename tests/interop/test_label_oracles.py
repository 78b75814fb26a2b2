"""Heads for labels beside `transformers` on torch: each class that we have a map of, and runs by its pipelines."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.adapt.headed import Headed
from llm_jax.cli import main
from llm_jax.cli.classify import answering
from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.data.examples import forms
from llm_jax.data.examples.records import Record, Records
from llm_jax.interop.names.labelled import CLASSES, SPANS, TEXT, TOKENS, Head
from llm_jax.interop.save import Export, hf
from llm_jax.models import MODELS
from tests.interop.small import MODELS_OF
from tests.laws.conftest import drawn

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

AUTO = {TEXT: "SequenceClassification", TOKENS: "TokenClassification", SPANS: "QuestionAnswering"}
LABELS = ("bad", "good", "so-so")
CASES = [
    (family, kind, pooling)
    for family, kinds in CLASSES.items()
    for kind, found in kinds.items()
    for pooling in found.poolings or ["tokens"]
]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers")


@pytest.mark.parametrize(("family", "kind", "pooling"), CASES)
def test_scores_of_labels_are_those_of_the_class_that_loads_them(torch, transformers, tmp_path, family, kind, pooling):
    labels = LABELS if kind != SPANS else ("start", "end")
    sizes = MODELS_OF[family] | ({"pooler": True} if pooling == "pooler" else {})
    if family == "gpt2":  # whose heads are of width / heads abroad
        sizes = sizes | {"head_dim": None}
    if "moe" in sizes:  # torch's product of experts asks for rows of 16 bytes
        sizes = sizes | {"embed_dim": 16, "num_heads": 4, "moe": dataclasses.replace(sizes["moe"], mlp_dim=8)}
    plain = lookup(MODELS, family, "model.name")(**sizes)
    biased = CLASSES[family][kind].biased or kind != TEXT
    model = Headed(plain, labels, pooling, bias=biased)
    params = drawn(model)
    head = Head(family, kind, labels, pooling, biased)
    shapes = {path: d.shape for path, d in model.declarations().items()}
    what = Export(
        family, dataclasses.asdict(plain), head.read(shapes), 7, head=head,
        layers=plain.stacks() if hasattr(plain, "stacks") else {}, generation={"pad_token_id": 1},
    )  # fmt: skip
    flat = tree.flatten(params)
    hf(tmp_path, what, ((path, np.asarray(flat[path])) for path in what.paths()))
    auto = getattr(transformers, f"AutoModelFor{AUTO[kind]}")
    theirs, loaded = auto.from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert not any(loaded.values()), loaded
    assert type(theirs).__name__ == head.abroad.name
    if kind != SPANS:
        assert [theirs.config.id2label[i] for i in range(3)] == list(labels)
    tokens = np.random.default_rng(0).integers(2, 37, (2, 7))
    mask = np.ones((2, 7), np.int32)
    mask[1, 5:], tokens[1, 5:] = 0, 1
    with torch.no_grad():
        out = theirs.eval()(torch.tensor(tokens), attention_mask=torch.tensor(mask))
    wanted = out.logits if kind != SPANS else torch.stack([out.start_logits, out.end_logits], -1)
    batch = {"tokens": tokens, "segments": mask}
    found = jax.jit(lambda p: model.apply(p, batch).extras["scores"])(params)
    real = np.ones(2, bool) if kind == TEXT else mask > 0
    np.testing.assert_allclose(
        np.asarray(found)[real], wanted.numpy()[real], rtol=0, atol=1e-4 * float(wanted.abs().max())
    )


TINY = {
    "num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 32, "vocab_size": 300,
    "pad_token_id": 1,
}  # fmt: skip
NARROW = {"vocab_size": 300, "n_layer": 2, "n_embd": 24, "n_head": 3, "pad_token_id": 1}
FOREIGN = {
    "Bert": TINY, "Roberta": TINY | {"type_vocab_size": 1}, "ModernBert": TINY | {"classifier_pooling": "mean"},
    "GPT2": NARROW, "Llama": TINY | {"num_key_value_heads": 1}, "Qwen2": TINY | {"num_key_value_heads": 1},
}  # fmt: skip
PLAIN = ("GPT2", "Qwen2")
POOLED = {"Bert": "pooler", "Roberta": "pooler", "ModernBert": "mean"}
TYPED = ["the people of the union", "a good one, and bad", "naïve?"]


def foreign(transformers, torch, folder, name, kind, **config):
    """Save a model of `transformers` of random weights, with a tokenizer that frames texts as those of its kind do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    controls = ["<s>", "<pad>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    engine.train_from_iterator(
        TYPED * 9, trainers.BpeTrainer(vocab_size=290, special_tokens=controls, initial_alphabet=alphabet)
    )
    ends = [("<s>", 0), ("</s>", 2)]
    if name == "Roberta":
        engine.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    elif name not in PLAIN:
        single, pair = "<s> $A </s>", "<s> $A </s> $B:1 </s>:1"
        if name == "Llama":
            single, pair = "<s> $A", "<s> $A <s>:1 $B:1"
        engine.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=engine, bos_token="<s>", eos_token="</s>", pad_token="<pad>", cls_token="<s>",
        sep_token="</s>", model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] * (name == "Bert"))],
    )  # fmt: skip
    words.save_pretrained(folder)
    made = getattr(transformers, name + (f"For{AUTO[kind]}" if kind in AUTO else kind))
    torch.manual_seed(0)
    settings = made.config_class(**FOREIGN[name], **config, attn_implementation="eager")
    model = made(settings).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    model.save_pretrained(folder)
    assert main(["import", str(folder), f"--workdir={folder / 'run'}"]) == 0
    return open_run(folder / "run"), model, words


@pytest.mark.parametrize("name", FOREIGN)
def test_classify_says_of_an_imported_model_what_its_own_pipeline_says(torch, transformers, tmp_path, name):
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    run, model, words = foreign(transformers, torch, tmp_path, name, TEXT, **labels)
    said = answering(run, None)(TYPED)
    theirs = transformers.pipeline("text-classification", model=model, tokenizer=words)
    for line, found in zip(said, (theirs(text)[0] for text in TYPED), strict=True):
        label, probability = line.split()
        assert label == found["label"] and float(probability) == pytest.approx(found["score"], abs=1e-4)


@pytest.mark.parametrize("name", ["Bert", "GPT2"])
def test_a_number_of_an_imported_model_is_its_own(torch, transformers, tmp_path, name):
    run, model, words = foreign(transformers, torch, tmp_path, name, TEXT, num_labels=1)
    for text, said in zip(TYPED, answering(run, None)(TYPED), strict=True):
        with torch.no_grad():
            assert float(said) == pytest.approx(model(**words(text, return_tensors="pt")).logits.item(), abs=1e-4)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("kind", [TOKENS, SPANS])
def test_an_imported_model_reads_and_scores_as_its_own_class(torch, transformers, tmp_path, name, kind):
    labels = {"id2label": dict(enumerate(LABELS))} if kind == TOKENS else {}
    run, model, words = foreign(transformers, torch, tmp_path, name, kind, **labels)
    form = forms.build(run.resolved.values["data"]["form"])
    around = forms.Around(run.tokenizer, 64, 0)
    passage = "the people of the union, a good one"
    fields = {"question": "who is good?", "context": passage, "answers": {"text": [], "answer_start": []}}
    fields |= {"tokens": ["the", "people", "union"], "tags": ["bad"] * 3}
    records = Records("typed", lambda: [Record(fields, "row 1")])
    made = form.rows(form.encode(records, run.tokenizer, None), records, around, evaluation=True)
    batch = made.gather(np.arange(1), np.zeros(1, int))
    asked = words("the people union") if kind == TOKENS else words("who is good?", passage)
    length = len(asked["input_ids"])
    assert batch["tokens"][0, :length].tolist() == asked["input_ids"] and batch["segments"].sum() == length
    with torch.no_grad():
        out = model(**{key: torch.tensor([value]) for key, value in asked.items()})
    wanted = out.logits if kind == TOKENS else torch.stack([out.start_logits, out.end_logits], -1)
    found = jax.jit(lambda p: run.model.apply(p, batch).extras["scores"])(run.params())
    np.testing.assert_allclose(
        np.asarray(found)[:, :length], wanted.numpy(), rtol=0, atol=1e-4 * float(wanted.abs().max())
    )


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize(
    ("name", "base", "kind"),
    [
        ("Bert", "ForPreTraining", TEXT), ("Bert", "ForMaskedLM", TOKENS), ("Roberta", TEXT, TEXT),
        ("ModernBert", "ForMaskedLM", SPANS), ("GPT2", "LMHeadModel", TEXT), ("Llama", "ForCausalLM", TEXT),
        ("Qwen2", "ForCausalLM", TOKENS),
    ],
)  # fmt: skip
def test_an_adapter_with_a_head_is_what_peft_loads_and_merged_what_transformers_loads(
    torch, transformers, tmp_path, monkeypatch, name, base, kind, adapter
):
    peft = pytest.importorskip("peft")
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
    start, _, _ = foreign(transformers, torch, tmp_path, name, base)
    same = {"tokens": "a b", "tags": "bad good", "question": "x", "context": "a b"}
    same |= {"answers": {"text": ["b"], "answer_start": [2]}}
    rows = [{"text": f"{i} is good", "label": "good" if i % 2 else "bad", **same} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    classes = {"classes": ["bad", "good"]}
    reading = {"pooling": POOLED.get(name, "last"), "bias": name in POOLED}
    objective, form = {
        TEXT: ({"name": "classification", **reading}, {"name": "labelled", **classes}),
        TOKENS: ({"name": "tagging"}, {"name": "tagged", **classes}),
        SPANS: ({"name": "spans"}, {"name": "passages"}),
    }[kind]
    model = start.resolved.values["model"]
    recipe = RECIPE.format(file=str(tmp_path / "a.jsonl"), model=model, objective=objective, form=form)
    (tmp_path / "recipe.py").write_text(recipe)
    tuned = tmp_path / "tuned"
    flags = [f"--config.init_from={tmp_path / 'run'}", f"--config.adapt.name={adapter}", "--config.adapt.rank=3"]
    flags += ["--config.adapt.alpha=12", "--config.optimizer.learning_rate=0.05"]
    assert main(["train", f"--config={tmp_path / 'recipe.py'}", f"--workdir={tuned}", *flags]) == 0
    for how, code in (("hf", 0), ("peft", 0), ("gguf", 2)):
        assert main(["export", f"--workdir={tuned}", f"--to={tmp_path / how}", f"--format={how}"]) == code
    auto = getattr(transformers, f"AutoModelFor{AUTO[kind]}")
    loaded = auto.from_pretrained(tmp_path, attn_implementation="eager")
    loaded = peft.PeftModel.from_pretrained(loaded, tmp_path / "peft")
    run, tokens = open_run(tuned), np.random.default_rng(0).integers(3, 256, (2, 9))
    ours = np.asarray(jax.jit(lambda p: run.model.apply(p, {"tokens": tokens}).extras["scores"])(run.params()))
    for theirs in (loaded, auto.from_pretrained(tmp_path / "hf", attn_implementation="eager")):
        theirs.config.pad_token_id = 1
        with torch.no_grad():
            out = theirs.eval()(input_ids=torch.tensor(tokens), attention_mask=torch.ones(2, 9, dtype=int))
        found = out.logits if kind != SPANS else torch.stack([out.start_logits, out.end_logits], -1)
        np.testing.assert_allclose(found.numpy(), ours, rtol=0, atol=1e-4 * np.abs(ours).max())


RECIPE = '''"""Texts with labels."""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict({{
        "model": {{"num_layers": 1, "embed_dim": 32, "num_heads": 2, **{model!r}}},
        "objective": {objective!r},
        "optimizer": {{"name": "adamw", "learning_rate": 1e-2}},
        "data": {{
            "source": "jsonl", "options": {{"train": {file!r}, "held_out": 0.2}}, "form": {form!r},
            "tokenizer": {{"name": "bytes"}}, "batch_size": 8, "seq_len": 24,
        }},
        "train": {{"duration": "12 steps"}},
        "eval": {{"every": 0}},
        "log": {{"every": 6, "tensorboard": False}},
    }})
'''
BERT, LLAMA = {"name": "bert", "pooler": True, "head": False}, {"name": "llama", "num_kv_heads": 1}
TEXTS = ["a good one", "bad", "good, and bad, and good"]


def run_of(folder, monkeypatch, model, objective, labels):
    """A workdir that learnt labels of a few texts, exported."""
    monkeypatch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
    rows = [{"text": f"{i} is {'good' if i % 2 else 'bad'}", "label": labels(i)} for i in range(60)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = {"name": "labelled", **({"classes": ["bad", "good"]} if isinstance(labels(0), str) else {})}
    recipe = RECIPE.format(file=str(folder / "a.jsonl"), model=model, objective=objective, form=form)
    (folder / "recipe.py").write_text(recipe)
    assert main(["train", f"--config={folder / 'recipe.py'}", f"--workdir={folder / 'run'}"]) == 0
    assert main(["export", f"--workdir={folder / 'run'}", f"--to={folder / 'out'}"]) == 0
    return open_run(folder / "run"), str(folder / "out")


@pytest.mark.parametrize(
    ("model", "objective"),
    [(BERT, {"name": "classification", "pooling": "pooler"}), (LLAMA, {"name": "classification", "bias": False})],
)
def test_a_pipeline_says_of_typed_texts_what_classify_says(transformers, tmp_path, monkeypatch, model, objective):
    run, out = run_of(tmp_path, monkeypatch, model, objective, lambda i: "good" if i % 2 else "bad")
    said = answering(run, None)(TEXTS)
    theirs = transformers.pipeline("text-classification", model=out)
    for line, found in zip(said, (theirs(text)[0] for text in TEXTS), strict=True):
        label, probability = line.split()
        assert label == found["label"] and float(probability) == pytest.approx(found["score"], abs=1e-4)


def test_a_number_is_that_of_transformers(torch, transformers, tmp_path, monkeypatch):
    run, out = run_of(tmp_path, monkeypatch, BERT, {"name": "regression", "pooling": "pooler"}, float)
    words = transformers.AutoTokenizer.from_pretrained(out)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    assert theirs.config.problem_type == "regression" and theirs.config.num_labels == 1
    for text, said in zip(TEXTS, answering(run, None)(TEXTS), strict=True):
        with torch.no_grad():
            found = theirs(**words(text, return_tensors="pt")).logits.item()
        assert float(said) == pytest.approx(found, abs=1e-3)
