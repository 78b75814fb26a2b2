"""How the model of a run is judged: by what it learnt, by suites, and by foreign harnesses."""

# What an objective says of how models that learnt by it are judged (`judged`; where it says nothing likelihood, or
# carried for a learner that carries their state) -> a function Model -> Judge (`kinds`).
JUDGES = {
    "adversarial": "llm_jax.run.judge.kinds:adversarial",
    "carried": "llm_jax.run.judge.kinds:carried",
    "classification": "llm_jax.run.judge.kinds:classification",
    "likelihood": "llm_jax.run.judge.kinds:likelihood",
    "preference": "llm_jax.run.judge.kinds:preference",
    "regression": "llm_jax.run.judge.kinds:regression",
    "spans": "llm_jax.run.judge.kinds:spans",
    "tagging": "llm_jax.run.judge.kinds:tagging",
}
