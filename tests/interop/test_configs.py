"""config.json: both dialects are read, what is written is read back, and what is not understood is refused."""

import dataclasses

import pytest

from llm_jax.core.table import UserError, lookup
from llm_jax.interop import configs
from llm_jax.models import MODELS
from llm_jax.run.config import construct

LLAMA = {
    "model_type": "llama", "vocab_size": 11, "num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 3,
    "intermediate_size": 20, "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_positions": 16, "vocab_size": 11, "n_layer": 2, "n_embd": 12, "n_head": 3}
MAMBA2 = {
    "model_type": "mamba2", "vocab_size": 11, "num_hidden_layers": 2, "hidden_size": 12, "num_heads": 3, "head_dim": 8,
    "state_size": 5, "n_groups": 1, "expand": 2, "time_step_limit": [0.0, float("inf")],
}  # fmt: skip
SAME = [
    ({"rope_theta": 500.0, "rope_scaling": None, "torch_dtype": "bfloat16"},
     {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "dtype": "bfloat16"}),
]  # fmt: skip


def model_of(described):
    return construct(lookup(MODELS, described.family, "model.name"), described.fields)


@pytest.mark.parametrize(("old", "new"), SAME)
def test_both_dialects_say_the_same(old, new):
    assert configs.read(LLAMA | old) == configs.read(LLAMA | new)
    assert configs.read(LLAMA | old).fields["rope"]["theta"] == 500.0
    assert configs.read(LLAMA | old).dtype == "bfloat16"


@pytest.mark.parametrize("config", [LLAMA, LLAMA | {"head_dim": 6, "num_key_value_heads": 1}, GPT2, MAMBA2], ids=str)
def test_what_is_written_is_read_back(config):
    first = configs.read(config)
    shapes = {path: d.shape for path, d in model_of(first).declarations().items()}
    written = configs.write(first.family, first.fields, shapes, context=64, dtype="float32")
    again = configs.read(written)
    assert {path: d.shape for path, d in model_of(again).declarations().items()} == shapes
    assert (again.family, again.context, again.dtype) == (first.family, first.context or 64, "float32")
    given = {k: v for k, v in configs.flat(first.fields).items() if v is not None}
    assert given.items() <= configs.flat(again.fields).items()


def test_all_that_is_wrong_is_told_at_once():
    wrong = LLAMA | {"hidden_act": "gelu", "mystery": 3, "rope_scaling": {"type": "su"}}
    del wrong["hidden_size"]
    with pytest.raises(UserError) as error:
        configs.read(wrong)
    for word in ("hidden_act='gelu'", "silu", "mystery=3", "'su'", "hidden_size is missing"):
        assert word in str(error.value)


def test_a_family_is_found_by_either_name_or_refused():
    assert configs.family_of({"architectures": ["GPT2LMHeadModel"]}) == "gpt2"
    with pytest.raises(UserError, match=r"model_type='mystery'.*gpt2, llama"):
        configs.read(LLAMA | {"model_type": "mystery"})


VALUES = {
    "gpt2": {"vocab_size": 11, "max_positions": 16, "num_layers": 3, "embed_dim": 12, "num_heads": 2, "mlp_dim": 10,
             "dropout": 0.2, "norm_eps": 1e-3},
    "llama": {"vocab_size": 11, "num_layers": 3, "embed_dim": 12, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6,
              "mlp_dim": 10, "tied": True, "norm_eps": 1e-3, "rope.theta": 77.0},
    "mamba2": {"vocab_size": 11, "num_layers": 3, "embed_dim": 12, "num_heads": 6, "head_dim": 4, "state_dim": 5,
               "num_groups": 3, "conv_width": 3, "tied": True, "norm_eps": 1e-3},
}  # fmt: skip
OURS = {
    "attention",
    "kernel",
    "head_dim",
    "dropout",
}  # how it is computed or trained, or derived in a family without the field


@pytest.mark.parametrize("family", sorted(configs.FIELDS))
def test_every_field_of_a_model_survives_the_way_abroad_and_back(family):
    values = configs.nested(VALUES[family])
    model = construct(lookup(MODELS, family, "model.name"), values)
    missing = set(configs.flat(dataclasses.asdict(model))) - set(VALUES[family])
    assert missing <= OURS, "a field of the model that this test does not vary"
    shapes = {path: d.shape for path, d in model.declarations().items()}
    written = configs.write(family, dataclasses.asdict(model), shapes, context=16, dtype="float32")
    assert configs.read(written).fields == values
