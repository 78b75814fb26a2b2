"""A plan: the mesh, the rules from logical names to mesh axes, the dtypes and what is recomputed in the backward pass.

The rules follow the logical-axis names of T5X (Roberts et al. 2022); parameters and activations have names of their
own, so that `embed -> fsdp` (ZeRO-3) never collides with the batch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.core.table import UserError
from llm_jax.core.types import Declaration
from llm_jax.mesh.remat import HOST, canonical, offloaded

AXES = ("slice", "stage", "data", "fsdp", "tensor", "context", "expert")
STAGE = "stage"
BATCH_AXES = ("slice", STAGE, "data", "fsdp", "expert")  # experts and a pipeline apart, their axes are axes of data

RULES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    # parameters
    "layer": (STAGE,), "embed": ("fsdp",), "mlp": ("tensor",), "heads": ("tensor",), "kv": ("tensor",), "head": (),
    "vocab": ("tensor",), "expert": ("expert",),
    # replicas
    "worker": ("slice",),
    # activations
    "batch": BATCH_AXES, "seq": ("context",), "act_seq": ("context",), "act_embed": (),
    "act_mlp": ("tensor",), "act_heads": ("tensor",), "act_vocab": ("tensor",),
})  # fmt: skip

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
QUANTIZE = (None, "int8", "fp8")
ZERO: Mapping[int, Mapping[str, tuple[str, ...]]] = MappingProxyType({3: {}, 1: {"embed": ()}})
CONTEXT_BY = ("ring", "heads")


@dataclass(frozen=True)
class Plan:
    """How a run is laid out. `mesh=None` is one device and no constraint at all.

    state_rules: where what the optimizer keeps of a parameter differs from the parameter itself: under ZeRO-1
    (Rajbhandari et al. 2020, P_os) parameters are whole along `embed`, and only the state is split.
    unrolled: stacks of at most so many layers are unrolled on CPU; deeper ones compile longer than a faster step is
    worth. context_by: how attention sees tokens of other devices, a key of `kernels.CONTEXT`. quantize: the format of
    eight bits in which layers multiply (`kernels.quantized`), or None. remat: what the backward pass computes again,
    and offload: what waits in the host's memory (see `mesh.remat`). microbatches, repeats: of a pipeline (see
    `mesh.pipeline`); microbatches None: at most four a stage.
    """

    mesh: Mesh | None = None
    rules: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: RULES)
    state_rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    compute_dtype: Any = jnp.float32
    remat: str = "none"
    offload: tuple[str, ...] = ()
    unrolled: int = 12
    context_by: str = "ring"
    quantize: str | None = None
    microbatches: int | None = None
    repeats: int = 1

    def spec(
        self, names: tuple[str | None, ...], shape: tuple[int, ...] | None = None, without: frozenset[str] = frozenset()
    ) -> P:
        """Return the PartitionSpec of logical `names`; a dimension that its axes do not divide stays whole.

        without: mesh axes that count as absent.
        """
        return P(*(self._axes(n, None if shape is None else shape[i], without) for i, n in enumerate(names)))

    def _axes(self, name: str | None, size: int | None, without: frozenset[str]) -> str | tuple[str, ...] | None:
        if name is None or self.mesh is None:
            return None
        if name not in self.rules:
            raise KeyError(f"logical axis {name!r} has no rule; known: {sorted(self.rules)}")
        axes = tuple(a for a in self.rules[name] if self.mesh.shape.get(a, 1) > 1 and a not in without)
        if not axes or (size is not None and size % math.prod(self.mesh.shape[a] for a in axes)):
            return None
        return axes[0] if len(axes) == 1 else axes

    def sharding(self, names: tuple[str | None, ...], shape: tuple[int, ...] | None = None) -> NamedSharding | None:
        """Return the sharding of logical `names`, None with no mesh."""
        return None if self.mesh is None else NamedSharding(self.mesh, self.spec(names, shape))

    def shardings(self, declarations: Mapping[str, Declaration]) -> dict[str, NamedSharding | None]:
        """Return {path: sharding} of declared parameters."""
        return {path: self.sharding(d.axes, d.shape) for path, d in declarations.items()}

    def state_shardings(self, declarations: Mapping[str, Declaration]) -> dict[str, NamedSharding | None]:
        """Return {path: sharding} of what an optimizer keeps of declared parameters."""
        kept = replace(self, rules={**self.rules, **self.state_rules}).shardings(declarations)
        if "optimizer" not in self.offload:
            return kept
        return {path: s and s.with_memory_kind(HOST) for path, s in kept.items()}

    @property
    def batch_shards(self) -> int:
        """Into how many parts the rows of a batch are split."""
        return 1 if self.mesh is None else math.prod(self.mesh.shape.get(a, 1) for a in BATCH_AXES)

    def shards(self, name: str, size: int) -> int:
        """Into how many parts a dimension of logical `name` and `size` is split."""
        axes = self._axes(name, size, frozenset()) or ()
        return 1 if self.mesh is None else math.prod(self.mesh.shape[a] for a in ((axes,) if axes in AXES else axes))

    @property
    def slices(self) -> int:
        """Into how many slices the devices fall, which a slower network connects."""
        return 1 if self.mesh is None else self.mesh.shape.get("slice", 1)

    @property
    def stages(self) -> int:
        """Over how many stages of a pipeline the layers lie."""
        return 1 if self.mesh is None else self.mesh.shape.get(STAGE, 1)

    @contextmanager
    def active(self) -> Iterator["Plan"]:
        """Make this the plan that `place` and the layers read, and its mesh jax's own."""
        with read(self):
            if self.mesh is None:
                yield self
            else:
                with jax.set_mesh(self.mesh):
                    yield self


