"""Objectives: (model, params, batch, key) -> (loss, statistics), one file each; they see models only as a protocol."""

OBJECTIVES = {
    "adversarial": "llm_jax.objectives.adversarial:Adversarial",
    "causal": "llm_jax.objectives.causal:Causal",
    "classification": "llm_jax.objectives.labelled.classification:Classification",
    "denoising": "llm_jax.objectives.denoising:Denoising",
    "dpo": "llm_jax.objectives.preference.referred:Dpo",
    "distill": "llm_jax.objectives.distill:Distill",
    "elbo": "llm_jax.objectives.elbo:Elbo",
    "ipo": "llm_jax.objectives.preference.referred:Ipo",
    "masked": "llm_jax.objectives.masked:Masked",
    "orpo": "llm_jax.objectives.preference.alone:Orpo",
    "prefix": "llm_jax.objectives.prefix:Prefix",
    "regression": "llm_jax.objectives.labelled.regression:Regression",
    "seq2seq": "llm_jax.objectives.seq2seq:Seq2Seq",
    "several": "llm_jax.objectives.several:Several",
    "simpo": "llm_jax.objectives.preference.alone:Simpo",
    "span": "llm_jax.objectives.span:Span",
    "tagging": "llm_jax.objectives.labelled.tagging:Tagging",
    "ul2": "llm_jax.objectives.ul2:Ul2",
}
