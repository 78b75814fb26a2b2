"""Adapters as `peft` reads them: in the files, and loaded by it beside `transformers` (make test-oracles)."""

import json

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.adapt import ADAPTERS
from llm_jax.adapt.adapted import adapted
from llm_jax.adapt.dora import lengths
from llm_jax.adapt.headed import KERNEL, Headed
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.interop.names import NAMES, numbered, slots
from llm_jax.interop.names.labelled import SPANS, TEXT, TOKENS, Head
from llm_jax.interop.peft import Adapter, peft
from llm_jax.interop.safetensors import File
from llm_jax.interop.save import Export
from llm_jax.models import MODELS
from llm_jax.optim.masks import layout
from tests.interop.small import MODELS_OF

TARGETS = {
    "gpt2": (r"attention/(query|value)$", "up"), "gpt_neox": (r"attention/(key|out)$", "mlp/down"),
    "mamba2": (r"mixer/(x|bc|out)$",), "deepseek_v3": (r"attention/(query|out|latent)$",),
    "gemma3": (r"attention/query$", "^global_blocks/mlp/up"),
    "phi3": (r"attention/(query|value)$", r"mlp/gate"),
}  # fmt: skip


def drawn(declared, seed):
    rng = np.random.default_rng(seed)
    return tree.unflatten({p: rng.normal(size=d.shape).astype(np.float32) for p, d in sorted(declared.items())})


def foreign(model, family, params):
    """{name: array} of our parameters in the words of transformers."""
    shapes = {path: d.shape for path, d in model.declarations().items()}
    what = Export(family, {}, shapes, 8, layers=numbered(lookup(NAMES, family, ""), model).layers)
    flat = tree.flatten(params)
    return what, {n: np.array(t) for n, t in what.tensors((p, np.asarray(flat[p])) for p in what.paths())}


@pytest.mark.rotates(4)
@pytest.mark.parametrize("family", sorted(MODELS_OF))
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_kernel_and_its_files_make_the_merged_kernel(family, name, tmp_path):
    """By peft's formulas: W + alpha/r · B A, and with DoRA m / |W + …| times that, rows of [O,I]."""
    model = lookup(MODELS, family, "model.name")(**MODELS_OF[family])
    kind = lookup(ADAPTERS, name, "adapt.name")(rank=2, alpha=3.0)
    both = adapted(model, kind, TARGETS.get(family, (r"attention/(query|out)$",)))
    params = drawn(both.declarations(), 0)
    what, base = foreign(model, family, params["base"])
    _, merged = foreign(model, family, both.merge(params))
    kernels = tree.flatten(params["base"])
    parts = {
        path: {n: params_at(params, path, n) for n in kind.declarations(use.declared, use.layout)}
        for path, use in both.chosen.items()
    }

    def begun(path):
        return np.asarray(lengths(kernels[path], layout_of(path, kernels)))

    peft(tmp_path, what, Adapter(2, 3.0, 0.0, parts, begun, nothing))
    config, file = (
        json.loads((tmp_path / "adapter_config.json").read_text()),
        File(tmp_path / "adapter_model.safetensors"),
    )
    changed = {n.removesuffix(".weight") for n in merged if not np.array_equal(merged[n], base[n])}
    found = {n.split(".lora_")[0].removeprefix("base_model.model.") for n in file.infos}
    assert changed == found
    names = slots(what.names(), what.shapes)
    chosen = {
        n
        for n in (m.removesuffix(".weight") for m in names)
        if any(n == t or n.endswith(f".{t}") for t in config["target_modules"])
    }
    assert chosen == found
    for module in found:
        a, b = (file.read(f"base_model.model.{module}.lora_{part}.weight").astype(np.float32) for part in "AB")
        rank = config["rank_pattern"].get(module.replace(".", r"\."), config["r"])
        alpha = config["alpha_pattern"].get(module.replace(".", r"\."), config["lora_alpha"])
        assert len(a) == rank
        turned = names[f"{module}.weight"].rule.layout == "in_out"
        kernel = base[f"{module}.weight"].T if turned else base[f"{module}.weight"]
        wanted = merged[f"{module}.weight"].T if turned else merged[f"{module}.weight"]
        kernel = kernel + alpha / rank * b @ a
        if name == "dora":
            magnitude = file.read(f"base_model.model.{module}.lora_magnitude_vector")
            kernel = kernel * (magnitude / np.linalg.norm(kernel, axis=1))[:, None]
        np.testing.assert_allclose(kernel, wanted, rtol=1e-4, atol=1e-4, err_msg=module)


def params_at(params, path, name):
    return tree.flatten(params["adapter"])[f"{path}/{name}"]


def nothing(path):
    return np.zeros(0)


def layout_of(path, kernels):
    return layout(path, kernels[path].shape)


