"""Optimizers: a name -> an optax transformation; schedules: step -> rate; masks: who decays, who is frozen.

Letters: L layers, D width, H heads, K head size, F hidden width of the MLP, E experts, V vocabulary; t the step from 0.

A member of `OPTIMIZERS` is a *direction*: options -> GradientTransformation that turns gradients into u_t, the way to
walk with unit rate. `transform.transformation` puts the same things round each of them:

    g_t <- g_t · min(1, clip_norm / |g_t|)                       all leaves together
    θ_{t+1} = θ_t - rate(t) · (u_t + weight_decay · θ_t)         decoupled decay, on the leaves that decay

The tables import nothing, so that a command line can list them without jax.
"""

OPTIMIZERS = {
    "sgd": "llm_jax.optim.directions:sgd",
    "adagrad": "llm_jax.optim.directions:adagrad",
    "adam": "llm_jax.optim.directions:adam",
    "adamw": "llm_jax.optim.directions:adam",
    "adafactor": "llm_jax.optim.adafactor:adafactor",
    "lion": "llm_jax.optim.directions:lion",
    "muon": "llm_jax.optim.muon:muon",
}

SCHEDULES = {
    "constant": "llm_jax.optim.schedules:constant",
    "linear": "llm_jax.optim.schedules:linear",
    "cosine": "llm_jax.optim.schedules:cosine",
    "wsd": "llm_jax.optim.schedules:wsd",
    "inverse_sqrt": "llm_jax.optim.schedules:inverse_sqrt",
}
