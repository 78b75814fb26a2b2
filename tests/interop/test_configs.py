"""config.json: both dialects are read, what is written is read back, and what is not understood is refused."""

import dataclasses

import pytest

from llm_jax.core.table import UserError, lookup
from llm_jax.interop import configs
from llm_jax.interop.fields import flat, nested
from llm_jax.models import MODELS
from llm_jax.nn.rotary import Rope
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


@pytest.mark.parametrize(
    "config", [LLAMA, LLAMA | {"head_dim": 6, "num_key_value_heads": 1}, LINEAR, GPT2, MAMBA2], ids=str
)
def test_what_is_written_is_read_back(config):
    first = configs.read(config)
    shapes = {path: d.shape for path, d in model_of(first).declarations().items()}
    written = configs.write(first.family, first.fields, shapes, context=64, dtype="float32")
    again = configs.read(written)
    assert {path: d.shape for path, d in model_of(again).declarations().items()} == shapes
    assert (again.family, again.context, again.dtype) == (first.family, first.context or 64, "float32")
    given = {k: v for k, v in flat(first.fields).items() if v is not None}
    assert given.items() <= flat(again.fields).items()


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


MOE = {
    "vocab_size": 11, "num_layers": 4, "embed_dim": 12, "num_heads": 4, "tied": True, "norm_eps": 1e-3,
    "moe.num_experts": 6, "moe.top_k": 3, "moe.mlp_dim": 5,
}  # fmt: skip
YARN = {
    "rope.theta": 77.0, "rope.factor": 3.0, "rope.original": 9, "rope.fast": 7.0, "rope.slow": 2.0,
    "rope.truncate": False,
}  # fmt: skip
ROPE = {
    "rope.kind": "llama3", "rope.theta": 77.0, "rope.factor": 3.0, "rope.original": 16, "rope.low": 2.0,
    "rope.high": 5.0,
}  # fmt: skip
PLAIN = {"rope.theta": 77.0, "rope.factor": 3.0}
ROPES = {
    "linear": PLAIN,
    "llama3": ROPE,
    "dynamic": PLAIN | {"rope.original": 9},
    "yarn": ROPE | {"rope.truncate": False, "rope.mscale": 0.7, "rope.mscale_all": 0.8, "rope.amplitude": 1.5},
    "longrope": PLAIN | {"rope.original": 9, "rope.short": [1.0, 2.0, 3.0], "rope.long": [3.0, 4.0, 5.0],
                         "rope.amplitude": 1.5},
}  # fmt: skip
ROPES = {kind: values | {"rope.kind": kind} for kind, values in ROPES.items()}
LIKE_LLAMA = {
    "vocab_size": 11, "num_layers": 3, "embed_dim": 12, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "mlp_dim": 10,
    "tied": True, "norm_eps": 1e-3,
} | ROPE  # fmt: skip
LIKE_GEMMA = {k: v for k, v in LIKE_LLAMA.items() if k != "tied"}
ENCODER = {
    "vocab_size": 11,
    "max_positions": 16,
    "num_layers": 3,
    "embed_dim": 12,
    "num_heads": 2,
    "mlp_dim": 10,
    "num_types": 4,
    "dropout": 0.2,
    "norm_eps": 1e-3,
}
SIDES = {
    "vocab_size": 11, "num_layers": 3, "encoder_layers": 2, "embed_dim": 12, "num_heads": 2, "mlp_dim": 10,
    "dropout": 0.2,
}  # fmt: skip
VALUES = {
    "bart": SIDES | {"max_positions": 16, "scaled": True},
    "marian": SIDES | {"activation": "relu", "scaled": True},
    "t5": SIDES | {"head_dim": 5, "buckets": 8, "furthest": 9, "gated": True, "tied": False, "norm_eps": 1e-3},
    "bert": ENCODER | {"head": False, "pooler": True},
    "roberta": ENCODER | {"head": True, "pooler": False},
    "deepseek_v3": MOE | YARN | {
        "dense_layers": 2, "mlp_dim": 10, "latent.rank": 7, "latent.query_rank": 6, "latent.nope_dim": 5,
        "latent.rope_dim": 2, "latent.value_dim": 3, "latent.interleaved": False, "selection.shared": 2,
        "selection.groups": 3, "selection.top_groups": 2, "selection.renormalize": False, "selection.scale": 1.5,
        "rope.mscale": 0.9, "rope.mscale_all": 0.8},
    "gemma": LIKE_GEMMA,
    "gemma2": LIKE_GEMMA | {"window": 5, "score_dim": 9, "score_cap": 3.0, "logit_cap": 4.0},
    "gemma3": LIKE_GEMMA | {"window": 5, "score_dim": 9, "global_every": 2, "local_theta": 55.0},
    "gpt2": {"vocab_size": 11, "max_positions": 16, "num_layers": 3, "embed_dim": 12, "num_heads": 2, "mlp_dim": 10,
             "dropout": 0.2, "norm_eps": 1e-3},
    "gpt_neox": {"vocab_size": 11, "num_layers": 3, "embed_dim": 24, "num_heads": 2, "mlp_dim": 10, "rotary": 0.5,
                 "tied": True, "dropout": 0.2, "norm_eps": 1e-3} | ROPE,
    "gpt_oss": MOE | YARN | {"num_kv_heads": 2, "head_dim": 6, "window": 5, "alpha": 1.5, "limit": 4.0},
    "llama": LIKE_LLAMA,
    "mamba2": {"vocab_size": 11, "num_layers": 3, "embed_dim": 12, "num_heads": 6, "head_dim": 4, "state_dim": 5,
               "num_groups": 3, "conv_width": 3, "tied": True, "norm_eps": 1e-3},
    "mistral": LIKE_LLAMA | {"window": 5},
    "mixtral": MOE | ROPE | {"num_kv_heads": 2, "head_dim": 6, "window": 5},
    "modernbert": {"vocab_size": 11, "num_layers": 5, "embed_dim": 12, "num_heads": 2, "mlp_dim": 10, "window": 6,
                   "global_every": 2, "theta": 55.0, "local_theta": 44.0, "norm_eps": 1e-3},
    "olmo2": LIKE_LLAMA,
    "phi3": {k: v for k, v in LIKE_LLAMA.items() if k not in ROPE} | ROPES["longrope"] | {
        "window": 5, "dropout": 0.2, "rotary": 0.75, "rope.short": [1.0, 2.0], "rope.long": [3.0, 4.0], "head_dim": 6},
    "qwen2": LIKE_LLAMA,
    "qwen3": LIKE_LLAMA,
    "qwen3_moe": MOE | ROPE | {"num_kv_heads": 2, "head_dim": 6, "mlp_dim": 10, "sparse_step": 2, "dense_layers": [1],
                               "renormalize": False},
}  # fmt: skip
# how it is computed or trained, or derived in a family without the field
OURS = {"attention", "kernel", "head_dim", "dropout", "moe.balance", "moe.z_loss", "selection.pull"}
LACKING = {  # what transformers' model would not heed, or tensors say
    "gpt_oss": {"rope.mscale", "rope.mscale_all"},
    "bart": {"logits_bias"},
    "marian": {"logits_bias"},
}


