"""Signals: the first asks the loop to save and leave, the second ends the process at once.

Of several processes all must save the same step, whichever of them were signalled: there SIGTERM is left to jax's
preemption service, which finds a step that none has passed (a second SIGTERM is then not heard; a second SIGINT is).
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from llm_jax.mesh import hosts


class Stopped(Exception):
    """Training was stopped by a signal with everything saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}, everything is saved")
        self.step = step


class Stop:
    """Whether a SIGINT or SIGTERM has come; install it with `with`."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Stop":
        self._several = hosts.several()
        heard = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
        self._before = {s: signal.signal(s, self._on) for s in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            sys.stderr.write("\nllm_jax: ended at once; the last checkpoint stands\n")
            sys.stderr.flush()
            os._exit(130)
        self.requested = True
        sys.stderr.write(f"\nllm_jax: {signal.Signals(number).name}: saving after this step; once more ends at once\n")
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def after(self, number: int) -> bool:
        """Whether to leave after the `number`-th step of this process; all processes of a run get the same answer."""
        if not self._several:
            return self.requested
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(number)

    def leave(self, step: int) -> NoReturn:
        """Leave the loop after `step`."""
        raise Stopped(step)
