"""What providers call slices of chips, and how many hosts they have (cloud.google.com/tpu/docs, …/gke-accelerators)."""

import math
from typing import NamedTuple

from llm_jax.core.table import UserError, choices
from llm_jax.launch.job import Slices


class Tpu(NamedTuple):
    """Names of a kind of TPU.

    gke: the node label gke-tpu-accelerator. vm: the prefix of --accelerator-type (None: not offered as TPU VMs), which
    counts `cores` for each chip. runtime: the software of its VMs. alone: the largest slice with a single host.
    """

    gke: str
    vm: str | None
    cores: int
    runtime: str
    alone: int = 4


TPUS = {
    "v4": Tpu("tpu-v4-podslice", "v4", 2, "tpu-ubuntu2204-base"),
    "v5e": Tpu("tpu-v5-lite-podslice", "v5litepod", 1, "v2-alpha-tpuv5-lite", alone=8),
    "v5p": Tpu("tpu-v5p-slice", "v5p", 2, "v2-alpha-tpuv5"),
    "v6e": Tpu("tpu-v6e-slice", "v6e", 1, "v2-alpha-tpuv6e", alone=8),
    "v7x": Tpu("tpu7x", None, 2, ""),
}
PER_HOST = 4  # chips of each host of a slice with several
GPUS = {
    "a100": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
}
"""The node label gke-accelerator."""


def tpu(slices: Slices, target: str) -> Tpu:
    """Return the names of a slice's chips.

    Raises:
        UserError: they are no TPUs.
    """
    if slices.chip not in TPUS:
        raise UserError(f"--on={target} has TPUs, not {slices.chip}; choose of {choices(TPUS)}, or another --on")
    return TPUS[slices.chip]


def hosts(slices: Slices) -> tuple[int, int]:
    """Return (hosts of one slice, chips of each).

    Raises:
        UserError: hosts have four chips each, of which the slice is no multiple.
    """
    if slices.chip in GPUS:
        return slices.dims[0], slices.dims[1]
    chips = math.prod(slices.dims)
    if chips <= TPUS[slices.chip].alone:
        return 1, chips
    if chips % PER_HOST:
        raise UserError(
            f"--topology={slices.chip}:{slices.shape} has {chips} chips, no multiple of a host's {PER_HOST}"
        )
    return chips // PER_HOST, PER_HOST


def accelerator_type(slices: Slices) -> str:
    """Return what gcloud calls the slice, such as "v5litepod-256".

    Raises:
        UserError: it is not offered as TPU VMs.
    """
    names = tpu(slices, "tpu_vm")
    if names.vm is None:
        raise UserError(f"{slices.chip} is not offered as TPU VMs; use --on=gke")
    return f"{names.vm}-{math.prod(slices.dims) * names.cores}"