@pytest.mark.parametrize("family", sorted(configs.FIELDS))
def test_every_field_of_a_model_survives_the_way_abroad_and_back(family):
    values = nested(VALUES[family])
    model = construct(lookup(MODELS, family, "model.name"), values)
    missing = set(flat(dataclasses.asdict(model))) - set(VALUES[family])
    other = set().union(*ROPES.values()) if values.get("rope", {}).get("kind") else set()
    assert missing <= OURS | LACKING.get(family, set()) | other, "a field of the model that this test does not vary"
    shapes = {path: d.shape for path, d in model.declarations().items()}
    written = configs.write(family, dataclasses.asdict(model), shapes, context=16, dtype="float32")
    assert configs.read(written).fields == values


@pytest.mark.parametrize("kind", ROPES)
def test_every_kind_of_wavelengths_survives_too_in_either_dialect(kind):
    values = nested({k: v for k, v in LIKE_LLAMA.items() if k not in ROPE} | ROPES[kind])
    written = configs.write("llama", values, {}, context=64, dtype="float32")
    old, new = ({k: v for k, v in written.items() if k not in rest} for rest in (
        ("rope_parameters",), ("rope_scaling", "rope_theta")))  # fmt: skip
    assert configs.read(old).fields == configs.read(new).fields == values
    assert written["max_position_embeddings"] == (9 if kind == "dynamic" else 64)
    model = construct(lookup(MODELS, "llama", "model.name"), values)
    assert written == configs.write("llama", dataclasses.asdict(model), {}, context=64, dtype="float32")


