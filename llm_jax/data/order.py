"""The global order: permutations and mixtures whose n-th element is computed without those before it.

A permutation is a Feistel network (Luby and Rackoff 1988) on the smallest power of two that holds the range, walked
along its cycles until it falls into the range (Black and Rogaway 2002). A mixture spreads its components evenly:
after any n elements each component's share is off by less than one element for each halving of the list.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from llm_jax.core.table import UserError

ROUNDS = 6
STRIDE = 0x2545F4914F6CDD1D  # odd, sets the rounds' keys apart
MAX_PERIOD = 1 << 30  # products of two such numbers fit into int64


def mix(x: np.ndarray) -> np.ndarray:
    """Return 64 well-mixed bits for each of uint64 [n] (splitmix64; Steele, Lea and Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(seed: int, name: int, epochs: np.ndarray) -> np.ndarray:
    """Return a uint64 key for each of int64 [n] epochs, for the purpose `name`."""
    start = mix(np.array([seed % 2**64], np.uint64))
    return mix(mix(start ^ np.uint64(name)) ^ epochs.astype(np.uint64))


def uniform(seed: int, name: int, numbers: np.ndarray, size: int) -> np.ndarray:
    """Return float64 [n,size], uniform in [0, 1), for each of int64 [n] examples, for the purpose `name`."""
    columns = mix(np.arange(size).astype(np.uint64))
    return (mix(keys(seed, name, numbers)[:, None] ^ columns) >> np.uint64(11)) * 2.0**-53


def permute(index: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """Return the places of int64 [n] indices within permutations of range(size); key uint64 [n] chooses them."""
    bits = max(2, (size - 1).bit_length())
    low = np.uint64(bits // 2)
    masks = np.uint64((1 << (bits // 2)) - 1), np.uint64((1 << (bits - bits // 2)) - 1)
    place = _feistel(index.astype(np.uint64), key, low, masks)
    while (outside := np.flatnonzero(place >= np.uint64(size))).size:
        place[outside] = _feistel(place[outside], key[outside], low, masks)
    return place.astype(np.int64)


def _feistel(x: np.ndarray, key: np.ndarray, low: np.uint64, masks: tuple[np.uint64, np.uint64]) -> np.ndarray:
    """Return one pass of the network: each half in turn is combined with a hash of the other."""
    halves = [x & masks[0], x >> low]
    for turn in range(ROUNDS):
        changed, other = turn % 2, 1 - turn % 2
        halves[changed] = halves[changed] ^ (
            mix(halves[other] ^ (key + np.uint64(turn * STRIDE % 2**64))) & masks[changed]
        )
    return halves[0] | (halves[1] << low)


def contiguous(n: np.ndarray, rows: int, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, epoch, which step of its epoch), int64 [n], of examples n of `rows` rows that are read in order.

    The rows are dealt to the B rows of a batch in as many equal runs, of which a remainder of less than B rows is left.
    """
    steps = rows // batch_size
    step, place = np.divmod(n, batch_size)
    epoch, within = np.divmod(step, steps)
    return place * steps + within, epoch, within


def shares(weights: Sequence[float]) -> list[int]:
    """Return integers in the proportion of the weights, exactly where their decimal notation allows.

    Raises:
        UserError: a weight is not a positive finite number.
    """
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(f"data.mixture: weight {weight!r} must be a positive finite number")
    exact = [Fraction(repr(weight)) for weight in weights]
    scale = math.lcm(*(part.denominator for part in exact))
    whole = [int(part * scale) for part in exact]
    whole = [part // math.gcd(*whole) for part in whole]
    if sum(whole) <= MAX_PERIOD:
        return whole
    return [max(1, int(part * (MAX_PERIOD // 2) / sum(exact))) for part in exact]


def interleave(n: np.ndarray, parts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (component, index within it), both int64 [n], of elements n of the mixture with integer `parts`.

    The list is halved again and again; at each halving, element n is on the left if the rounded share of the left
    grows there (error diffusion), so that both sides are counted by a formula.
    """
    if len(parts) == 1:
        return np.zeros_like(n), n
    middle = len(parts) // 2
    left, right = parts[:middle], parts[middle:]
    before, after = _rounded(n, sum(left), sum(parts)), _rounded(n + 1, sum(left), sum(parts))
    goes_left = after > before
    component, index = np.empty_like(n), np.empty_like(n)
    component[goes_left], index[goes_left] = interleave(before[goes_left], left)
    on_right, index[~goes_left] = interleave((n - before)[~goes_left], right)
    component[~goes_left] = on_right + middle
    return component, index


def _rounded(n: np.ndarray, part: int, whole: int) -> np.ndarray:
    """Return n · part / whole rounded to the nearest, without overflow."""
    return n // whole * part + (2 * (n % whole) * part + whole) // (2 * whole)