_ACTIVE: ContextVar[Plan | None] = ContextVar("plan", default=None)
_NOWHERE = Plan()


def current() -> Plan:
    """Return the active plan; outside of one, the plan of one device in float32."""
    return _ACTIVE.get() or _NOWHERE


@contextmanager
def read(plan: Plan) -> Iterator[None]:
    """Make `plan` the one that `place` and the layers read; its mesh is jax's own already, or comes to be."""
    token = _ACTIVE.set(plan)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def mesh_shape(sizes: Mapping[str, int], num_devices: int) -> dict[str, int]:
    """Complete the sizes of mesh axes: -1 takes what the others leave of `num_devices`.

    Raises:
        UserError: unknown axis, two -1, or a product that is not the number of devices.
    """
    unknown = set(sizes) - set(AXES)
    if unknown:
        raise UserError(f"mesh.{sorted(unknown)[0]} is not a mesh axis; the axes are {', '.join(AXES)}")
    free = [a for a, n in sizes.items() if n == -1]
    fixed = math.prod(n for n in sizes.values() if n != -1)
    text = " x ".join(f"mesh.{a}={n}" for a, n in sizes.items() if n != 1) or "mesh of one device"
    if len(free) > 1 or any(n < 1 and n != -1 for n in sizes.values()):
        raise UserError(f"{text}: sizes are above zero, and at most one is -1 (what the others leave)")
    if num_devices % fixed or (not free and fixed != num_devices):
        raise UserError(
            f"{text} needs {'a multiple of ' if free else ''}{fixed} device(s) and {num_devices} are here; "
            "set one axis to -1 to take what is left"
        )
    return {a: num_devices // fixed if n == -1 else n for a, n in sizes.items()}


def rules(sequence_sharded: bool = False) -> Mapping[str, tuple[str, ...]]:
    """Return the rules; `sequence_sharded` splits activations between layers over `tensor` (Korthikanti et al. 2022).

    Each product of a layer's inputs then gathers their tokens, and that of its results scatters their sum.
    """
    return {**RULES, "act_seq": ("context", "tensor")} if sequence_sharded else RULES


def build(
    sizes: Mapping[str, int], *, explicit: bool = False, devices: list[Any] | None = None, **options: Any
) -> Plan:
    """Return the plan for these sizes over all devices; one device gets no mesh. The options are those of `over`.

    Raises:
        UserError: for sizes that do not fit the devices, and as `over`.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(sizes, len(devices))
    if options.get("offload") and devices[0].platform == "cpu":
        raise UserError(
            f"mesh.offload={options['offload']!r}: a CPU has no memory but its host's; leave it out, "
            "or choose mesh.remat=full"
        )
    if len(devices) == 1 and not options.get("offload"):  # only a mesh says in which memory
        return over(None, **options)
    dims = [shape.get(a, 1) for a in AXES]
    kinds = (AxisType.Explicit if explicit else AxisType.Auto,) * len(AXES)
    if devices[0].platform == "cpu":
        return over(Mesh(np.array(devices).reshape(dims), AXES, axis_types=kinds), **options)
    return over(jax.make_mesh(tuple(dims), AXES, axis_types=kinds, devices=devices), **options)


def over(
    mesh: Mesh | None,
    *,
    dtype: str = "float32",
    remat: str | Sequence[str] = "none",
    offload: str | Sequence[str] | None = None,
    zero: int = 3,
    context_by: str = "ring",
    sequence_sharded: bool = False,
    quantize: str | None = None,
    microbatches: int | None = None,
    repeats: int = 1,
) -> Plan:
    """Return the plan of a mesh.

    Args:
        mesh: None for one device.
        zero: what `fsdp` splits: 3 parameters, gradients and optimizer state, 1 only the state.
        sequence_sharded: see `rules`. The others are fields of `Plan`.

    Raises:
        UserError: for unknown names, and what explicit axes do not have.
    """
    known: dict[str, tuple[Any, Any]] = {
        "compute_dtype": (dtype, DTYPES), "zero": (zero, sorted(ZERO)),
        "context_by": (context_by, CONTEXT_BY), "quantize": (quantize, QUANTIZE),
    }  # fmt: skip
    for name, (value, values) in known.items():
        if value not in values:
            raise UserError(f"mesh.{name}={value!r} is not one of {', '.join(map(str, values))}")
    again = canonical(remat)
    shape = {} if mesh is None else mesh.shape
    if mesh is not None and AxisType.Explicit in mesh.axis_types and (quantize or shape.get(STAGE, 1) > 1):
        culprit = f"mesh.quantize={quantize}" if quantize else f"mesh.stage={shape[STAGE]}"
        raise UserError(f"{culprit}: this needs Auto axes; leave the axes so, or leave it out")
    split: dict[str, Any] = {} if mesh is None else {"rules": {**rules(sequence_sharded), **ZERO[zero]}}
    kept = {} if mesh is None else {name: RULES[name] for name in ZERO[zero]}
    return Plan(
        mesh, state_rules=kept, compute_dtype=DTYPES[dtype], remat=again, offload=offloaded(offload, again),
        context_by=context_by, quantize=quantize, microbatches=microbatches, repeats=repeats, **split,
    )  # fmt: skip
