"""A finished or running run, opened for reading: `run = open_run("DIR")`."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from ml_collections import FrozenConfigDict

from llm_jax.adapt.adapted import Adapted, unadapted
from llm_jax.adapt.packed import Packed
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Model, Objective, Params
from llm_jax.learn.counting import ready
from llm_jax.mesh import plan as plans
from llm_jax.run import build
from llm_jax.run.config import Config, resolve
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.files import read_json, read_lines
from llm_jax.store.manifest import CorruptCheckpointError
from llm_jax.store.workdir import Workdir, existing
from llm_jax.text import tokenizers
from llm_jax.text.base import Tokenizer

if TYPE_CHECKING:
    import pandas


class OpenRun:
    """What a notebook wants of a workdir; everything is read when it is asked for, and nothing is written."""

    def __init__(self, path: epath.PathLike):
        self.workdir: Workdir = existing(path)
        self.resolved: Config = resolve(read_json(self.workdir.config))

    @property
    def config(self) -> FrozenConfigDict:
        """The resolved configuration."""
        return FrozenConfigDict(self.resolved.values)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer.

        Raises:
            UserError: the workdir has none.
        """
        if not self.workdir.tokenizer.exists():
            raise UserError(f"{self.workdir.path} has no tokenizer/, which text needs; import it with its tokenizer")
        return tokenizers.load(self.workdir.tokenizer)

    @property
    def template(self) -> str | None:
        """How conversations are written, in jinja2's language; None where the workdir does not say."""
        return self.workdir.template.read_text() if self.workdir.template.exists() else None

    @property
    def context(self) -> int | None:
        """How many positions the model was made for, where the workdir says."""
        about = read_json(self.workdir.run) if self.workdir.run.exists() else {}
        found = about.get("imported", {}).get("context", about.get("context"))
        return found if isinstance(found, int) else None

    @property
    def stops(self) -> list[int]:
        """The ids that end a text: those of generation_config.json, of which there may be several, and the tokenizer's.

        Raises:
            UserError: the workdir has no tokenizer.
        """
        named = self._generation.get("eos_token_id")
        listed = [*(named if isinstance(named, list) else [named]), self.tokenizer.eos_id]
        return sorted({i for i in listed if isinstance(i, int) and not isinstance(i, bool)})

    @property
    def starts(self) -> list[int]:
        """What the decoder of an encoder-decoder starts with by generation_config.json; [] where that does not say.

        That is `decoder_start_token_id`, and the first token where `forced_bos_token_id` makes it always the same.
        """
        listed = [self._generation.get(name) for name in ("decoder_start_token_id", "forced_bos_token_id")]
        return [i for i in listed if isinstance(i, int) and not isinstance(i, bool)] if listed[0] is not None else []

    @property
    def _generation(self) -> dict[str, Any]:
        return read_json(self.workdir.generation) if self.workdir.generation.exists() else {}

    @cached_property
    def model(self) -> Model:
        """The run's model; of one with an adapter the plain model, whose parameters `params` merges."""
        return unadapted(self.trained)

    @cached_property
    def trained(self) -> Model:
        """The model as it was trained: with its adapter, where it has one."""
        size = self.resolved.values["model"].get("vocab_size") or self.tokenizer.vocab_size
        return build.model(self.resolved, vocab_size=size)

    @property
    def objective(self) -> Objective:
        """What the model was trained for."""
        return build.objective(self.resolved)

    @property
    def metrics(self) -> "pandas.DataFrame":
        """A row for each row of metrics.jsonl: step, split, and a column a name."""
        import pandas

        return pandas.DataFrame(read_lines(self.workdir.metrics))

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint."""
        return self._checkpoints().steps()

    def params(self, step: int | None = None, *, abstract: Params | None = None) -> Params:
        """Return the (averaged) parameters of a step, by default the newest, laid out by the active plan.

        Args:
            step: which checkpoint.
            abstract: the shapes, dtypes and shardings that are wanted, instead of the run's own model's.

        Raises:
            UserError: there is no such checkpoint, or it is of another model; the first differences are listed.
        """
        wanted = abstract_params(self.model) if abstract is None else abstract
        if isinstance(self.trained, Adapted):
            apart = self._checkpoints().restore(abstract_params(self.trained), step, part=self._part)[0]
            return placed(self.trained.merge(apart), wanted)
        found = self._checkpoints().restore(wanted, step, part=self._part)[0]
        return found if abstract is not None else ready(self.model, found)

    def leaves(self, paths: Iterable[str], step: int | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (path, array on the host) of the (averaged) parameters, one read and verified at a time.

        Those of an adapter are merged; packed ones are unpacked.

        Raises:
            UserError: there is no such checkpoint, or it is damaged.
        """
        saved = self._checkpoints()
        chosen = saved.latest() if step is None else step
        for path in paths:
            if not isinstance(self.trained, Adapted | Packed):
                yield path, self._stored(saved, path, chosen)
                continue
            below = "base/" if isinstance(self.trained, Adapted) else ""
            kernel, use = self._stored(saved, f"{below}{path}", chosen), self.trained.uses.get(path)
            if use is not None:
                change = self._stored(saved, f"adapter/{path}", chosen) if use.kind else None
                kernel = np.asarray(use({"kernel": kernel, "change": change}))
            yield path, kernel

    def adapters(self, step: int | None = None) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield (path of a kernel, the parameters of its change) of a run with an adapter.

        Raises:
            UserError: there is no such checkpoint, or it is damaged.
        """
        saved = self._checkpoints()
        chosen = saved.latest() if step is None else step
        for path in self.trained.chosen if isinstance(self.trained, Adapted) else ():
            yield path, self._stored(saved, f"adapter/{path}", chosen)

    def _stored(self, saved: Checkpoints, path: str, step: int | None) -> Any:
        try:
            return saved.restore(step=step, part=f"{self._part}/{path}")[0]
        except CorruptCheckpointError as error:
            raise UserError(f"{error}; choose another with --step, of {self.steps}") from None

    @property
    def _part(self) -> str:
        return "params" if self.resolved.values["train"]["ema"] is None else "extra/ema"

    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.workdir.checkpoints)


def abstract_params(model: Model) -> Params:
    """Return a model's parameters as shapes, dtypes and shardings of the active plan."""
    import jax
    from jax.sharding import SingleDeviceSharding

    declared = model.declarations()
    shardings = plans.current().shardings(declared)
    here = SingleDeviceSharding(jax.devices()[0])
    leaves = {p: jax.ShapeDtypeStruct(d.shape, d.dtype, sharding=shardings[p] or here) for p, d in declared.items()}
    return tree.unflatten(leaves)


def placed(params: Params, wanted: Params) -> Params:
    """Return parameters where those of `wanted` (abstract ones) are.

    Raises:
        UserError: a path or a shape differs; the first differences are listed.
    """
    import jax

    have, want = ({p: tuple(x.shape) for p, x in tree.flatten(each).items()} for each in (params, wanted))
    paths = [p for p in have | want if have.get(p) != want.get(p)]
    if paths:
        lines = [f"{p}: {have.get(p, 'absent')} -> {want.get(p, 'absent')}" for p in paths[:20]]
        raise UserError("the parameters are of another model:\n  " + "\n  ".join(lines))
    return jax.tree.map(lambda x, w: x if w.sharding is None else jax.device_put(x, w.sharding), params, wanted)


def open_run(path: epath.PathLike) -> OpenRun:
    """Open a workdir: `.config .model .tokenizer .stops .metrics .steps .params(step=None)`.

    Raises:
        UserError: it is not the workdir of a run.
    """
    return OpenRun(path)
