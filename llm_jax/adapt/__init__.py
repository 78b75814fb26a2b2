"""One trained model into another: few parameters beside a frozen model, kernels in few bits, another vocabulary.

Letters: I inputs and O outputs of a kernel (several dimensions each), R the rank of its change.
"""

# How a kernel is changed by few parameters: a frozen dataclass, see `lora.Lora`.
ADAPTERS = {
    "lora": "llm_jax.adapt.lora:Lora",
    "dora": "llm_jax.adapt.dora:Dora",
}
