"""Names of slices, and what is said of wrong ones."""

import pytest

from llm_jax.core.table import UserError
from llm_jax.cost.chips import CHIPS
from llm_jax.planning import topology


def test_names_are_read():
    found = topology.parse("v5p:4x8x8", 2)
    assert (found.chip_name, found.dims, found.slice_chips, found.chips) == ("v5p", (4, 8, 8), 256, 512)
    assert str(found) == "2 x v5p:4x8x8"
    assert topology.parse("v7x:2x2x1").devices == 8


@pytest.mark.parametrize(
    ("name", "slices", "complaint"),
    [
        ("v5e", 1, "write chip:dimensions"),
        ("v5e:", 1, "write chip:dimensions"),
        ("v5f:16x16", 1, "did you mean 'v5"),
        ("v5e:4x4x4", 1, "write v5e:nxm"),
        ("v5p:16x16", 1, "write v5p:nxmxk"),
        ("v5e:0x4", 1, "above zero"),
        ("v5e:3x5", 1, "no such slice of v5e: its dimensions are one of 1x1, 2x2"),
        ("v5e:16x32", 1, "at most 256 chips"),
        ("v5p:4x4x6", 1, "1, 2 or a multiple of 4"),
        ("v4:16x16x20", 1, "at most 4096 chips"),
        ("v5e:4x4", 0, "--slices=0"),
    ],
)
def test_wrong_names_are_refused_with_the_way_out(name, slices, complaint):
    with pytest.raises(UserError, match=complaint):
        topology.parse(name, slices)


@pytest.mark.parametrize(
    ("name", "flop_per_byte"), [("v4", 229), ("v5e", 240), ("v5p", 166), ("v6e", 560), ("v7x", 313)]
)
def test_data_sheets_have_the_ratios_that_their_vendor_prints(name, flop_per_byte):
    chip = CHIPS[name]
    assert round(chip.flops / chip.hbm_bandwidth) == pytest.approx(flop_per_byte, abs=1)
