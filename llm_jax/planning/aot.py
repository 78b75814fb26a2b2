"""Compiling without devices: one process a program, its answer kept by the digest of all that it depends on."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llm_jax.core.table import UserError
from llm_jax.planning.topology import FLAGS, LIBTPU, TARGETS, Topology
from llm_jax.planning.workload import Workload
from llm_jax.run.config import Config

PACKAGE = Path(__file__).parent.parent
ROOMS = ("core", "mesh", "nn", "kernels", "models", "objectives", "learn", "optim", "run")
MODULES = ("planning/step.py", "planning/topology.py", "planning/workload.py")


def cache_directory() -> Path:
    """Where answers are kept: $LLM_JAX_CACHE/plans, by default below the user's cache folder."""
    root = os.environ.get("LLM_JAX_CACHE") or Path.home() / ".cache" / "llm_jax"
    return Path(root) / "plans"


def compiled(
    config: Config, workload: Workload, topology: Topology, *, exact: bool = False, timeout: float = 3600.0
) -> tuple[dict[str, Any], str]:
    """Return what the compiler says of a step ({"error": …} when it refuses it), and the program's text.

    Raises:
        UserError: no compiler for this chip is installed, or it did not end in time.
    """
    check_compiler(topology)
    request = {
        "chip": topology.chip_name, "dims": list(topology.dims), "slices": topology.slices, "exact": exact,
        "config": config.values, "workload": asdict(workload),
    }  # fmt: skip
    text = json.dumps(request, sort_keys=True)
    folder = cache_directory() / hashlib.sha256((text + _code(topology)).encode()).hexdigest()[:24]
    answer = folder / "answer.json"
    if not answer.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "request.json").write_text(text)
        _run(folder, topology, timeout)
    found = json.loads(answer.read_text())
    if "error" in found and not too_large(found["error"]):
        answer.unlink()  # of a step that does not fit the answer stays the same; another failure may be the machine's
    program = folder / "program.txt"
    return found, program.read_text() if program.is_file() else ""


def too_large(error: str) -> bool:
    """Whether the compiler's words say that a step needs more memory than there is."""
    return any(words in error for words in ("RESOURCE_EXHAUSTED", "Ran out of memory"))


def check_compiler(topology: Topology) -> None:
    """Refuse a topology whose compiler is not installed.

    Raises:
        UserError: how to get it.
    """
    if topology.chip_name in LIBTPU:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                "no TPU compiler is installed: pip install -r requirements-plan.txt, or give --analytic for formulas"
            )
    elif topology.chip_name not in TARGETS:
        raise UserError(
            f"for {topology.chip_name} there is no compiler without the chip (of GPUs: {', '.join(TARGETS)} have one); "
            "give --analytic for formulas"
        )
    elif gpu_compiler() is None:
        raise UserError(
            f"no compiler for {topology.chip_name} is installed (make gpu_compiler); give --analytic for formulas"
        )


def gpu_compiler() -> Path | None:
    """Return the folder of XLA's compiler for GPUs, None where there is none.

    It stands beside the environment's packages, not among them: jax asks each plugin that it finds for devices, and
    this one complains when there is no driver.
    """
    places = (Path(sys.prefix) / "gpu_compiler", *map(Path, sys.path))
    return next((place for place in places if (place / "jax_plugins" / "xla_cuda12").is_dir()), None)


def _run(folder: Path, topology: Topology, timeout: float) -> None:
    places = [str(PACKAGE.parent), *([str(gpu_compiler())] if topology.chip_name in TARGETS else []), *sys.path]
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_STDERR_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(places),
        "XLA_FLAGS": FLAGS if topology.chip_name in TARGETS else "",
    }  # fmt: skip
    if topology.chip_name in TARGETS:
        environment |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "llm_jax.planning.step", str(folder / "request.json"), str(folder)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the compiler did not end within {timeout:g} s; give --analytic, or a longer --timeout"
        ) from None
    if not (folder / "answer.json").is_file():
        raise UserError(
            f"the compiler ended with {done.returncode}: {last_words(done.stderr)}; give --analytic for formulas"
        )


def last_words(text: str) -> str:
    """Return the line that says why a compiler died: the fatal one, before its stack, else the last."""
    lines = [line.strip() for line in text.strip().splitlines()] or ["no message"]
    fatal = [line.partition("] ")[2] for line in lines if re.match(r"F\d{4} ", line)]
    return next((line for line in fatal if line), lines[-1])


def _code(topology: Topology) -> str:
    """A digest of all code that a step is made of, and the versions of the compilers: other code is another program."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[0] in ROOMS or place.as_posix() in MODULES:
            digest.update(path.read_bytes())
    for name in ("jax", "jaxlib", "libtpu"):
        try:
            digest.update(version(name).encode())
        except PackageNotFoundError:
            digest.update(b"-")
    beside = gpu_compiler() if topology.chip_name in TARGETS else None
    for name in sorted(path.name for path in beside.glob("*.dist-info")) if beside else ():
        digest.update(name.encode())
    return digest.hexdigest()
