"""Two real processes save one state and read it back, together and alone."""

import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np

from llm_jax.store.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parents[2]
RANK = """
import os, pathlib, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
jax.config.update("jax_cpu_collectives_implementation", "gloo")
rank, port, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, rank)
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.manifest import CorruptCheckpointError
mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

def put(x, *axes):
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, P(*axes)), lambda box: x[box])

w = np.arange(4096, dtype=np.float32).reshape(64, 64)
key = jax.jit(lambda: jax.random.key(7), out_shardings=NamedSharding(mesh, P()))()
with Checkpoints(directory) as store:
    for step in (1, 2):
        state = {"w": put(w + step, "a", "b"), "part": put(w[0], "b"), "same": put(w[:3]), "key": key}
        state["n"] = np.int32(step)
        store.save(step, state)
    store.wait()
    assert store.steps() == [1, 2], store.events
    form = dict(state)
    form["w"] = jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=NamedSharding(mesh, P(None, ("b", "a"))))
    found, manifest = store.restore(form)
    assert manifest.step == 2 and found["n"] == 2
    for shard in found["w"].addressable_shards:
        assert (np.asarray(shard.data) == (w + 2)[shard.index]).all()
    jax.experimental.multihost_utils.sync_global_devices("read")
    if rank == 0:
        row = (w + 2)[32, :32].tobytes()
        path = next(p for p in pathlib.Path(directory, "2", "arrays").rglob("d/*") if row in p.read_bytes())
        path.write_bytes(path.read_bytes().replace(row, row[::-1]))
    jax.experimental.multihost_utils.sync_global_devices("damaged")
    assert store.restore(form)[1].step == 1
    jax.experimental.multihost_utils.sync_global_devices("moved")
    assert store.steps() == [1]
print("done", rank)
"""


def test_two_processes_save_one_checkpoint_that_any_number_reads(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    commands = [[sys.executable, "-c", RANK, rank, port, str(tmp_path)] for rank in "01"]
    ranks = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)[-3000:]
    found, manifest = Checkpoints(tmp_path).restore()
    w = np.arange(4096, dtype=np.float32).reshape(64, 64)
    assert manifest.step == 1 and np.array_equal(found["w"], w + 1) and np.array_equal(found["same"], w[:3])
    assert np.array_equal(jax.random.key_data(found["key"]), [0, 7])
