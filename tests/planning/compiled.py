"""Small steps compiled for chips that are not here."""

from llm_jax.planning import aot, workload
from llm_jax.run.config import load_recipe, resolve

SMALL = [
    ("model.num_layers", "4"), ("model.embed_dim", "512"), ("model.num_heads", "8"), ("model.num_kv_heads", "8"),
    ("model.mlp_dim", "1536"), ("model.vocab_size", "4096"), ("data.batch_size", "32"), ("data.seq_len", "512"),
]  # fmt: skip


def step(chips, settings, recipe="configs/llama_1b.py"):
    """(configuration, workload, the compiler's answer, the text of the program) of a recipe with settings.

    settings: pairs (key, value); the last one of a key counts.
    """
    config = resolve(load_recipe(recipe), [*dict(settings).items()])
    w = workload.of(config, chips)
    answer, text = aot.compiled(config, w, chips)
    assert "error" not in answer, answer
    return config, w, answer, text