@pytest.mark.parametrize(
    ("family", "kind", "module", "task"),
    [
        ("roberta", TEXT, "classifier", "SEQ_CLS"), ("gpt2", TEXT, "score", "SEQ_CLS"),
        ("llama", TOKENS, "score", "TOKEN_CLS"), ("modernbert", SPANS, "classifier", "QUESTION_ANS"),
    ],
)  # fmt: skip
def test_a_head_stands_whole_beside_the_adapter(family, kind, module, task, tmp_path):
    plain = lookup(MODELS, family, "")(**MODELS_OF[family] | ({"pooler": True} if family == "roberta" else {}))
    pooling = "tokens" if kind != TEXT else "pooler" if family == "roberta" else "last"
    head = Head(family, kind, ("a", "b"), pooling, bias=family != "gpt2")
    headed = Headed(plain, head.labels, pooling, bias=head.bias)
    both = adapted(headed, lookup(ADAPTERS, "lora", "")(rank=2), ("attention/query$", KERNEL))
    params = drawn(both.declarations(), 0)
    merged = tree.flatten(both.merge(params))
    shapes = head.read({path: leaf.shape for path, leaf in merged.items()})
    what = Export(family, {}, shapes, 8, layers=plain.stacks() if hasattr(plain, "stacks") else {}, head=head)
    parts = {path: {n: params_at(params, path, n) for n in ("down", "up")} for path in both.chosen}
    peft(tmp_path, what, Adapter(2, 2.0, 0.0, parts, nothing, lambda path: np.asarray(merged[path])))
    config, file = (
        json.loads((tmp_path / "adapter_config.json").read_text()),
        File(tmp_path / "adapter_model.safetensors"),
    )
    assert (config["task_type"], config["modules_to_save"]) == (task, [module])
    theirs = dict(what.tensors((path, np.asarray(merged[path])) for path in what.paths()))
    whole = {n for n in theirs if n.startswith(f"{module}.")}
    assert {n.removeprefix("base_model.model.") for n in file.infos if ".lora_" not in n} == whole != set()
    for name in whole:
        np.testing.assert_array_equal(file.read(f"base_model.model.{name}"), theirs[name], err_msg=name)
    assert not any(f"{module}." in n and ".lora_" in n for n in file.infos)


def test_an_adapter_beside_weights_that_its_class_would_not_load_is_refused(tmp_path):
    head = Head("llama", SPANS, ("start", "end"), "tokens")
    with pytest.raises(UserError, match=r"LlamaForQuestionAnswering calls all weights otherwise .*--format=hf"):
        peft(tmp_path, Export("llama", {}, {}, 8, head=head), Adapter(2, 2.0, 0.0, {}, nothing, nothing))


def test_a_kernel_that_is_no_module_of_its_own_is_refused(tmp_path):
    model = lookup(MODELS, "mixtral", "model.name")(**MODELS_OF["mixtral"])
    for target in ("experts/up", "embed/tokens"):
        both = adapted(model, lookup(ADAPTERS, "lora", "")(), (target,))
        params = drawn(both.declarations(), 0)
        what, _ = foreign(model, "mixtral", params["base"])
        (path,) = both.chosen
        with pytest.raises(UserError, match=f"--format=peft: {path}"):
            peft(tmp_path, what, Adapter(8, 8.0, 0.0, {path: {}}, nothing, nothing))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", ("num_kv_heads=2",)), ("gpt2", ()), ("gpt_neox", ()), ("gemma3", ("global_every=2",)), ("phi3", ()),
    ],
)  # fmt: skip
def test_peft_loads_a_trained_adapter_and_says_the_same(recipe, tmp_path, family, fields, name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    library = pytest.importorskip("peft")
    shape = [f"--config.model.{field}" for field in fields if not (family == "gpt2" and "mlp" in field)]
    shape += ["--config.train.duration=3 steps", "--config.eval.batches=1", "--config.eval.every=0"]
    recipe = f"--config={recipe}:{family}"
    targets = str(list(TARGETS.get(family, ("attention/(query|out)$",))))
    assert main(["train", recipe, f"--workdir={tmp_path / 'base'}", *shape]) == 0
    more = [f"--config.init_from={tmp_path / 'base'}", f"--config.adapt.name={name}", "--config.adapt.rank=3"]
    more += [f"--config.adapt.targets={targets}", "--config.adapt.alpha=30", "--config.optimizer.learning_rate=0.05"]
    assert main(["train", recipe, f"--workdir={tmp_path / 'tuned'}", *shape, *more]) == 0
    assert main(["export", f"--workdir={tmp_path / 'base'}", f"--to={tmp_path / 'hf'}"]) == 0
    assert main(["export", f"--workdir={tmp_path / 'tuned'}", f"--to={tmp_path / 'merged'}"]) == 0
    assert main(["export", f"--workdir={tmp_path / 'tuned'}", f"--to={tmp_path / 'peft'}", "--format=peft"]) == 0
    tokens = np.random.default_rng(0).integers(0, 256, (2, 24))
    run = open_run(tmp_path / "tuned")
    ours = np.asarray(jax.jit(lambda p, t: run.model.apply(p, {"tokens": t}).logits)(run.params(), tokens))

    def theirs(model):
        return model.eval()(torch.tensor(tokens)).logits.detach().numpy()

    base, merged = (transformers.AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("hf", "merged"))
    before = theirs(base)
    loaded = theirs(library.PeftModel.from_pretrained(base, tmp_path / "peft"))
    np.testing.assert_allclose(loaded, ours, rtol=0, atol=1e-4 * np.abs(ours).max())
    np.testing.assert_allclose(theirs(merged), ours, rtol=0, atol=1e-4 * np.abs(ours).max())
    assert np.abs(before - ours).max() > 0.1