def test_every_field_of_wavelengths_is_tested():
    assert set().union(*ROPES.values()) == {f"rope.{field.name}" for field in dataclasses.fields(Rope)}


PHI = LLAMA | {"model_type": "phi3", "max_position_embeddings": 64, "original_max_position_embeddings": 16}
SU = {"type": "su", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}


def test_phi_calls_longrope_by_older_names_and_says_its_context_beside_it():
    wanted = {"theta": 10_000.0, "kind": "longrope", "factor": 4.0, "original": 16, "short": [1.0, 1.5],
              "long": [2.0, 4.0]}  # fmt: skip
    for name in ("su", "yarn", "longrope"):
        assert configs.read(PHI | {"rope_scaling": SU | {"type": name}}).fields["rope"] == wanted
    silent = {k: v for k, v in PHI.items() if k != "original_max_position_embeddings"}
    long = configs.read(silent | {"max_position_embeddings": 8192, "rope_scaling": SU}).fields["rope"]
    assert (long["original"], long["factor"]) == (4096, 2.0)


def test_yarn_is_as_long_as_the_longest_text_says():
    said = {"rope_type": "yarn", "original_max_position_embeddings": 16, "factor": None}
    assert configs.read(LLAMA | {"rope_scaling": said}).fields["rope"]["factor"] == 4.0
    assert configs.read(LLAMA | {"rope_scaling": {"type": "yarn", "factor": 3.0}}).fields["rope"]["original"] == 64


