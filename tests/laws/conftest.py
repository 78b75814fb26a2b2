"""One tiny model of each family, with parameters that no symmetry hides behind: nothing is zero or one."""

import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.models import MODELS

_SMALL = {"vocab_size": 40, "num_layers": 2, "embed_dim": 16, "num_heads": 4}

TINY = {
    "gpt2": _SMALL | {"max_positions": 24},
    "llama": _SMALL | {"num_kv_heads": 2, "mlp_dim": 24},
}


@pytest.fixture(params=sorted(MODELS))
def family(request):
    return request.param


@pytest.fixture
def make(family):
    """Build the tiny model of the family with some fields changed."""
    if family not in TINY:
        pytest.fail(f"give {family!r} a line in TINY of {__file__}: the smallest sizes that still show every part")
    return lambda **changes: lookup(MODELS, family, "model.name")(**TINY[family] | changes)


@pytest.fixture
def model(make):
    return make()


@pytest.fixture
def draw():
    """Draw parameters of a model from its declarations: normal values, of a size that keeps every layer in play."""

    def params(model, seed=0):
        rng = np.random.default_rng(seed)
        return tree.unflatten(
            {
                path: (rng.normal(size=d.shape) * 0.3 + path.endswith("scale")).astype(np.float32)
                for path, d in sorted(model.declarations().items())
            }
        )

    return params


@pytest.fixture
def params(model, draw):
    return draw(model)
