"""What a run says at its end: a command that the model takes."""

from types import SimpleNamespace

import pytest

from llm_jax.core.table import lookup
from llm_jax.core.types import Decodes, Embeds, Samples
from llm_jax.models import MODELS
from llm_jax.run.report import following

SIZES = {"vocab_size": 9, "num_layers": 1, "embed_dim": 8, "num_heads": 2, "latent_dim": 2, "max_positions": 8}
TAKEN = {'sample --workdir={} --prompt="My': Decodes, 'sample --workdir={} --prompt=""': Samples, "embed": Embeds}


@pytest.mark.parametrize("name", ["llama", "lstm", "ngram", "t5", "bert", "modernbert", "vae", "gan"])
def test_what_to_try_next_is_what_the_model_does(name):
    family = lookup(MODELS, name, "model.name")
    model = family(**{key: value for key, value in SIZES.items() if key in family.__dataclass_fields__})
    sections = SimpleNamespace(data=SimpleNamespace(form=None))
    told = following(SimpleNamespace(model=model, objective=object(), template=None, sections=sections))
    (kind,) = (kind for words, kind in TAKEN.items() if told.startswith(words))
    assert isinstance(model, kind)
