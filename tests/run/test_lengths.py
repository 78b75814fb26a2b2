"""A text that does not split over the mesh is refused before anything is read, with the nearest that does."""

import pytest

from llm_jax.core.table import UserError
from llm_jax.run import build
from llm_jax.run.config import load_recipe, resolve

CASES = {
    "ring": ({"context": 4, "data": 2}, 20, "seq_len=20 does not split into 8 chunks for mesh.context=4; try 16"),
    "heads": ({"context": 8, "context_by": "heads"}, 32, "mesh.context=8 .* 4 heads of a device; try mesh.context=4"),
    "heads of a device": (
        {"context": 4, "tensor": 2, "context_by": "heads"}, 32, "2 heads of a device; try mesh.context=2, or .*'ring'",
    ),
    "between": (
        {"tensor": 4, "context": 2, "sequence_sharded": True}, 36, "mesh.tensor=4 with mesh.sequence_sharded; try 32",
    ),
}  # fmt: skip
FINE = [{"context": 4, "data": 2}, {"context": 4, "data": 2, "context_by": "heads"}]


def check(recipe, mesh, seq_len):
    overrides = [(f"mesh.{k}", str(v)) for k, v in ({"data": 1} | mesh).items()]
    return build.check(resolve(load_recipe(str(recipe)), [*overrides, ("data.seq_len", str(seq_len))]))[1]


@pytest.mark.parametrize(("mesh", "seq_len", "complaint"), CASES.values(), ids=CASES)
def test_what_does_not_split_is_refused_with_what_does(recipe, mesh, seq_len, complaint):
    with pytest.raises(UserError, match=complaint):
        check(recipe, mesh, seq_len)


@pytest.mark.parametrize("mesh", FINE, ids=str)
def test_what_splits_is_a_plan_of_its_way(recipe, mesh):
    plan = check(recipe, mesh, 32)
    assert plan.context_by == mesh.get("context_by", "ring") and plan.shards("seq", 32) == 4
