"""Tagging by a hidden Markov model whose states are the tags (Church 1988): counted, then decoded by Viterbi.

From the counts of a few tagged texts it goes on by expectation maximization on words alone (Merialdo 1994).
A word of several tokens is one state that emits them all; so is, with the last word, what ends the text.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core import checks
from llm_jax.core.types import Batch, Declaration, Key, Mean, Outputs, Params
from llm_jax.models.classical.markov import advance
from llm_jax.nn.declare import initialize
from llm_jax.nn.initial import zeros

Tables = dict[str, Array]  # log-probabilities: start [C], transition [C,C], emission [C,V]


@dataclass(frozen=True)
class Tagger:
    """Parameters are counts, or what EM expects them to be: float32, so that whole ones are exact up to 2^24.

    labels: the tags, C. floor: added to every count (Lidstone's smoothing). every: batches from one M-step to the next.
    """

    vocab_size: int
    labels: tuple[str, ...]
    floor: float
    every: int = 1

    def __post_init__(self) -> None:
        checks.positive("model", vocab_size=self.vocab_size, floor=self.floor, every=self.every)

    @property
    def capacity(self) -> int:
        """How many pairs of a tag and a token there can be."""
        return len(self.labels) * self.vocab_size

    def declarations(self) -> dict[str, Declaration]:
        """Counts of first tags, of tags after tags, of tokens of tags, and how many pairs of the last occur."""
        C, V = len(self.labels), self.vocab_size
        shapes = {"start": (C,), "transition": (C, C), "emission": (C, V)}
        tables = {name: Declaration(shape, (None,) * len(shape), zeros) for name, shape in shapes.items()}
        return tables | {"distinct": Declaration((), (), zeros, dtype="int32")}

    def init(self, key: Key) -> Params:
        """Nothing is counted yet."""
        return initialize(self.declarations(), key)

    def count(self, params: Params, batch: Batch) -> Params:
        """Return the counts with those of a batch, whose words begin where `weights` are not 0."""
        tokens, begins, inside = words(batch)
        tags = _carried(jnp.asarray(batch["tags"], jnp.int32), begins)
        before, follows = jnp.roll(tags, 1, axis=1), jnp.roll(inside, 1, axis=1).at[:, 0].set(False)
        one = jnp.float32(1)
        start = params["start"].at[tags].add(jnp.where(begins & ~follows, one, 0))
        transition = params["transition"].at[before, tags].add(jnp.where(begins & follows, one, 0))
        emission = params["emission"].at[tags, tokens].add(jnp.where(inside, one, 0))
        found = (emission > 0).sum().astype(jnp.int32)
        return {"start": start, "transition": transition, "emission": emission, "distinct": found}

    def expectations(self, params: Params, batch: Batch) -> tuple[Params, Mean]:
        """Return the expected counts of a batch of words, whose tags are not read, and its loss in nats a token."""
        total, sums = jax.value_and_grad(_likelihood)(self._probabilities(params), batch)
        loss = Mean(-total, words(batch)[2].sum().astype(jnp.float32))
        return sums | {"distinct": jnp.zeros_like(params["distinct"])}, loss

    def maximize(self, sums: Params) -> Params:
        """Return the counts themselves: with `floor` they are the likeliest under Dirichlet's prior of 1 + floor."""
        return sums

    def ready(self, params: Params) -> Params:
        """Return the counts: probabilities are made of them at each use."""
        return params

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs with `extras["scores"]`, float32 [B,T,C]: log-probability of the best tags with this one here.

        So the best tag of each word is that of Viterbi's path. Where no word begins scores are of the word before.
        """
        p, (tokens, begins, inside) = self._probabilities(params), words(batch)
        seen = jnp.where(inside[..., None], jnp.swapaxes(p["emission"], 0, 1)[tokens], 0.0)  # [B,T,C]
        scores = jnp.swapaxes(_best(p, jnp.swapaxes(seen, 0, 1), begins.T), 0, 1)
        return Outputs(scores, Partial(_no_head), extras={"scores": scores})

    def _probabilities(self, params: Params) -> Tables:
        counts = {name: params[name] + self.floor for name in ("start", "transition", "emission")}
        return {name: jnp.log(c / c.sum(-1, keepdims=True)) for name, c in counts.items()}


def words(batch: Batch) -> tuple[Int[Array, "B T"], Bool[Array, "B T"], Bool[Array, "B T"]]:
    """Return the tokens, where words begin, and which tokens are of a word (or after the last one)."""
    tokens = jnp.asarray(batch["tokens"], jnp.int32)
    real = jnp.asarray(batch.get("segments", jnp.ones_like(tokens))) > 0
    begins = (jnp.asarray(batch.get("weights", jnp.ones(tokens.shape))) > 0) & real
    return tokens, begins, (jnp.cumsum(begins, axis=1) > 0) & real


def _carried(tags: Int[Array, "B T"], begins: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Return at each token the tag of the word that it is of."""
    at = jax.lax.cummax(jnp.where(begins, jnp.arange(tags.shape[1]), 0), axis=1)
    return jnp.take_along_axis(tags, at, axis=1)


def _likelihood(p: Tables, batch: Batch) -> Float[Array, ""]:
    """Return log p(words); its gradient by `p` are the expected counts (Eisner 2016)."""
    tokens, begins, inside = words(batch)
    seen = jnp.where(inside[..., None], p["emission"].T[tokens], 0.0)

    def step(alpha: Array, now: tuple[Array, Array, Array]) -> tuple[Array, None]:
        emitted, begin, one = now
        moved = jnp.where(begin[:, None], advance(alpha, p["transition"]), alpha)
        return jnp.where(one[:, None], p["start"], moved) + emitted, None

    first = begins & (jnp.cumsum(begins, axis=1) == 1)
    alpha = jnp.zeros((len(tokens), len(p["start"])))
    alpha, _ = jax.lax.scan(step, alpha, (jnp.swapaxes(seen, 0, 1), begins.T, first.T))
    return jnp.where(inside.any(1), logsumexp(alpha, axis=-1), 0.0).sum()


def _best(p: Tables, seen: Float[Array, "T B C"], begins: Bool[Array, "T B"]) -> Float[Array, "T B C"]:
    """Return the log-probability of the best path through each tag at each token: max-marginals."""
    first = begins & (jnp.cumsum(begins, axis=0) == 1)

    def forward(score: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        emitted, begin, one = now
        ways = (score[:, :, None] + p["transition"]).max(1)
        score = jnp.where(one[:, None], p["start"], jnp.where(begin[:, None], ways, score)) + emitted
        return score, score

    def backward(after: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        emitted, begin, one = now
        ways = (p["transition"] + (after + emitted)[:, None, :]).max(-1)
        return jnp.where((begin & ~one)[:, None], ways, after + emitted), after

    nothing = jnp.zeros(seen.shape[1:])
    _, there = jax.lax.scan(forward, nothing, (seen, begins, first))
    _, back = jax.lax.scan(backward, nothing, (seen, begins, first), reverse=True)
    return there + back


def _no_head(hidden: Array) -> Array:
    raise NotImplementedError("a tagger scores tags, and no tokens")
