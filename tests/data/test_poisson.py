"""Poisson sampling: every row by a draw of its own, in every step, on any number of hosts."""

import numpy as np

from llm_jax.data.loader import Loader
from llm_jax.data.packing import Rows
from llm_jax.data.turns.poisson import Poisson

SIZES = np.array([30, 70])


def rows(count, first):
    return Rows(
        count, lambda row, epoch: {"tokens": np.repeat(first + row[:, None], 2, axis=1) + 1000 * epoch[:, None]}
    )


LOADER = Loader([rows(30, 0), rows(70, 30)], [1.0, 1.0], 24, seed=3, rounds=Poisson(10.0))


def taken(step):
    batch = LOADER.batch(step)
    assert set(np.unique(batch["weights"])) <= {0.0, 1.0}
    return batch["tokens"][batch["weights"][:, 0] == 1, 0]


def test_each_row_is_there_or_not_by_a_draw_of_its_own():
    """Rates, and the variance of a batch's size, are those of 100 draws at 0.1; two rows meet by chance alone."""
    there = np.zeros((2000, 100))
    for step in range(len(there)):
        chosen = taken(step)
        assert len(set(chosen)) == len(chosen)
        there[step, chosen] = 1
    np.testing.assert_allclose(there.mean(0), 0.1, atol=0.035)
    assert abs(there.mean() - 0.1) < 0.003 and abs(there.sum(1).var() - 9) < 1
    assert np.abs(np.corrcoef(there.T)[~np.eye(100, dtype=bool)]).max() < 0.12
    assert abs(np.corrcoef(there[1:, 5], there[:-1, 5])[0, 1]) < 0.1


def test_hosts_have_slices_of_the_same_batch():
    whole = LOADER.batch(171)  # steps 170 and 171 are of two blocks of the order
    for i in range(3):
        for name, value in LOADER.local(171, i, 3).items():
            np.testing.assert_array_equal(value, whole[name][8 * i : 8 * i + 8])


def test_rows_beyond_the_room_are_left_out():
    order = Poisson(60.0).order(np.arange(24), 24, SIZES, 3)
    assert order[3].all() and len(set(zip(order[0].tolist(), order[1].tolist(), strict=True))) == 24
