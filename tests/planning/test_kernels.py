"""The Pallas kernels, forward and backward, through the compilers of the chips; needs requirements-plan.txt."""

import json
import os
import subprocess
import sys

import pytest

from llm_jax.planning import aot
from llm_jax.planning.topology import FLAGS

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


def test_the_compiler_of_a_gpu_takes_the_fused_attention():
    folder = aot.gpu_compiler()
    if folder is None or not (folder / "nvidia" / "cudnn").is_dir():
        pytest.skip("XLA's compiler for GPUs is not installed, or cuDNN beside it: make gpu_compiler")
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "CUDA_VISIBLE_DEVICES": "",
        "XLA_FLAGS": FLAGS, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", GPU_PROGRAM], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= 2  # forward and backward


GPU_PROGRAM = """
import jax, jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc
from jax.sharding import SingleDeviceSharding
from llm_jax.kernels.fused import cudnn
from llm_jax.planning.topology import TARGETS

device = get_topology_desc(platform="cuda", target_config=TARGETS["h100"], topology="1x1x1").devices[0]

def shape(heads):
    return jax.ShapeDtypeStruct((2, 1024, heads, 128), jnp.bfloat16, sharding=SingleDeviceSharding(device))

def loss(q, k, v):
    return jnp.square(cudnn(q, k, v)).sum().astype(jnp.float32)

step = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(shape(8), shape(2), shape(2))
print(step.lower(lowering_platforms=("cuda",)).compile().as_text().count('custom_call_target="__cudnn$fmha'))
"""
