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
SAME = [
    ({"rope_theta": 500.0, "rope_scaling": None, "torch_dtype": "bfloat16"},
     {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "dtype": "bfloat16"}),
    ({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "bfloat16"},
     {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}, "dtype": "bfloat16"}),
    ({"rope_theta": 500.0, "torch_dtype": "bfloat16",
      "rope_scaling": {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 8192,
                       "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
     {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, "factor": 2.0, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, "dtype": "bfloat16"}),
]  # fmt: skip


def model_of(described):
    return construct(lookup(MODELS, described.family, "model.name"), described.fields)


@pytest.mark.parametrize(("old", "new"), SAME)
def test_both_dialects_say_the_same(old, new):
    assert configs.read(LLAMA | old) == configs.read(LLAMA | new)
    assert configs.read(LLAMA | old).fields["rope"]["theta"] == 500.0
    assert configs.read(LLAMA | old).dtype == "bfloat16"


LINEAR = LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}}


@pytest.mark.parametrize("config", [LLAMA, LLAMA | {"head_dim": 6, "num_key_value_heads": 1}, LINEAR, GPT2], ids=str)
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
    with pytest.raises(UserError, match=r"model_type='mystery'.*gpt2.*llama"):
        configs.read(LLAMA | {"model_type": "mystery"})


ROPE = {"rope.theta": 77.0, "rope.factor": 3.0, "rope.original": 16, "rope.low": 2.0, "rope.high": 5.0}
LIKE_LLAMA = {
    "vocab_size": 11, "num_layers": 3, "embed_dim": 12, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "mlp_dim": 10,
    "tied": True, "norm_eps": 1e-3,
} | ROPE  # fmt: skip
VALUES = {
    "gpt2": {"vocab_size": 11, "max_positions": 16, "num_layers": 3, "embed_dim": 12, "num_heads": 2, "mlp_dim": 10,
             "dropout": 0.2, "norm_eps": 1e-3},
    "llama": LIKE_LLAMA,
    "mistral": LIKE_LLAMA | {"window": 5},
    "olmo2": LIKE_LLAMA,
    "phi3": LIKE_LLAMA | {"window": 5, "dropout": 0.2},
    "qwen2": LIKE_LLAMA,
    "qwen3": LIKE_LLAMA,
}  # fmt: skip
OURS = {"attention", "head_dim", "dropout"}  # how it is computed or trained, or derived in a family without the field


@pytest.mark.parametrize("family", sorted(configs.FIELDS))
def test_every_field_of_a_model_survives_the_way_abroad_and_back(family):
    values = configs.nested(VALUES[family])
    model = construct(lookup(MODELS, family, "model.name"), values)
    missing = set(configs.flat(dataclasses.asdict(model))) - set(VALUES[family])
    assert missing <= OURS, "a field of the model that this test does not vary"
    shapes = {path: d.shape for path, d in model.declarations().items()}
    written = configs.write(family, dataclasses.asdict(model), shapes, context=16, dtype="float32")
    assert configs.read(written).fields == values


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "attention_factor": 3.0}}, "attention_factor"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "sliding_a"),
        ({"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"model_type": "phi3", "partial_rotary_factor": 0.75}, "partial_rotary_factor=0.75"),
        ({"model_type": "phi3", "rope_parameters": {"partial_rotary_factor": 0.75}}, "partial_rotary_factor=0.75"),
    ],
)
def test_what_a_family_cannot_do_is_refused(more, complaint):
    with pytest.raises(UserError, match=complaint):
        configs.read(LLAMA | more)


def test_windows_that_no_layer_has_are_none():
    plain = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 1}
    for windows in (
        {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1},
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        {"layer_types": ["full_attention", "full_attention"]},
    ):
        assert configs.read(plain | windows) == configs.read(plain)
