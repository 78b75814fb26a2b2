"""One tiny model of each family, with parameters that no symmetry hides behind: nothing is zero or one."""

import os
from functools import partial

import jax
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.core.types import Counts
from llm_jax.interop.arpa import writer
from llm_jax.models import MODELS
from llm_jax.models.classical.backoff import Backoff, arrays
from llm_jax.models.classical.ngram import Ngram
from llm_jax.models.moe.deepseek_v3 import Latent, Selection
from llm_jax.nn.initial import ones
from llm_jax.nn.moe.router import Moe
from llm_jax.nn.rotary import Yarn
from tests.laws.kinds import KINDS, TWINS

_SMALL = {"vocab_size": 40, "num_layers": 2, "embed_dim": 16, "num_heads": 4}

_MOE = Moe(num_experts=4, top_k=2, mlp_dim=12, balance=0.1, z_loss=0.1)

TINY = {
    "backoff": {"vocab_size": 40, "sizes": (40, 46, 44)},
    "deepseek_v3": _SMALL
    | {
        "num_layers": 3,
        "mlp_dim": 24,
        "latent": Latent(rank=10, query_rank=8, nope_dim=4, rope_dim=2, value_dim=6),
        "rope": Yarn(factor=4.0, original=8, mscale=1.0, mscale_all=0.5),
        "moe": _MOE,
        "selection": Selection(groups=2, top_groups=1, scale=1.5),
    },
    "gpt_oss": _SMALL
    | {"num_kv_heads": 2, "head_dim": 6, "window": 4, "moe": _MOE, "rope": Yarn(factor=4.0, original=8)},
    "mamba2": _SMALL | {"head_dim": 8, "state_dim": 6, "num_groups": 2, "conv_width": 3},
    "gru": {"vocab_size": 40, "num_layers": 2, "embed_dim": 16},
    "lstm": {"vocab_size": 40, "num_layers": 2, "embed_dim": 16, "tied": False},
    "mixtral": _SMALL | {"num_kv_heads": 2, "moe": _MOE},
    "qwen3_moe": _SMALL
    | {"num_kv_heads": 2, "head_dim": 6, "mlp_dim": 24, "num_layers": 4, "sparse_step": 2, "moe": _MOE},
    "bart": _SMALL | {"max_positions": 24, "mlp_dim": 24},
    "bert": _SMALL | {"max_positions": 24, "mlp_dim": 24},
    "roberta": _SMALL | {"max_positions": 24, "mlp_dim": 24},
    "modernbert": _SMALL | {"mlp_dim": 8, "num_layers": 3, "window": 4, "global_every": 2},
    "gemma": _SMALL | {"num_kv_heads": 2, "head_dim": 6},
    "gemma2": _SMALL | {"num_kv_heads": 2, "head_dim": 6, "mlp_dim": 24, "window": 4, "num_layers": 3},
    "gemma3": _SMALL
    | {"num_kv_heads": 2, "head_dim": 6, "mlp_dim": 24, "window": 4, "num_layers": 4, "global_every": 3},
    "gan": _SMALL | {"max_positions": 24, "mlp_dim": 24, "latent_dim": 3},
    "gpt2": _SMALL | {"max_positions": 24},
    "gpt_neox": _SMALL | {"rotary": 0.5},
    "llama": _SMALL | {"num_kv_heads": 2, "mlp_dim": 24},
    "marian": _SMALL | {"mlp_dim": 24},
    "mistral": _SMALL | {"num_kv_heads": 2, "mlp_dim": 24, "window": 7},  # of 12: two layers see all
    "hmm": {"vocab_size": 40, "num_states": 5},
    "ngram": {"vocab_size": 40, "order": 3, "capacity": 128, "buffer": 64},
    "olmo2": _SMALL | {"num_kv_heads": 2, "mlp_dim": 24},
    "phi3": _SMALL | {"num_kv_heads": 2, "mlp_dim": 24, "window": 8},
    "qwen2": _SMALL | {"num_kv_heads": 2, "mlp_dim": 24, "tied": True},
    "t5": _SMALL | {"head_dim": 6, "mlp_dim": 24, "buckets": 8, "furthest": 12},
    "vae": _SMALL | {"mlp_dim": 24, "latent_dim": 3},
    "qwen3": _SMALL | {"num_kv_heads": 2, "mlp_dim": 24, "head_dim": 6},
}

SOURCES = {  # fields that every part of a family reads, where a text alone does not reach all of it
    family: {"source_tokens": np.random.default_rng(6).integers(0, 40, (2, 9)).astype(np.int32)}
    for family in ("bart", "marian", "t5")
}


def pytest_generate_tests(metafunc):
    """Run a law that asks for `family` over those of its kind."""
    named = any("family" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
    if "family" in metafunc.fixturenames and not named:
        kind = metafunc.definition.get_closest_marker("of")
        families = KINDS[kind.args[0] if kind else "all"]
        metafunc.parametrize(
            "family", [pytest.param(f, marks=pytest.mark.exhaustive if f in TWINS else ()) for f in families]
        )


@pytest.fixture
def tiny():
    """Build the tiny model of a family by its name, with some fields changed."""

    def build(family, **changes):
        if family not in TINY:
            pytest.fail(f"give {family!r} a line in TINY of {__file__}: the smallest sizes that still show every part")
        return lookup(MODELS, family, "model.name")(**TINY[family] | changes)

    return build


@pytest.fixture
def make(tiny, family):
    """Build the tiny model of the family with some fields changed."""
    return partial(tiny, family)


@pytest.fixture
def model(make):
    return make()


def drawn(model, seed=0, size=0.3):
    """Draw parameters of a model from its declarations: normal values, of a size that keeps every layer in play.

    A model that counts has counted some text.
    """
    rng = np.random.default_rng(seed)
    if isinstance(model, Counts | Backoff):
        tokens = rng.integers(0, 40, (2, 24)).astype(np.int32)
        counts = Ngram(**TINY["ngram"]) if isinstance(model, Backoff) else model
        counted = jax.jit(counts.count)(counts.init(jax.random.key(0)), {"tokens": tokens})
        return counted if counts is model else backed_off(counts, counted)
    return tree.unflatten(
        {
            path: (rng.normal(size=d.shape) * size + (d.init is ones)).astype(np.float32)
            for path, d in sorted(model.declarations().items())
        }
    )


def backed_off(model, counted):
    """Return what a counted model says as tables of probabilities."""
    orders = writer.orders(model, jax.jit(model.ready)(counted))
    return {
        str(n): arrays(model.vocab_size, part.tokens, part.log_p, part.backoff if n < model.order else None)
        for n, part in enumerate(orders, 1)
    }


@pytest.fixture
def source(family):
    """What two rows of the family are given beside their tokens."""
    return SOURCES.get(family, {})


@pytest.fixture
def draw():
    return drawn


@pytest.fixture
def params(model):
    return drawn(model)


@pytest.fixture
def all_laws():
    """Whether everything is run (make test-laws, make test-mesh), or the sample of `make test`."""
    return bool(os.environ.get("LLM_JAX_ALL_LAWS"))
