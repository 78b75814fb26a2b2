"""A checkpoint goes from two processes to four, to two again, and each number reads the bits that another wrote."""

import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from llm_jax.store.checkpoint import Checkpoints
from tests.store.bits import bits, numbers

ROOT = pathlib.Path(__file__).parents[2]
RANK = """
import os, sys
rank, ranks, step, port, directory, layout = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // ranks}"
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", ranks, rank)
from llm_jax.store.checkpoint import Checkpoints
from tests.store.bits import bits, numbers
mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
specs = {"split": P("a", "b"), "turned": P(None, ("b", "a")), "rows": P(("a", "b")), "whole": P()}
where = NamedSharding(mesh, specs[layout])
put = lambda x: jax.make_array_from_callback(x.shape, where, lambda box: x[box])
replicated = NamedSharding(mesh, P())
expected = numbers()
key = jax.jit(lambda: jax.random.key(7), out_shardings=replicated)()
with Checkpoints(directory) as store:
    if step == 1:
        state = {**{name: put(x) for name, x in expected.items()}, "key": key, "step": np.int32(1)}
    else:
        form = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for name, x in expected.items()}
        form |= {"key": jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated), "step": np.int32(0)}
        state, manifest = store.restore(form)
        assert manifest.step == step - 1, manifest.step
        for name, x in expected.items():
            assert state[name].sharding == where, name
            for shard in state[name].addressable_shards:
                assert (bits(np.asarray(shard.data)) == bits(x[shard.index])).all(), name
        assert bool(jax.jit(lambda a, b: (jax.random.key_data(a) == jax.random.key_data(b)).all())(state["key"], key))
        state["step"] = np.int32(step)
    store.save(step, state)
    store.wait()
print("done", rank)
"""
CHAIN = ((2, "split"), (4, "turned"), (2, "rows"), (4, "whole"), (2, "split"))


def together(ranks, step, directory, layout):
    """Run so many processes to their end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    words = [str(ranks), str(step), port, str(directory), layout]
    run = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in run]
    finally:
        for rank in run:
            rank.kill()
    assert [rank.returncode for rank in run] == [0] * ranks, "\n".join(errors)[-3000:]


@pytest.mark.faults
def test_any_number_of_processes_reads_the_bits_that_another_wrote(tmp_path):
    """Numbers that are not numbers and zeros with a sign included."""
    for step, (ranks, layout) in enumerate(CHAIN, 1):
        together(ranks, step, tmp_path, layout)
    found, manifest = Checkpoints(tmp_path).restore()
    assert manifest.step == len(CHAIN)
    assert all((bits(np.asarray(found[name])) == bits(x)).all() for name, x in numbers().items())
