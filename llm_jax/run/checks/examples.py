"""Examples: do their form, what the objective reads, and how rows are made fit together?"""

import numpy as np

from llm_jax.core.table import UserError, choices
from llm_jax.core.types import Objective
from llm_jax.data.examples import forms
from llm_jax.data.examples.records import RECORDS
from llm_jax.data.sources import SOURCES
from llm_jax.run.sections import Data

TEXT = ("tokens", "targets")


def check(data: Data, objective: Objective, name: str) -> None:
    """Refuse a form that cannot be made of the sources, or that lacks what the objective reads.

    An objective that reads more than text says so by `reads`, the names of fields.

    Raises:
        UserError: names the key, and the form that would do.
    """
    _check_sources(data)
    wanted = getattr(objective, "reads", TEXT)
    if data.form is None:
        missing = [field for field in wanted if field not in TEXT]
        if missing:
            raise UserError(
                f"objective.name={name!r} reads {missing[0]!r}, which text alone does not have; say by data.form "
                f"what is made of examples, one of: {choices(forms.FORMS)}"
            )
        return
    made = forms.build(data.form).blank(data.seq_len)
    missing = [field for field in wanted if field not in made]
    if missing:
        raise UserError(
            f"objective.name={name!r} reads {missing[0]!r}, which data.form.name={data.form['name']!r} does not make; "
            f"it makes {', '.join(made)}"
        )
    if hasattr(objective, "transform") and "targets" not in made:
        raise UserError(
            f"objective.name={name!r} hides parts of texts; data.form.name={data.form['name']!r} has labels"
        )
    if data.packing != Data.packing:
        raise UserError(f"data.packing={data.packing!r} is for text; data.form says how examples are laid out")
    if data.federated:
        raise UserError("data.clients are of text; leave them out where there is a data.form")


def _check_sources(data: Data) -> None:
    """Refuse a source of examples without a form, and of text with one."""
    known, other = (SOURCES, RECORDS) if data.form is None else (RECORDS, SOURCES)
    for source in [data.source, *(member.get("source") for member in data.mixture or ())]:
        if source in other and source not in known:
            if data.form is None:
                raise UserError(
                    f'data.source={source!r} holds examples; say what is made of them, such as data.form={{"name": '
                    f'"chat"}}, one of: {choices(forms.FORMS)}'
                )
            raise UserError(f"data.source={source!r} holds text, and data.form needs one of: {choices(RECORDS)}")


def blank(data: Data, rows: int) -> dict[str, np.ndarray]:
    """Return a batch without content: the names, shapes and dtypes that a run's rows have before any transform."""
    if data.form is None:
        return {name: np.zeros((rows, data.seq_len), np.int32) for name in TEXT}
    made = forms.build(data.form).blank(data.seq_len)
    return {name: np.repeat(values, rows, 0) for name, values in made.items()}
