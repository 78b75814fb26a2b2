"""From a recipe and overrides to a complete configuration whose every value has an origin."""

import json

import pytest

from llm_jax.core.table import UserError
from llm_jax.models.moe.qwen3_moe import Qwen3Moe
from llm_jax.run import build
from llm_jax.run.config import FREE_ON_RESUME, construct, differences, load_recipe, resolve

RECIPE = {
    "model": {"name": "llama", "embed_dim": 64, "num_heads": 4},
    "data": {"source": "stdlib_docs", "batch_size": 8},
    "train": {"duration": "10 steps"},
}
ORDINARY = resolve(RECIPE)


def flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_every_value_has_an_origin():
    config = resolve(RECIPE, [("model.num_layers", "6"), ("train.duration", "20 steps")])
    assert list(config.origins) == [key for key, _ in flat(config.values)]
    assert config.origins["model.num_layers"] == config.origins["train.duration"] == "command line"
    assert config.origins["model.embed_dim"] == "recipe" and config.origins["optimizer.b1"] == "default"
    assert config.values["model"]["num_layers"] == 6 and config.values["train"]["duration"] == "20 steps"


OTHER = {  # a legal value of another kind than a small number, for keys that need one
    "export.format": "gguf",
    "export.dtype": "bfloat16", "compress.embeddings": "float32",
    "model.name": "gpt2", "optimizer.name": "adam", "optimizer.schedule.name": "linear", "data.source": "sotu",
    "data.packing": "first_fit", "data.options.held_out": "0.2", "objective.cross_entropy": "chunked",
    "train.duration": "7 epochs", "mesh.compute_dtype": "bfloat16", "mesh.remat": "full", "model.attention": "plain",
    "objective.name": "causal",
    "data.mixture": '[{"source": "sotu"}]', "optimizer.decay_exclude": '["x"]', "init_from": "elsewhere",
    "data.tokenizer.name": "characters", "launch.slurm.python": "python3", "launch.gke.namespace": "space",
    "train.learner": "gradient", "local.name": "diloco", "mesh.context_by": "heads",
    "adapt.name": "dora", "adapt.targets": '["x"]', "data.form": '{"name": "pairs"}', "sample.stopping": "full",
}  # fmt: skip

OF_TYPE = {
    bool: lambda old: str(not old), int: lambda old: str(old + 1), float: lambda old: str(old / 2 + 0.1),
    list: lambda old: '["x"]', dict: lambda old: '{"form": "NFD"}', type(None): lambda old: "1",
}  # fmt: skip


@pytest.mark.parametrize("key", [key for key, _ in flat(ORDINARY.values)])
def test_every_key_can_be_overridden_although_the_recipe_does_not_name_it(key):
    old = dict(flat(ORDINARY.values))[key]
    text = OTHER.get(key) or OF_TYPE[type(old)](old)
    found = dict(flat(resolve(RECIPE, [(key, text)]).values))
    assert any(found[k] != old for k in found if k.startswith(key)) or text == old


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model.num_layers", "6", 6),
        ("optimizer.learning_rate", "1e-3", 1e-3),
        ("optimizer.learning_rate", "1", 1.0),
        ("optimizer.clip_norm", "None", None),
        ("optimizer.clip_norm", "2", 2.0),
        ("optimizer.freeze", '["embed"]', ["embed"]),
        ("optimizer.groups", '{"embed": 0.5}', {"embed": 0.5}),
        ("optimizer.decay_exclude", "None", None),
        ("train.ema", "0.9", 0.9),
        ("train.ema", "None", None),
        ("eval.batches", "None", None),
        ("model.tied", "True", True),
        ("sample.prompts", '["one, two", "three"]', ["one, two", "three"]),
        ("data.options", '{"held_out": 0.5}', {"held_out": 0.5}),
        ("init_from", "runs/a=b", "runs/a=b"),
        ("init_from", "7", "7"),
        ("seed", "7", 7),
    ],
)
def test_text_becomes_what_the_field_is_for(key, text, value):
    node = resolve(RECIPE, [(key, text)]).values
    for name in key.split("."):
        node = node[name]
    assert node == value and type(node) is type(value)


def test_options_of_a_schedule_keep_their_types():
    overrides = [("optimizer.schedule.name", "wsd"), ("optimizer.schedule.decay_steps", "3")]
    config = resolve(RECIPE, overrides)
    assert config.values["optimizer"]["schedule"]["decay_steps"] == 3
    _, rate = build.optimizer(config, 10)
    assert rate(0) > rate(9) > 0


def test_members_bring_their_own_keys():
    assert "max_positions" in resolve(RECIPE | {"model": {"name": "gpt2"}}).values["model"]
    assert "momentum" in resolve(RECIPE | {"optimizer": {"name": "sgd"}}).values["optimizer"]
    with pytest.raises(UserError, match=r"max_positions is not a key"):
        resolve(RECIPE | {"model": {"name": "llama", "max_positions": 3}})


def test_a_resolved_configuration_is_data_and_resolves_to_itself():
    values = json.loads(json.dumps(ORDINARY.values))
    again = resolve(values)
    assert again.values == ORDINARY.values and again.hash() == ORDINARY.hash()
    assert differences(again.values, ORDINARY.values) == []


def test_the_hash_follows_every_value():
    hashes = {resolve(RECIPE, [o]).hash() for o in (("seed", "1"), ("seed", "2"), ("log.every", "3"))}
    assert len(hashes | {ORDINARY.hash()}) == 4


def test_differences_list_what_changes_the_result_and_nothing_else():
    for section in FREE_ON_RESUME:
        key, text = {
            "mesh": ("mesh.fsdp", "2"), "log": ("log.every", "3"), "checkpoint": ("checkpoint.every", "3"),
            "eval": ("eval.every", "3"), "sample": ("sample.tokens", "3"), "launch": ("launch.huge_pages", "False"),
            "export": ("export.every", "3"),
        }[section]  # fmt: skip
        assert differences(ORDINARY.values, resolve(RECIPE, [(key, text)]).values) == []
    changed = resolve(
        RECIPE, [("optimizer.learning_rate", "0.5"), ("model.rope.theta", "5"), ("mesh.compute_dtype", "bfloat16")]
    )
    assert differences(ORDINARY.values, changed.values) == [
        "mesh.compute_dtype: 'float32' -> 'bfloat16'",
        "model.rope.theta: 10000.0 -> 5.0",
        "optimizer.learning_rate: 0.001 -> 0.5",
    ]


def test_a_key_with_a_dot_is_a_key():
    old, new = ({"optimizer": {"groups": {"head.*": factor}}} for factor in (0.5, 1.0))
    assert differences(old, new) == ["optimizer.groups.head.*: 0.5 -> 1.0"]


def test_keys_that_one_side_lacks_are_differences():
    old, new = {"model": {"a": 1}}, {"model": {"b": 2}}
    assert differences(old, new) == ["model.a: 1 -> '(absent)'", "model.b: '(absent)' -> 2"]


def test_a_recipe_takes_its_argument(recipe):
    assert load_recipe(str(recipe))["model"]["name"] == "llama"
    assert load_recipe(f"{recipe}:gpt2")["model"]["name"] == "gpt2"


def test_a_model_from_a_saved_configuration_can_be_hashed():
    """JSON knows no tuples, and a compiled function keeps its model as a static argument."""
    fields = {"vocab_size": 8, "dense_layers": [0, 2], "rope": {"theta": 5.0}}
    model = construct(Qwen3Moe, fields)
    assert hash(model) == hash(construct(Qwen3Moe, fields)) and model.dense_layers == (0, 2)
