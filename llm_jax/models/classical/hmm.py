"""The hidden Markov model (Rabiner 1989) in log space: filtering, posteriors, Viterbi, and the sums that EM needs.

Parameters are logarithms of weights, each row of which is normalised where it is used. Expected counts are the
gradient of the log-likelihood by the logarithms of the probabilities (Eisner 2016), so that one recursion does all.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from llm_jax.core import checks
from llm_jax.core.types import Batch, Cache, Declaration, Key, Mean, Outputs, Params
from llm_jax.models.classical.markov import advance
from llm_jax.models.classical.tagger import Tagger
from llm_jax.nn.declare import initialize
from llm_jax.nn.recurrent import state as states
from llm_jax.nn.recurrent.state import Part

Sums = dict[str, Array]  # start [S], transition [S,S] and emission [S,V]: expected counts


@dataclass(frozen=True)
class Hmm:
    """The section `model` of this family.

    num_states: S. floor: added to every expected count by the M-step. every: batches from one M-step to the next.
    """

    vocab_size: int
    num_states: int = 32
    floor: float = 1e-6
    every: int = 1

    def __post_init__(self) -> None:
        checks.positive(
            "model", vocab_size=self.vocab_size, num_states=self.num_states, floor=self.floor, every=self.every
        )

    def declarations(self) -> dict[str, Declaration]:
        """The three tables."""
        S, V = self.num_states, self.vocab_size
        return {
            "start": Declaration((S,), (None,), jax.random.normal),
            "transition": Declaration((S, S), (None, None), jax.random.normal),
            "emission": Declaration((S, V), (None, None), jax.random.normal),
        }

    def init(self, key: Key) -> Params:
        """Random weights: equal ones would stay equal for ever."""
        return initialize(self.declarations(), key)

    def tagger(self, labels: tuple[str, ...]) -> Tagger:
        """Return the model whose states are tags, which learns by counting, and from there by EM; no `num_states`."""
        return Tagger(self.vocab_size, labels, self.floor, self.every)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs whose hidden states are log p(next state | text so far) and whose logits are log-probabilities."""
        return self._filtered(params, batch, jnp.full(self.num_states, 0.0), fresh=True)[0]

    def empty_cache(self, batch_size: int, max_len: int) -> Cache:
        """log p(next state) of each row, before any text."""
        return states.empty(1, batch_size, {"prior": Part((self.num_states,), (None,), jnp.float32)})

    def prefill(self, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
        """Read whole prompts into an empty cache."""
        return self._read(params, batch, cache, fresh=True)

    def extend(self, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
        """Read tokens [B,n] that follow those in the cache."""
        return self._read(params, {"tokens": tokens}, cache, fresh=False)

    def posteriors(self, params: Params, batch: Batch) -> Float[Array, "B T S"]:
        """Return p(state | whole text); 0 in padding."""
        potentials = jnp.zeros((*batch["tokens"].shape, self.num_states))
        return jax.grad(lambda extra: self._likelihood(normalized(params), batch, extra))(potentials)

    def viterbi(self, params: Params, batch: Batch) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
        """Return the likeliest states of each text, and at each place the log-probability of the best way there."""
        p, (tokens, first, _) = normalized(params), layout(batch)
        seen = jnp.swapaxes(p["emission"].T[tokens], 0, 1)

        def step(best: Array, now: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            emitted, begins = now
            ways = best[:, :, None] + p["transition"]
            best = jnp.where(begins[:, None], p["start"], ways.max(1)) + emitted
            return best, (best, ways.argmax(1))

        _, (best, back) = jax.lax.scan(step, jnp.zeros(seen.shape[1:]), (seen, first.T))

        def trace(state: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            best, back, ends = now
            state = jnp.where(ends, best.argmax(-1), state)
            return jnp.take_along_axis(back, state[:, None], 1)[:, 0], state

        ends = jnp.roll(first, -1, 1).at[:, -1].set(True).T
        _, states = jax.lax.scan(trace, jnp.zeros(len(tokens), jnp.int32), (best, back, ends), reverse=True)
        return states.T, best.max(-1).T

    def expectations(self, params: Params, batch: Batch) -> tuple[Sums, Mean]:
        """Return the expected counts of a batch, and its loss: -log-likelihood over tokens that are no padding."""
        total, sums = jax.value_and_grad(self._likelihood)(normalized(params), batch)
        return sums, Mean(-total, layout(batch)[2].sum().astype(jnp.float32))

    def maximize(self, sums: Sums) -> Params:
        """Return the parameters under which expected counts are likeliest."""
        return normalized(jax.tree.map(lambda s: jnp.log(s + self.floor), sums))

    def _likelihood(self, p: Params, batch: Batch, extra: Any = 0.0) -> Float[Array, ""]:
        tokens, first, real = layout(batch)
        seen = p["emission"].T[tokens] + extra

        def step(alpha: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            emitted, begins = now
            moved = jnp.where(begins[:, None], p["start"], advance(alpha, p["transition"]))
            alpha = moved + emitted
            return alpha, logsumexp(alpha, axis=-1)

        _, totals = jax.lax.scan(step, jnp.zeros((len(tokens), self.num_states)), (jnp.swapaxes(seen, 0, 1), first.T))
        last = jnp.roll(first, -1, 1).at[:, -1].set(True) & real
        return jnp.where(last, totals.T, 0).sum()

    def _read(self, params: Params, batch: Batch, cache: Cache, *, fresh: bool) -> tuple[Outputs, Cache]:
        outputs, prior = self._filtered(params, batch, cache.read(0)["prior"], fresh=fresh)
        return outputs, cache.write(0, {"prior": prior}).advance(layout(batch)[2])

    def _filtered(self, params: Params, batch: Batch, prior: Array, *, fresh: bool) -> tuple[Outputs, Array]:
        p, (tokens, first, _) = normalized(params), layout(batch)
        first = first if fresh else jnp.zeros_like(first)
        prior = jnp.broadcast_to(prior, (len(tokens), self.num_states))

        def step(prior: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            emitted, begins = now
            alpha = jnp.where(begins[:, None], p["start"], prior) + emitted
            following = advance(log_softmax(alpha), p["transition"])
            return following, following

        seen = jnp.swapaxes(p["emission"].T[tokens], 0, 1)
        last, hidden = jax.lax.scan(step, prior, (seen, first.T))
        return Outputs(jnp.swapaxes(hidden, 0, 1), Partial(advance, table=p["emission"])), last


def normalized(params: Params) -> Params:
    """Return the log-probabilities of the model."""
    return {name: log_softmax(value, axis=-1) for name, value in params.items()}


def layout(batch: Batch) -> tuple[Array, Array, Array]:
    """Return the tokens, where a text (or padding) begins, and where there is no padding, [B,T] each."""
    tokens = jnp.asarray(batch["tokens"], jnp.int32)
    segments = jnp.asarray(batch.get("segments", jnp.ones_like(tokens)))
    first = jnp.concatenate([jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], 1)
    return tokens, first, segments > 0
