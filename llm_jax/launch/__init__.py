"""Where a run is started: on this machine, by Slurm, on TPU VMs, by Kubernetes.

Each target builds commands and manifests from plain values, with no look at this machine; `execute` alone runs them.
A command is a vector of arguments; where a shell must read one, it is quoted, and values come as its parameters.
"""

TARGETS = {
    "local": "llm_jax.launch.local:commands",
    "slurm": "llm_jax.launch.slurm:plan",
    "tpu_vm": "llm_jax.launch.tpu_vm:plan",
    "gke": "llm_jax.launch.gke:plan",
}
"""Target -> function (Job, its section of config.launch) that returns the commands."""
