"""Outer optimizers: what becomes of θ when workers that started from it have gone their ways.

The outer gradient is g = θ - mean of the workers' parameters, so that rate 1 and no momentum is plain averaging.
"""

import optax

from llm_jax.optim.transform import transformation


def average(learning_rate: float = 1.0, momentum: float = 0.0) -> optax.GradientTransformation:
    """Return averaging: local SGD (Stich 2019, arXiv:1805.09767), FedAvg (McMahan et al. 2017, arXiv:1602.05629).

    With momentum it is FedAvgM (Hsu et al. 2019, arXiv:1909.06335).
    """
    return transformation("sgd", learning_rate, momentum=momentum)


def diloco(learning_rate: float = 0.7, momentum: float = 0.9) -> optax.GradientTransformation:
    """Return Nesterov's momentum with the values of DiLoCo (Douillard et al. 2023, arXiv:2311.08105)."""
    return transformation("sgd", learning_rate, momentum=momentum, nesterov=True)


def adam(learning_rate: float = 0.01, momentum: float = 0.9) -> optax.GradientTransformation:
    """Return FedAdam (Reddi et al. 2021, arXiv:2003.00295), b2 and eps as there, with Adam's correction of the bias."""
    return transformation("adam", learning_rate, b1=momentum, b2=0.99, eps=1e-3)
