"""Which laws a family is under: `@pytest.mark.of(kind)` runs a law over the families of one kind, else over all."""

from llm_jax.models import MODELS

_ROOM = {family: place.split(".")[2] for family, place in MODELS.items()}


def _outside(*rooms):
    return sorted(family for family, room in _ROOM.items() if room not in rooms)


def _inside(*rooms):
    return sorted(family for family, room in _ROOM.items() if room in rooms)


KINDS = {
    "all": sorted(MODELS),
    "attending": _inside("decoder", "gemma", "moe"),  # to earlier tokens, and in a prefix to later ones
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
