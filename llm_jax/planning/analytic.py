"""A step's work and memory from formulas alone: for a search, for GPUs without their compiler, and to check against.

What crosses links is in `planning.axes`. Activations a layer: Korthikanti et al. 2022, §4.
"""

from dataclasses import dataclass

from llm_jax.mesh.remat import kept
from llm_jax.planning.axes import schedule
from llm_jax.planning.axes.links import compiled, recomputed
from llm_jax.planning.axes.shares import item, size, stored, tokens, used
from llm_jax.planning.roofline import Work
from llm_jax.planning.topology import Topology
from llm_jax.planning.workload import Workload

UNFUSED = 3.4
"""How much more crosses memory than products alone move: TPUs' compiler counts 1.9 (outputs kept) to 4.1."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one device by kind."""

    params: float
    optimizer: float
    gradients: float
    activations: float
    temporaries: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.params + self.optimizer + self.gradients + self.activations + self.temporaries


def work(w: Workload, topology: Topology) -> Work:
    """Return the work of a step of a workload, with attention that keeps no scores; a pipeline's idle ticks count."""
    passes = 3 + recomputed(w)
    flops = w.flops_causal * w.tokens_per_step / topology.chips * passes / 3
    return Work(flops / (1 - schedule.bubble(w)), UNFUSED * memory_traffic(w), tuple(compiled(w, topology)))


def memory_traffic(w: Workload) -> float:
    """Bytes that products and the optimizer move: weights in each pass, activations around each product, the state."""
    tensor, local = size(w, "tensor"), tokens(w)
    passes = 3 + recomputed(w)
    weights = item(w) * used(w) * passes * w.microbatches * schedule.turns(w) * 2
    activations = item(w) * local * w.layers * (10 * w.width + (2 * w.width + 3 * w.hidden + 2 * w.kv_width) / tensor)
    logits = 4 * 3 * local * w.vocab_size / tensor
    update = 4 * stored(w) * (2 * (1 + w.slots) + 2)
    return weights + activations * passes + logits + update


def memory(w: Workload) -> Memory:
    """Return the bytes of a device."""
    tensor, local = size(w, "tensor"), tokens(w) / w.microbatches
    each = {
        "full": w.width, "offload": 0.0,
        "dots": 3 * w.width + (w.width + 2 * w.kv_width + 2 * w.hidden) / tensor,
        "none": 8 * w.width + (3 * w.width + 4 * w.kv_width + 4 * w.hidden) / tensor,
    }  # fmt: skip
    whole, split, hidden = w.width, w.width / tensor, w.hidden / tensor
    of = {
        "query": split, "key": w.kv_width / tensor, "value": w.kv_width / tensor, "attention": split, "ssm": split,
        "attention_out": whole, "mlp_gate": hidden, "mlp_up": hidden, "mlp_hidden": hidden, "mlp_out": whole,
    }  # fmt: skip
    numbers = each[w.remat] if w.remat in each else w.width + sum(of[name] for name in kept(w.remat))
    numbers = 0 if "activations" in w.offload else numbers
    layer = (w.parameters - w.table_parameters) / w.layers / tensor / size(w, "expert")
    one_layer = item(w) * local * (8 * w.width + (3 * w.width + 4 * w.kv_width + 4 * w.hidden) / tensor)
    logits = 2 * 4 * w.vocab_size / tensor * (1024 if w.chunked_loss else local)
    return Memory(
        params=4 * stored(w), gradients=4 * stored(w),
        optimizer=0 if "optimizer" in w.offload else 4 * w.slots * stored(w),
        activations=item(w) * local * w.layers * numbers,
        temporaries=one_layer + logits + 4 * item(w) * layer + item(w) * w.table_parameters / tensor,
    )  # fmt: skip
