"""What the TPU compiler makes of a gradient that is to be scattered: collectives and bytes, by number of shards.

    python -m benchmarks.scattering > benchmarks/SCATTERING.md

The gradient of one kernel [4096, 11008] in bfloat16, summed over devices that each keep a part of its rows: once by
a sharding constraint, as in a train step, and written out as `lax.psum_scatter`. Needs requirements-plan.txt.
"""

import os

os.environ |= {
    "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import mesh_utils
from jax.experimental.topologies import get_topology_desc
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.planning import collectives, hlo, topology

D, F, T = 4096, 11008, 512
SLICES = ("v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:16x16", "v6e:16x16", "v5p:4x4x4")
TORUS = ("x", "y", "z")
Gradient = Callable[[Any, Any], Any]


def summed(x: Any, dy: Any) -> Any:
    """The gradient of a kernel, of which a device has the part of its own rows of the batch."""
    return jnp.einsum("btd,btf->df", x, dy)


def constrained(mesh: Mesh) -> Gradient:
    """The product, laid out by a constraint."""
    return lambda x, dy: jax.lax.with_sharding_constraint(summed(x, dy), NamedSharding(mesh, _rows(mesh)))


def at_once(mesh: Mesh) -> Gradient:
    """The same as one explicit reduce-scatter over all axes of the torus."""
    return _island(mesh, [mesh.axis_names])


def by_axes(mesh: Mesh) -> Gradient:
    """The same as a reduce-scatter over each axis of the torus, one after the other."""
    return _island(mesh, list(mesh.axis_names))


def _island(mesh: Mesh, over: list[Any]) -> Gradient:
    def local(x: Any, dy: Any) -> Any:
        gradient = summed(x, dy)
        for axes in over:
            gradient = jax.lax.psum_scatter(gradient, axes, scatter_dimension=0, tiled=True)
        return gradient

    return jax.shard_map(local, mesh=mesh, in_specs=(_rows(mesh), _rows(mesh)), out_specs=_rows(mesh))


def _rows(mesh: Mesh) -> P:
    return P(mesh.axis_names)


def compiled(name: str, form: Callable[[Mesh], Gradient]) -> tuple[str, float]:
    """Return (kinds of collectives, bytes that a device sends)."""
    dims = topology.parse(name).dims
    array = mesh_utils.create_device_mesh(dims, devices=list(get_topology_desc(name, platform="tpu").devices))
    mesh = Mesh(array, TORUS[: len(dims)], axis_types=(AxisType.Auto,) * len(dims))
    x, dy = (
        jax.ShapeDtypeStruct((array.size, T, width), jnp.bfloat16, sharding=NamedSharding(mesh, _rows(mesh)))
        for width in (D, F)
    )
    step = jax.jit(form(mesh), out_shardings=NamedSharding(mesh, _rows(mesh))).trace(x, dy)
    text = step.lower(lowering_platforms=("tpu",)).compile().as_text()
    rows = collectives.traffic(hlo.parse(text), dict(mesh.shape))
    return " + ".join(dict.fromkeys(row.kind for row in rows)), sum(row.sent for row in rows)


def main() -> None:
    """Print the table."""
    jax.config.update("jax_optimization_level", "O1")
    print(f"# Scattered gradients on TPUs\n\n{__doc__.splitlines()[0]}\n")
    print(f"libtpu {version('libtpu')}, O1; MB that a device sends. A reduce-scatter sends (n-1)/n of the gradient.\n")
    print("| chips | by formula | by a constraint | `psum_scatter` at once | `psum_scatter` axis by axis |")
    print("|---|---|---|---|---|")
    for name in SLICES:
        n = topology.parse(name).chips
        cells = [f"{kinds}, {sent / 1e6:.0f}" for kinds, sent in (compiled(name, f) for f in FORMS)]
        print(f"| {name} | {2 * D * F * (n - 1) / n / 1e6:.0f} | {' | '.join(cells)} |", flush=True)


FORMS = (constrained, at_once, by_axes)

if __name__ == "__main__":
    main()
