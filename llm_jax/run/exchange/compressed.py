"""A workdir whose checkpoint is that of another made smaller: weights pruned, most parameters kept in few bits."""

import copy
import platform
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from llm_jax import __version__
from llm_jax.adapt.packed import Packed
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Adversaries, Counts, Latent
from llm_jax.optim.sparsity import Sparsity, mask, prunable
from llm_jax.run import build, sections
from llm_jax.run.config import Config, resolve
from llm_jax.run.open_run import OpenRun
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.files import read_json, write_json
from llm_jax.store.workdir import Workdir
from llm_jax.text import cache


class Compressed(NamedTuple):
    """What came of it: bytes of the parameters before and after, the share of zeros in the kernels of layers."""

    before: int
    after: int
    zeros: float


def compress(
    opened: OpenRun,
    to: str,
    *,
    compress: sections.Compress,
    sparsity: Sparsity | None = None,
    step: int | None = None,
) -> Compressed:
    """Write the workdir of a smaller model, one parameter at a time; on failure nothing is left.

    Args:
        opened: the run, averaged or with an adapter, which is merged.
        to: a directory that is not there, or is empty.
        compress: how kernels and embeddings are kept.
        sparsity: what is pruned before.
        step: which checkpoint (default: the newest).

    Raises:
        UserError: the place is taken, the model is packed already, or is of a kind that cannot be made smaller so.
    """
    target = Workdir(to)
    if target.path.exists() and (not target.path.is_dir() or any(target.path.iterdir())):
        raise UserError(f"--to={to} is there and not empty; name another, or remove it")
    if isinstance(opened.model, Packed):
        raise UserError(f"{opened.workdir.path} holds a packed model; compress the workdir that it was made of")
    if isinstance(opened.model, Counts | Adversaries | Latent):
        raise UserError(f"{opened.workdir.path} holds a {type(opened.model).__name__}; decoders and encoders compress")
    config = configuration(opened, compress)
    size = opened.resolved.values["model"].get("vocab_size") or opened.tokenizer.vocab_size
    model = build.model(config, vocab_size=size)
    shapes = {path: d.shape for path, d in opened.model.declarations().items()}
    layouts = prunable(shapes, sparsity) if sparsity else {}
    stored: dict[str, Any] = {}
    zeros = total = before = 0
    for path, leaf in opened.leaves(shapes, step):
        before += leaf.nbytes
        if sparsity and path in layouts:
            leaf = np.asarray(jnp.where(mask(leaf, layouts[path], sparsity), leaf, 0))
            zeros, total = zeros + int((leaf == 0).sum()), total + leaf.size
        stored |= model.pack(path, leaf) if isinstance(model, Packed) else {path: jax.device_put(leaf)}
    chosen = opened.steps[-1] if step is None else step
    about = _about(opened, compress, sparsity, chosen)

    def write(folder: Path | epath.Path) -> None:
        _write(Workdir(folder), opened, config, stored, about, chosen)

    try:
        cache.publish(Path(target.path), write) if isinstance(target.path, Path) else write(target.path)
    except OSError as error:
        raise UserError(f"--to={to} cannot be written: {error.strerror or error}") from None
    return Compressed(before, tree.num_bytes(stored), zeros / max(1, total))


def configuration(opened: OpenRun, compress: sections.Compress) -> Config:
    """Return the configuration of the smaller model: the run's, without average, adapter and schedule of pruning."""
    values = copy.deepcopy(opened.resolved.values)
    values["train"]["ema"] = None
    if "reference" in (learnt := values["objective"]):
        learnt["reference"] = learnt["reference"] or values["init_from"]
    values["compress"] = asdict(compress)
    return resolve({name: part for name, part in values.items() if name not in ("adapt", "prune", "init_from")})


def _about(opened: OpenRun, compress: sections.Compress, sparsity: Sparsity | None, step: int) -> dict[str, Any]:
    """What run.json says: that of the run, and how it was made smaller."""
    earlier = read_json(opened.workdir.run) if opened.workdir.run.exists() else {}
    return earlier | {
        "llm_jax": __version__,
        "command": ["llm_jax", *sys.argv[1:]],
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "compressed": {
            "source": opened.workdir.path.name, "step": step, **asdict(compress),
            "zeros": sparsity and sparsity.share, "block": sparsity and sparsity.block,
        },
        "started": time.time(),
    }  # fmt: skip


def _write(
    workdir: Workdir, opened: OpenRun, config: Config, stored: dict[str, Any], about: dict[str, Any], step: int
) -> None:
    """Write everything, config.json last: without it a directory is no workdir."""
    with Checkpoints(workdir.checkpoints) as saved:
        meta = {"config_hash": config.hash(), "code_version": __version__}
        saved.save(step, {"params": tree.unflatten(stored)}, meta=meta)
        saved.wait()
        if saved.last_error is not None:
            raise UserError(f"the parameters could not be saved: {saved.last_error}")
    if opened.workdir.tokenizer.exists():
        opened.tokenizer.save(workdir.tokenizer)
    for name in ("template", "generation"):
        source, target = getattr(opened.workdir, name), getattr(workdir, name)
        if source.exists():
            target.write_text(source.read_text())
    write_json(workdir.run, about)
    write_json(workdir.config, config.values)
