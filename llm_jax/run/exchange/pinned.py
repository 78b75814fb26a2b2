"""Other runs that a run learns beside, as a reference or a teacher: one checkpoint of each, the same to the end.

Which one it is stands in run.json, so that neither a resumed run nor `evaluate` takes another when the other run has
been trained on meanwhile.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from llm_jax.core.table import UserError
from llm_jax.core.types import Params
from llm_jax.run.open_run import OpenRun, open_run
from llm_jax.store import manifest
from llm_jax.store.files import read_json
from llm_jax.store.manifest import CorruptCheckpointError
from llm_jax.store.workdir import Workdir

Pins = Mapping[str, Mapping[str, Any]]  # role of the other run -> {"step": …, "digest": of the arrays of that step}


def kept(workdir: Workdir) -> Pins:
    """Return what run.json says; {} of a run that learnt beside no other, or began before that was written down."""
    pins: Pins = read_json(workdir.run).get("pins", {}) if workdir.run.exists() else {}
    return pins


class Pinned:
    """A checkpoint of another run: the one that is pinned for `role`, else the newest.

    Raises:
        UserError: there is no such run or no such checkpoint, or it is not what it was.
    """

    def __init__(self, role: str, path: str, pins: Pins):
        self._role = role
        self.opened: OpenRun = open_run(path)
        steps, pin = self.opened.steps, pins.get(role)
        if not steps:
            raise UserError(f"the {role} {path} has no checkpoint; train it first")
        self.step: int = steps[-1] if pin is None else pin["step"]
        self._where = self.opened.workdir.checkpoints / str(self.step)
        self._said = f"this run learns beside step {self.step} of {path}, its {role}"
        self._out = f"put {self._where} back from a copy, or begin anew, beside step {steps[-1]}, in a new --workdir"
        if self.step not in steps:
            raise UserError(f"{self._said}, which is gone (steps there: {steps}); {self._out}")
        try:
            self.digest = manifest.read(self._where).digest
        except CorruptCheckpointError as error:
            raise UserError(f"{self._said}, and {error}; {self._out}") from None
        if pin is not None and self.digest != pin["digest"]:
            raise UserError(f"{self._said}, which is another now ({pin['digest']} -> {self.digest}); {self._out}")

    @property
    def pins(self) -> Pins:
        """What run.json is to say."""
        return {self._role: {"step": self.step, "digest": self.digest}}

    @cached_property
    def params(self) -> Params:
        """Its parameters, loaded when they are first asked for, onto the active plan.

        Raises:
            UserError: they are damaged.
        """
        try:
            return self.opened.params(self.step)
        except CorruptCheckpointError as error:
            raise UserError(f"{self._said}, and {error}; {self._out}") from None
