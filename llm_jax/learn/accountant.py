"""What DP-SGD promises: (epsilon, delta)-differential privacy, counted step by step in Renyi's divergence.

One step is a Gaussian mechanism on a Poisson sample (Mironov, Talwar and Zhang 2019, arXiv:1908.10530, section 3.3,
whole orders); steps add up, and the sum becomes epsilon by Canonne, Kamath and Steinke 2020, arXiv:2004.00010,
proposition 12. Neighbours differ by one row that is there or not.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm_jax.core.table import UserError

ORDERS = (*range(2, 64), *range(64, 257, 4), 320, 384, 512)


@dataclass(frozen=True)
class Accountant:
    """rate: the probability that a row is in a batch. noise: its standard deviation, in units of the clipped length.

    room: rows for which a batch has room, of `rows` in all. Were there more, a batch would not be a Poisson sample;
    how likely that is counts against delta, of which it may use a half (`epsilon` is inf where it does not suffice).
    """

    rate: float
    noise: float
    delta: float
    rows: int
    room: int

    def epsilon(self, steps: int) -> float:
        """Return epsilon after so many steps, at delta; inf where nothing is promised."""
        if not steps:
            return 0.0
        found = epsilon(steps * self.divergences, self.delta / 2)
        if found > 100 or (1 + math.exp(found)) * steps * self.overflow > self.delta / 2:
            return math.inf
        return found

    def check(self, steps: int) -> None:
        """Refuse a training of so many steps that promises nothing.

        Raises:
            UserError: too little noise, or too little room.
        """
        if math.isfinite(self.epsilon(steps)):
            return
        found = epsilon(steps * self.divergences, self.delta / 2)
        if found > 100:
            raise UserError(f"private.noise={self.noise} promises nothing after {steps} steps; try 1.0")
        raise UserError(
            f"data.batch_size={self.room} has too little room for data.poisson={self.rate * self.rows:g} rows on "
            f"average: at some step of {steps} there are more with a probability of {steps * self.overflow:.1e}, which "
            f"uses up private.delta={self.delta:g}; enlarge the one or lower the other"
        )

    @cached_property
    def divergences(self) -> np.ndarray:
        """float64: Renyi's divergence of one step, of each of `ORDERS`."""
        return np.array([divergence(self.rate, self.noise, order) for order in ORDERS])

    @cached_property
    def overflow(self) -> float:
        """The probability that a step finds more rows than there is room for."""
        from scipy.stats import binom

        return float(binom.sf(self.room, self.rows, self.rate))


def divergence(rate: float, noise: float, order: int) -> float:
    """Return Renyi's divergence of whole `order` of one step, in nats."""
    if rate == 0:
        return 0.0
    if rate == 1:
        return order / (2 * noise**2)
    k = np.arange(order + 1)
    lgamma = np.array([math.lgamma(i + 1) for i in range(order + 1)])
    ways = lgamma[order] - lgamma - lgamma[::-1]
    terms = ways + k * math.log(rate) + (order - k) * math.log1p(-rate) + (k * k - k) / (2 * noise**2)
    return float(np.logaddexp.reduce(terms)) / (order - 1)


def epsilon(divergences: np.ndarray, delta: float) -> float:
    """Return the least epsilon that divergences of `ORDERS` give at delta."""
    orders = np.array(ORDERS)
    found = divergences + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(found.min()))