def test_a_family_whose_files_cannot_say_a_kind_does_not_write_it():
    values = nested(VALUES["phi3"] | {"rope.kind": "linear", "rope.original": None, "rope.amplitude": None,
                                              "rope.short": [], "rope.long": []})  # fmt: skip
    with pytest.raises(UserError, match=r"model\.rope\.kind='linear' has no place.*default, longrope"):
        configs.write("phi3", values, {}, context=16, dtype="float32")


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (
            {"rope_parameters": {"rope_type": "default", "factor": 2.0}},
            r"'default' has rope_theta, and no more.*factor",
        ),
        ({"rope_scaling": {"mrope_section": [1, 2]}}, "mrope_section"),
        ({"rope_scaling": {"type": "dynamic"}}, "'dynamic' needs factor"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0, "alpha": 1000.0}}, "alpha"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0, "short_factor": [1.0]}}, "'longrope' needs long_factor"),
        ({"rope_scaling": {"type": "longrope", "short_factor": 3, "long_factor": [1.0]}}, "short_factor"),
        ({"rope_scaling": {"type": "longrope", "short_factor": ["x"], "long_factor": [1.0]}}, r"short_factor=\['x'\]"),
        ({"rope_scaling": {"type": "yarn"}}, "'yarn' needs factor"),
        ({"rope_scaling": {"type": "yarn", "factor": "four"}}, "factor='four' must be a number"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "low_freq_factor": 1.0}}, "low_freq_factor"),
        ({"rope_scaling": {"type": "proportional"}}, "'proportional'.*longrope"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"model_type": "phi3", "rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'.*default, longrope"),
        ({"model_type": "gpt_oss", "rope_parameters": {"rope_type": "default", "factor": 2.0}}, "no more.*factor"),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {"sliding_attention": {"rope_type": "default", "factor": 2.0}, "full_attention": {}},
            },
            "no more.*factor",
        ),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "attention_factor": 3.0}}, "attention_factor"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "sliding_a"),
        ({"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"model_type": "mixtral", "num_local_experts": 4, "attention_bias": True}, "attention_bias=True"),
        ({"model_type": "qwen3_moe", "num_experts": 4, "num_local_experts": 8}, "num_experts, num_local_experts"),
        ({"model_type": "qwen3_moe", "use_sliding_window": True}, "use_sliding_window=True"),
        ({"model_type": "gpt_oss", "layer_types": ["full_attention", "full_attention"]}, "layer_types"),
        ({"model_type": "gpt_oss", "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale_all_dim": 1.0}}, "msc"),
        ({"model_type": "gpt_oss", "rope_scaling": {"rope_type": "yarn", "attention_factor": 1.0}}, "attention_factor"),
        ({"model_type": "deepseek_v3", "rope_scaling": {"type": "llama3", "factor": 2.0}}, "llama3"),
        ({"model_type": "deepseek_v3", "rope_scaling": {"type": "yarn", "factor": None}}, "needs factor"),
        ({"model_type": "deepseek_v3", "num_key_value_heads": 1}, "num_key_value_heads=1"),
        ({"model_type": "deepseek_v3", "scoring_func": "softmax"}, "scoring_func='softmax'"),
    ],
)
def test_what_a_family_cannot_do_is_refused(more, complaint):
    with pytest.raises(UserError, match=complaint):
        configs.read(LLAMA | more)


def test_heads_of_gpt2_have_the_size_that_its_files_imply():
    fields = nested(VALUES["gpt2"])
    for size in (None, 6):
        assert configs.write("gpt2", fields | {"head_dim": size}, {}, context=16, dtype="float32")["n_head"] == 2
    with pytest.raises(UserError, match=r"model\.head_dim=5.*embed_dim=12 / model\.num_heads=2.*such as llama"):
        configs.write("gpt2", fields | {"head_dim": 5}, {}, context=16, dtype="float32")


def test_windows_that_no_layer_has_are_none():
    plain = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 1}
    for windows in (
        {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1},
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        {"layer_types": ["full_attention", "full_attention"]},
    ):
        assert configs.read(plain | windows) == configs.read(plain)


def test_what_is_not_said_is_what_transformers_takes():
    sparse = configs.read(LLAMA | {"model_type": "gpt_oss", "experts_per_token": 3}).fields
    assert sparse["rope"] == {
        "theta": 150_000.0, "factor": 32.0, "original": 4096, "fast": 32.0, "slow": 1.0, "truncate": False
    }  # fmt: skip
    assert sparse["num_kv_heads"] == 8 and sparse["moe"]["top_k"] == 3
    assert configs.read(LLAMA | {"model_type": "qwen3_moe"}).fields["head_dim"] == 4


def test_both_dialects_say_the_same_of_yarn():
    words = {"factor": 4.0, "beta_fast": 4, "mscale": 1.0, "mscale_all_dim": 0.5}
    old = {"rope_theta": 500.0, "rope_scaling": words | {"type": "yarn", "original_max_position_embeddings": 64}}
    new = {"rope_parameters": words | {"rope_type": "yarn", "rope_theta": 500.0}}
    plain = LLAMA | {"model_type": "deepseek_v3", "first_k_dense_replace": 1}
    first, second = (configs.read(plain | said) for said in (old, new))
    assert first == second and model_of(first).rope.original == 64


def test_a_scale_that_a_family_does_not_heed_is_not_written():
    values = nested(VALUES["gpt_oss"] | {"rope.mscale_all": 1.0})
    with pytest.raises(UserError, match=r"model\.rope\.mscale_all"):
        configs.write("gpt_oss", values, {}, context=16, dtype="float32")
