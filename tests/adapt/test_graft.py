"""Parameters of a model with a smaller vocabulary in one with a larger: old rows stay, new ones are their mean."""

import numpy as np
import pytest

from llm_jax.adapt.graft import graft
from llm_jax.core.table import UserError
from llm_jax.core.types import Declaration
from llm_jax.nn.initial import zeros

FOUND = {"embed/tokens": np.arange(6.0, dtype=np.float32).reshape(3, 2), "up": np.ones((2, 4), np.float32)}


def declared(**shapes):
    axes = {"embed/tokens": ("vocab", "embed"), "up": ("embed", "mlp"), "bias": ("vocab",)}
    return {path: Declaration(shape, axes[path], zeros) for path, shape in shapes.items()}


def test_old_rows_stay_and_new_ones_are_their_mean():
    made = graft(FOUND, declared(**{"embed/tokens": (5, 2), "up": (2, 4)}))
    np.testing.assert_array_equal(made["embed/tokens"], [[0, 1], [2, 3], [4, 5], [2, 3], [2, 3]])
    np.testing.assert_array_equal(made["up"], FOUND["up"])
    assert made["embed/tokens"].dtype == np.float32


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"embed/tokens": (2, 2), "up": (2, 4)}, r"embed/tokens has shape \[3, 2\], and \[2, 2\] is wanted"),
        ({"embed/tokens": (5, 3), "up": (2, 4)}, "embed/tokens has shape"),
        ({"embed/tokens": (5, 2), "up": (2, 6)}, "up has shape"),
        ({"embed/tokens": (5, 2), "up": (2, 4), "bias": (5,)}, "bias.* is missing"),
        ({"embed/tokens": (5, 2)}, "up is not wanted"),
    ],
)
def test_whatever_else_differs_is_refused_by_name(shapes, told):
    with pytest.raises(UserError, match=told):
        graft(FOUND, declared(**shapes))
