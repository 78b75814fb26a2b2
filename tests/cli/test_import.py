"""import and export: a workdir like any other, the same tensors back, and nothing half-written."""

import json
import resource
import shutil

import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate
from llm_jax.interop import configs, safetensors
from llm_jax.interop.fields import flat
from llm_jax.interop.names import NAMES, numbered, slots
from llm_jax.interop.safetensors import Directory, Info
from llm_jax.models import MODELS
from llm_jax.run.config import construct
from llm_jax.text import tokenizers

CONFIG = {
    "llama": {
        "model_type": "llama", "vocab_size": 280, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 500.0, "torch_dtype": "float32",
    },
    "gpt2": {"model_type": "gpt2", "vocab_size": 280, "n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 64},
}  # fmt: skip
GENERATION = {"do_sample": True, "temperature": 0.3, "top_p": 0.9, "eos_token_id": 261}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
SHARD = 20_000


def tensors_of(family):
    described = configs.read(CONFIG[family])
    model = construct(lookup(MODELS, described.family, "family"), described.fields)
    table = slots(
        numbered(lookup(NAMES, family, "names"), model), {p: d.shape for p, d in model.declarations().items()}
    )
    draw = np.random.default_rng(0)
    return {n: draw.standard_normal(s.rule.shape(s.shapes), np.float32) * 0.1 for n, s in table.items()}


def write(folder, config, tensors, limit=1 << 30):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    infos = {n: Info(t.shape, t.dtype) for n, t in tensors.items()}
    safetensors.write(folder, infos, tensors.items(), limit)


@pytest.fixture(scope="module")
def words():
    return tokenizers.build("bpe", {"vocab_size": 262}, lambda: ["the people of the union"] * 3)


@pytest.fixture
def source(tmp_path, words):
    """A directory of Hugging Face: a llama in several files, with all that comes along."""
    folder = tmp_path / "source"
    write(folder, CONFIG["llama"], tensors_of("llama"), SHARD)
    (folder / "tokenizer.json").write_bytes(words.files["tokenizer.json"])
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "chat_template": TEMPLATE}))
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory, words):
    """The workdir of an imported llama."""
    folder = tmp_path_factory.mktemp("imported")
    write(folder / "source", CONFIG["llama"], tensors_of("llama"))
    (folder / "source/tokenizer.json").write_bytes(words.files["tokenizer.json"])
    (folder / "source/tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    assert main(["import", str(folder / "source"), f"--workdir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command that must be refused; nothing may be written; return its message."""

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        code = main([str(a) for a in arguments])
        err = capsys.readouterr().err
        assert code == 2, err
        assert sorted(tmp_path.rglob("*")) == before and "Traceback" not in err
        return err

    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_comes_in_and_goes_out_with_all_that_belongs_to_it(source, tmp_path, dtype):
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["import", str(source), f"--workdir={run}"]) == 0
    opened = open_run(run)
    assert opened.steps == [0] and opened.config.model.rope.theta == 500.0
    assert (opened.config.sample.temperature, opened.config.sample.top_p) == (0.3, 0.9)
    assert main(["export", f"--workdir={run}", f"--to={out}", f"--dtype={dtype}"]) == 0
    theirs, ours = Directory(source), Directory(out)
    assert theirs.infos.keys() == ours.infos.keys()
    for name in theirs.infos:
        np.testing.assert_array_equal(ours.read(name), theirs.read(name).astype(ours.infos[name].dtype))
        assert ours.infos[name].dtype.name == dtype
    config = json.loads((out / "config.json").read_text())
    assert (config["max_position_embeddings"], config["rope_theta"], config["eos_token_id"]) == (64, 500.0, 261)
    assert config["rope_parameters"]["rope_theta"] == 500.0 and config["dtype"] == config["torch_dtype"] == dtype
    assert (out / "chat_template.jinja").read_text() == TEMPLATE
    assert json.loads((out / "generation_config.json").read_text()).items() >= GENERATION.items()
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_gpt2_comes_in_and_goes_out(tmp_path):
    tensors = tensors_of("gpt2")
    write(tmp_path / "source", CONFIG["gpt2"], tensors)
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 0
    assert main(["export", f"--workdir={tmp_path / 'run'}", f"--to={tmp_path / 'out'}"]) == 0
    out = Directory(tmp_path / "out")
    assert out.infos.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(out.read(name), tensor)


def test_gguf_goes_out_and_comes_in(imported, tmp_path, capsys):
    pytest.importorskip("gguf")
    out, again = tmp_path / "out", tmp_path / "again"
    assert main(["export", f"--workdir={imported}", f"--to={out}", "--format=gguf"]) == 0
    assert main(["import", str(out / "model.gguf"), f"--workdir={again}"]) == 0
    first, second = open_run(imported), open_run(again)
    assert first.model.declarations().keys() == second.model.declarations().keys()
    assert second.config.model.rope.theta == 500.0 and second.config.model.norm_eps == 1e-5
    wanted = tree.flatten(first.params())
    for path, leaf in tree.flatten(second.params()).items():
        np.testing.assert_array_equal(leaf, wanted[path], err_msg=path)
    text = "the people of 1790"
    assert second.tokenizer.encode(text).tolist() == first.tokenizer.encode(text).tolist()


def test_an_imported_model_samples_evaluates_and_begins_a_training(imported, recipe, tmp_path, capsys):
    assert main(["sample", f"--workdir={imported}", "--prompt=the people", "--tokens=3", "--greedy"]) == 0
    text = tmp_path / "other.txt"
    text.write_text("the people of the union\n")  # shorter than a row of training would be
    assert main(["evaluate", f"--workdir={imported}", f"--data={text}"]) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    model = {k: v for k, v in flat(open_run(imported).resolved.values["model"]).items() if v is not None}
    flags = [f"--config.model.{k}={v}" for k, v in model.items() if k not in ("name", "vocab_size")]
    more = ["model.vocab_size=280", f"init_from={imported}", "train.duration=1 steps", "eval.every=0"]
    train = ["train", f"--config={recipe}", f"--workdir={tmp_path / 'new'}", *flags]
    assert main([*train, *(f"--config.{m}" for m in more)]) == 0
    assert open_run(tmp_path / "new").tokenizer.kind == "huggingface"


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
def test_all_ends_of_a_text_come_in_end_a_sample_and_go_out(source, tmp_path, capsys, words, place):
    run, end = tmp_path / "run", words.eos_id
    sample = ["sample", f"--workdir={run}", "--prompt=the people", "--tokens=6", "--greedy"]
    assert main(["import", str(source), f"--workdir={run}"]) == 0
    opened = open_run(run)
    (ids,) = generate(
        opened.model, opened.params(), [words.encode("the people").tolist()], max_new_tokens=6, settings=Sampling(0.0)
    )
    cut = next(n for n in range(1, 6) if ids[n] not in ids[:n])
    ends = [end, ids[cut], 7]
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"eos_token_id": ends}))
    (source / "generation_config.json").unlink()
    if place == "generation_config.json":
        (source / place).write_text(json.dumps(GENERATION | {"eos_token_id": ends}))
    shutil.rmtree(run)
    assert main(["import", str(source), f"--workdir={run}"]) == 0
    assert open_run(run).config.sample.temperature == (0.3 if place == "generation_config.json" else 0.8)
    capsys.readouterr()
    assert main(sample) == 0
    assert capsys.readouterr().out == "the people" + words.decode(ids[:cut]) + "\n"
    assert main(["export", f"--workdir={run}", f"--to={tmp_path / 'out'}"]) == 0
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["eos_token_id"] == ends
    assert main(["export", f"--workdir={run}", f"--to={tmp_path / 'gguf'}", "--format=gguf"]) == 0
    assert main(["import", str(tmp_path / "gguf/model.gguf"), f"--workdir={tmp_path / 'again'}"]) == 0
    assert open_run(tmp_path / "again").stops == sorted(ends)


def test_without_a_tokenizer_it_is_imported_with_a_warning_and_text_verbs_say_what_is_missing(tmp_path, capsys):
    write(tmp_path / "source", CONFIG["llama"], tensors_of("llama"))
    run = f"--workdir={tmp_path / 'run'}"
    assert main(["import", str(tmp_path / "source"), run]) == 0
    assert "has no tokenizer" in capsys.readouterr().err
    assert main(["sample", run, "--prompt=x"]) == 2
    assert "has no tokenizer/" in capsys.readouterr().err
    assert main(["export", run, f"--to={tmp_path / 'out'}"]) == 0
    assert not (tmp_path / "out/tokenizer.json").exists()


def test_verbs_that_need_text_of_the_run_say_so(imported, refused):
    assert "--data=FILES" in refused("evaluate", f"--workdir={imported}")


def test_an_imported_model_is_not_trained_in_its_place(imported, recipe, refused):
    assert "init_from" in refused("train", f"--config={recipe}", f"--workdir={imported}")


def broken(folder, what):
    """Spoil a directory; return words that the message must have."""
    config = json.loads((folder / "config.json").read_text())
    tensors = {n: Directory(folder).read(n) for n in Directory(folder).infos}
    for file in folder.glob("model*"):
        file.unlink()
    name = "model.layers.1.mlp.up_proj.weight"
    words = [name]
    if what == "missing":
        del tensors[name], tensors["model.norm.weight"]
        words += ["missing", "model.norm.weight"]
    elif what == "misshapen":
        tensors[name] = tensors[name][:-1]
        words += ["[23, 16]", "[24, 16]"]
    elif what == "unknown":
        tensors["model.layers.1.mlp.upproj.weight"] = tensors[name]
        words += ["unknown", "did you mean"]
    elif what == "integers":
        tensors[name] = tensors[name].astype(np.int32)
        words += ["int32"]
    elif what == "config":
        config |= {"hidden_act": "gelu", "mystery": 1}
        words = ["hidden_act='gelu'", "mystery=1"]
    elif what == "another family":
        config["model_type"] = "mystery"
        words = ["mystery", "gpt2", "llama"]
    elif what == "vocabulary":
        config["vocab_size"] = 100
        tensors |= {n: tensors[n][:100] for n in ("model.embed_tokens.weight", "lm_head.weight")}
        words = ["model.vocab_size=100", "262"]
    elif what == "copies":
        config["tie_word_embeddings"] = True
        words = ["lm_head.weight differ"]
    write(folder, config, tensors)
    return words


@pytest.mark.parametrize(
    "what",
    ["missing", "misshapen", "unknown", "integers", "config", "another family", "vocabulary", "copies"],
)
def test_what_does_not_fit_is_told_and_nothing_is_written(source, refused, tmp_path, what):
    words = broken(source, what)
    message = refused("import", source, f"--workdir={tmp_path / 'run'}")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("what", ["missing", "misshapen", "unknown"])
def test_a_partial_import_is_taken_only_when_asked_for(source, tmp_path, capsys, what):
    broken(source, what)
    assert main(["import", str(source), f"--workdir={tmp_path / 'run'}", "--partial"]) == 0
    told = capsys.readouterr().err
    assert ("blocks/mlp/up" in told) == (what != "unknown")
    assert all(np.isfinite(leaf).all() for leaf in tree.flatten(open_run(tmp_path / "run").params()).values())


def test_pickles_are_not_read(source, refused, tmp_path):
    for file in source.glob("model*"):
        file.unlink()
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    for path in (source, source / "pytorch_model.bin"):
        message = refused("import", path, f"--workdir={tmp_path / 'run'}")
        assert "pytorch_model.bin is a pickle" in message and "save_pretrained" in message


@pytest.mark.parametrize("described", [True, False])
def test_a_directory_that_holds_a_gguf_file_alone_is_answered_with_its_name(source, refused, tmp_path, described):
    for file in source.iterdir():
        if file.name != "config.json" or not described:
            file.unlink()
    (source / "model.Q4_1.gguf").write_bytes(b"GGUF")
    message = refused("import", source, f"--workdir={tmp_path / 'run'}")
    assert f"SRC={source / 'model.Q4_1.gguf'}" in message


def test_code_in_a_directory_is_never_run(source, tmp_path):
    for name in ("modeling_x.py", "conftest.py", "sitecustomize.py", "tokenizer.py"):
        (source / name).write_text("raise SystemExit('it ran')")
    config = json.loads((source / "config.json").read_text()) | {"auto_map": {"AutoModel": "modeling_x.X"}}
    (source / "config.json").write_text(json.dumps(config))
    assert main(["import", str(source), f"--workdir={tmp_path / 'run'}"]) == 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"), ("config.json", "[]"), ("config.json", "[" * 100_000), ("config.json", "{}"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../a.safetensors"}}'), ("tokenizer.json", "{}"),
        ("generation_config.json", "3"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_its_name_says_is_refused(source, refused, tmp_path, file, content):
    (source / file).write_text(content)
    message = refused("import", source, f"--workdir={tmp_path / 'run'}")
    assert file in message


def test_sources_and_places_that_are_not_there_or_taken_are_refused(source, imported, refused, tmp_path):
    assert "not there" in refused("import", tmp_path / "nowhere", f"--workdir={tmp_path / 'run'}")
    assert "config.json" in refused("import", tmp_path, f"--workdir={tmp_path / 'run'}")
    assert "not empty" in refused("import", source, f"--workdir={imported}")
    assert "not empty" in refused("export", f"--workdir={imported}", f"--to={source}")
    assert "no checkpoint" not in refused("import")
    assert "SRC" in refused("import", f"--workdir={tmp_path / 'run'}")
    assert "step 7" in refused("export", f"--workdir={imported}", "--step=7", f"--to={tmp_path / 'out'}")
    assert "hf" in refused("export", f"--workdir={imported}", "--format=onnx", f"--to={tmp_path / 'out'}")


def test_a_full_disk_leaves_nothing(source, tmp_path, refused):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        assert "could not be saved" in refused("import", source, f"--workdir={tmp_path / 'run'}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_nothing(imported, tmp_path, refused, monkeypatch):
    def fail(folder, *_):
        (folder / "half").write_text("")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors, "write", fail)
    assert "no space left" in refused("export", f"--workdir={imported}", f"--to={tmp_path / 'out'}")


def test_a_weight_too_large_for_float16_is_refused(source, tmp_path, refused):
    tensors = {n: Directory(source).read(n) for n in Directory(source).infos}
    tensors["model.norm.weight"] += 1e6
    write(tmp_path / "large", CONFIG["llama"], tensors)
    assert main(["import", str(tmp_path / "large"), f"--workdir={tmp_path / 'run'}"]) == 0
    message = refused("export", f"--workdir={tmp_path / 'run'}", "--dtype=float16", f"--to={tmp_path / 'out'}")
    assert "model.norm.weight" in message and "bfloat16" in message


def test_a_damaged_checkpoint_is_not_exported(imported, tmp_path, refused):
    shutil.copytree(imported, tmp_path / "run")
    data = max((tmp_path / "run/checkpoints/0").rglob("d/*"), key=lambda f: f.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    assert "damaged" in refused("export", f"--workdir={tmp_path / 'run'}", f"--to={tmp_path / 'out'}")
