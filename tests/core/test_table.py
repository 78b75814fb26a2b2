"""Tables of names, and the errors that help with a wrong one."""

import os
import subprocess
import sys

import pytest

from llm_jax.core import checks
from llm_jax.core.table import UserError, lookup, nearest

TABLE = {"sqrt": "math:sqrt", "square": "nowhere:square"}


def test_a_member_is_imported_when_it_is_asked_for():
    assert lookup(TABLE, "sqrt", "f.name")(9) == 3
    with pytest.raises(ModuleNotFoundError):
        lookup(TABLE, "square", "f.name")


@pytest.mark.parametrize("wrong", ["sqr", "SQRT", "", None, 3])
def test_an_unknown_name_lists_the_table(wrong):
    with pytest.raises(UserError) as caught:
        lookup(TABLE, wrong, "f.name")
    assert f"f.name={wrong!r}" in str(caught.value) and "sqrt, square" in str(caught.value)


def test_the_nearest_spelling_is_offered_only_when_it_is_near():
    assert nearest("adamwx", ["adam", "adamw", "sgd"]) == "; did you mean 'adamw'?"
    assert nearest("lbfgs", ["adam", "adamw"]) == ""


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (checks.positive, [1, 1e-9, 2**31 - 1, None], [0, -1, float("nan"), float("inf"), 2**31, 2**63]),
        (checks.non_negative, [0, 0.0, 3, None], [-1e-9, float("nan"), float("inf")]),
        (checks.fraction, [0, 0.999, None], [1, -0.1, float("nan")]),
    ],
)
def test_ranges_are_checked_with_their_key(check, good, bad):
    for value in good:
        check("model", size=value)
    for value in bad:
        with pytest.raises(UserError, match=r"model\.size="):
            check("model", size=value)


def test_a_divisor_that_does_not_divide_is_told_those_that_do():
    checks.divides("model", "num_heads", 4, "embed_dim", 12)
    with pytest.raises(UserError, match=r"num_heads=5 does not divide model.embed_dim=12; try one of"):
        checks.divides("model", "num_heads", 5, "embed_dim", 12)


def test_tables_durations_and_the_package_never_import_jax():
    code = (
        "import sys, llm_jax, llm_jax.core.table, llm_jax.core.durations, llm_jax.cli; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=60)
