"""Which laws a family is under: `@pytest.mark.of(kind)` runs a law over the families of one kind, else over all.

A law marked `rotates` goes over a quarter of them, another with each commit; with all laws over all.
"""

import subprocess
import zlib
from pathlib import Path

from llm_jax.models import MODELS

_ROOM = {family: place.split(".")[2] for family, place in MODELS.items()}


def _outside(*rooms):
    return sorted(family for family, room in _ROOM.items() if room not in rooms)


def _inside(*rooms):
    return sorted(family for family, room in _ROOM.items() if room in rooms)


KINDS = {
    "all": sorted(MODELS),
    "causal": _outside("encoder", "latent"),  # continues a text: no token depends on a later one
    "counted": _inside("classical"),  # parameters are counts or probabilities, which no gradient changes
    "decoder": _outside("classical", "encoder", "latent"),  # causal, and trained by gradients
    "deep": _outside("classical", "latent"),  # a stack of layers with dropout, on any mesh
    "encoder": _inside("encoder"),  # every token sees the whole text
    "latent": _inside("latent"),  # a text is drawn from a vector
    "packed": _outside("encoder", "latent"),  # several texts in a row, none of which sees another; parts of them too
    "split": sorted([*_inside("decoder", "gemma", "moe"), "mamba2"]),  # a text may be split over devices
}
# The code of bart with fixed positions, of lstm with another cell, of bert with other defaults: with all laws alone.
TWINS = {"gru", "marian", "roberta"}

PARTS = 4


def _turn():
    """Which part a law begins with: a number that follows from the commit, 0 where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout[:8], 16)
    except (OSError, subprocess.CalledProcessError):
        return 0


TURN = _turn()


def sampled(law, families):
    """Return the families that a law that rotates goes over in `make test`."""
    first = (zlib.crc32(law.encode()) + TURN) % PARTS
    return set(families[first::PARTS] or families[:1])
