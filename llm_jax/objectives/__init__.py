"""Objectives: (model, params, batch, key) -> (loss, statistics), one file each; they see models only as a protocol."""

OBJECTIVES = {
    "causal": "llm_jax.objectives.causal:Causal",
    "elbo": "llm_jax.objectives.elbo:Elbo",
}
