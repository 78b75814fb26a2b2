"""How the model of a run is judged: by what it learnt, by suites, and by foreign harnesses."""

# What an objective says of how models that learnt by it are judged (`judged`; likelihood where it says nothing) ->
# a function Model -> Judge (`kinds`).
JUDGES = {
    "adversarial": "llm_jax.run.judge.kinds:adversarial",
    "classification": "llm_jax.run.judge.kinds:classification",
    "likelihood": "llm_jax.run.judge.kinds:likelihood",
    "preference": "llm_jax.run.judge.kinds:preference",
    "regression": "llm_jax.run.judge.kinds:regression",
    "spans": "llm_jax.run.judge.kinds:spans",
    "tagging": "llm_jax.run.judge.kinds:tagging",
}
