"""Directions that act on each element alone, so that stacked layers need no care: optax's own, by the field's names."""

import optax


def sgd(momentum: float = 0.0, nesterov: bool = False) -> optax.GradientTransformation:
    """Return stochastic gradient descent, with heavy-ball or Nesterov momentum.

    m_t = momentum · m_{t-1} + g_t;  u_t = m_t, or g_t + momentum · m_t with `nesterov`. No state when momentum is 0.

    As torch.optim.SGD with dampening 0; its `weight_decay`, though, is added to the gradient and ours is decoupled.
    Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    """
    return optax.trace(momentum, nesterov) if momentum else optax.identity()


def adagrad(initial_accumulator: float = 0.1, eps: float = 1e-10) -> optax.GradientTransformation:
    """Return AdaGrad, with rates that fall by the history of each element.

    s_t = s_{t-1} + g_t², s_{-1} = initial_accumulator;  u_t = g_t / sqrt(s_t + eps).

    torch.optim.Adagrad puts eps outside the root and starts from 0.
    Duchi et al. 2011, "Adaptive subgradient methods for online learning and stochastic optimization".
    """
    return optax.scale_by_rss(initial_accumulator, eps)


def adam(b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8) -> optax.GradientTransformation:
    """Return Adam's direction; AdamW is the same one with decoupled decay.

    m_t = b1·m_{t-1} + (1-b1)·g_t,  v_t = b2·v_{t-1} + (1-b2)·g_t²;
    u_t = m_t/(1-b1^{t+1}) / (sqrt(v_t/(1-b2^{t+1})) + eps).

    eps stands outside the root, as in torch. b2 is that of GPT-3 and Llama; Kingma and Ba give 0.999.
    Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, "Decoupled weight decay", arXiv:1711.05101.
    """
    return optax.scale_by_adam(b1, b2, eps)


def lion(b1: float = 0.9, b2: float = 0.99) -> optax.GradientTransformation:
    """Return Lion, the sign of an interpolated momentum: half of Adam's state, about a tenth to a third of its rate.

    u_t = sign(b1·m_{t-1} + (1-b1)·g_t);  m_t = b2·m_{t-1} + (1-b2)·g_t.

    Chen et al. 2023, "Symbolic discovery of optimization algorithms", arXiv:2302.06675.
    """
    return optax.scale_by_lion(b1, b2)
