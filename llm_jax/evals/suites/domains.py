"""Perplexity and bits per byte of each domain: a member of the mixture, or what a document's name says."""

import math
import re
from collections.abc import Callable, Hashable
from functools import partial

import jax
import numpy as np

from llm_jax.core import checks
from llm_jax.core.types import Array, Batch, Model, Params
from llm_jax.decode.sample import layout
from llm_jax.evals.perplexity import Estimate, perplexity, row_sums
from llm_jax.evals.suites.case import Case
from llm_jax.evals.suites.texts import rolling
from llm_jax.mesh import hosts


def domains(argument: str) -> Callable[[Case], dict[str, Estimate]]:
    r"""Return what tells "DOMAIN/perplexity" and "DOMAIN/bits_per_byte".

    Without an argument the domains are the members of the mixture. An argument is a regular expression that is looked
    for in the names of documents: its first group, or all that it matches, is the domain ("\d{3}" is a decade, "" of
    nothing is left out).

    Raises:
        UserError: the argument is no regular expression.
    """
    if argument:
        checks.pattern("domains", argument)
        return partial(_by_name, re.compile(argument))
    return _by_component


def _by_component(case: Case) -> dict[str, Estimate]:
    sums, component = [], []
    for batch in case.batches():
        sums.append(hosts.whole(_sums(case.model, case.params, batch, layout=layout())))
        at = hosts.whole(batch["domain"]) if "domain" in batch else np.zeros(len(sums[-1]), np.int64)
        component.append(np.asarray(at))
    return _told(np.concatenate(sums), np.array(case.components)[np.concatenate(component)])


@partial(jax.jit, static_argnames=("model", "layout"))
def _sums(model: Model, params: Params, batch: Batch, *, layout: Hashable) -> Array:
    return row_sums(model, params, batch)


def _by_name(pattern: re.Pattern, case: Case) -> dict[str, Estimate]:
    model, read = case.reader(), case.reading
    matched = [(pattern.search(name), ids) for name, ids in case.pieces()]
    kept = [(found[found.re.groups and 1], ids) for found, ids in matched if found and len(ids)]
    nats = -rolling(model, case.params, [ids.tolist() for _, ids in kept], read.start, read.window)
    counts = [(len(ids), read.tokenizer.token_bytes[ids].sum()) for _, ids in kept]
    sums = np.column_stack([nats, np.array(counts, np.float64).reshape(-1, 2)])
    return _told(sums, np.array([name or "" for name, _ in kept]))


def _told(sums: np.ndarray, domain: np.ndarray) -> dict[str, Estimate]:
    """Return the estimates of each domain from the sums of rows [N,3] and their domains [N]."""
    found: dict[str, Estimate] = {}
    for name in sorted(set(domain[sums[:, 1] > 0].tolist()) - {""}):
        of = perplexity(np.asarray, [sums[domain == name]])  # type: ignore[list-item]  # sums in the place of batches
        found |= {f"{name}/{kind}": e for kind, e in of.items() if kind != "loss" and not math.isnan(e.value)}
    return found
