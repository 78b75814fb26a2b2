"""The table of judges: what objectives ask for is in it."""

import pytest

from llm_jax.core.table import lookup
from llm_jax.learn import LEARNERS
from llm_jax.objectives import OBJECTIVES
from llm_jax.run.judge import JUDGES
from llm_jax.run.judge.kinds import likelihoods, preference


def test_each_objective_is_judged_by_an_entry_and_each_entry_judges_one_or_what_a_learner_carries():
    asked = {getattr(lookup(OBJECTIVES, name, ""), "judged", "likelihood") for name in OBJECTIVES}
    assert asked == JUDGES.keys() - LEARNERS.keys() and JUDGES.keys() & LEARNERS.keys() == {"carried"}


@pytest.mark.parametrize("judge", [likelihoods(None), preference(None)])
def test_what_has_a_unit_is_counted(judge):
    assert judge.units.keys() <= judge.over.keys() and "perplexity" not in judge.units
