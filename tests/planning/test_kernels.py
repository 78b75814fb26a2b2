"""The Pallas kernels, forward and backward, through the compilers of the chips; needs requirements-plan.txt."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.plan

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc
from jax.sharding import SingleDeviceSharding
from llm_jax.kernels.fused import splash
from llm_jax.kernels.grouped_matmul import megablox

name, options = sys.argv[1], json.loads(sys.argv[2])
device = get_topology_desc(name, platform="tpu").devices[0]

def shape(*dims, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=SingleDeviceSharding(device))

def calls(loss, *arguments):
    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return step.trace(*arguments).lower(lowering_platforms=("tpu",)).compile().as_text().count("tpu_custom_call")

def attention(q, k, v, segments):
    return jnp.square(splash(q, k, v, segments=(segments, segments), **options)).sum().astype(jnp.float32)

def grouped(x, kernels, sizes):
    return jnp.square(megablox(x, kernels, sizes)).sum().astype(jnp.float32)

heads, size = 8, 128
keys = shape(2, 1024, heads // 4, size)
print(calls(attention, shape(2, 1024, heads, size), keys, keys, shape(2, 1024, dtype=jnp.int32)))
print(calls(grouped, shape(1000, 512), shape(8, 512, 1536), shape(8, dtype=jnp.int32)))
"""


@pytest.mark.parametrize("options", [{}, {"window": 256, "softcap": 30.0}], ids=["causal", "window and softcap"])
@pytest.mark.parametrize("chip", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_the_compiler_of_a_tpu_takes_the_kernels(chip, options):
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_STDERR_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(["", *sys.path]).strip(":"),
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, chip, json.dumps(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    attention, grouped = (int(line) for line in done.stdout.split()[-2:])
    assert attention >= 3 and grouped >= 2  # forward, dq, dkv; and both gradients of the product
