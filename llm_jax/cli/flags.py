"""Flags of the verbs: argparse, with every mistake a UserError, and `--config.a.b=value` overrides set apart."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from llm_jax.core.table import UserError, nearest

PROGRAMS = (f"{os.sep}llm_jax", os.path.join("llm_jax", "__main__.py"))
HUGE_PAGES = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""glibc's malloc on transparent huge pages, arenas never given back: 1.05 to 1.5 times the CPU speed."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of leaving the process."""

    def __init__(self, verb: str, what: str):
        super().__init__(prog=f"llm_jax {verb}", description=what, allow_abbrev=False, exit_on_error=False)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UserError(f"{message}; `{self.prog} --help` lists the flags")

    def read(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
        """Return the flags and the overrides [("model.num_layers", "6"), …].

        Raises:
            UserError: an unknown flag, a wrong value, or an override without a value.
        """
        self._check_names([word.partition("=")[0] for word in arguments if word.startswith("--")])
        try:
            known, rest = self.parse_known_args(list(arguments))
        except argparse.ArgumentError as error:
            self.error(str(error))
        overrides = []
        words = iter(rest)
        for word in words:
            if not word.startswith("--config."):
                raise UserError(f"{word!r} is not a flag of {self.prog}; flags begin with --")
            key, equals, value = word.removeprefix("--config.").partition("=")
            text = value if equals else next(words, None)
            if text is None or not key or (not equals and text.startswith("--")):
                raise UserError(f"{word} has no value; write --config.{key or 'section.key'}=VALUE")
            overrides.append((key, text))
        return known, overrides

    def _check_names(self, given: Sequence[str]) -> None:
        """Refuse flags that are unknown, or given twice."""
        flags = [o for action in self._actions for o in action.option_strings]
        for number, name in enumerate(given):
            if name not in flags and not name.startswith("--config."):
                raise UserError(f"{name!r} is not a flag of {self.prog}{nearest(name, flags)}")
            if name in given[:number]:
                raise UserError(f"{name} is given twice; give it once")


def with_huge_pages(wanted: bool) -> None:
    """On Linux, start this process again (same pid) with malloc on huge pages, unless it is so or is not wanted.

    Must run before jax is imported: an allocator cannot be changed under a running program. A program that calls the
    command line, as a notebook or a test does, is left alone.
    """
    ours = sys.argv[0].endswith(PROGRAMS)
    if not wanted or not ours or not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ:
        return
    if os.environ.get("JAX_PLATFORMS", "cpu") not in ("", "cpu") or not os.path.exists(
        "/sys/kernel/mm/transparent_hugepage"
    ):
        return
    print("llm_jax: malloc uses huge pages (--no_huge_pages declines)", file=sys.stderr)
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", "llm_jax", *sys.argv[1:]], {**os.environ, **HUGE_PAGES})


def add_huge_pages(parser: Parser) -> None:
    """What declines `with_huge_pages`."""
    parser.add_argument("--no_huge_pages", action="store_true", help="leave malloc as it is")


def add_workdir(parser: Parser) -> None:
    """The flag that most verbs have."""
    parser.add_argument("--workdir", required=True, help="the directory of the run")


def add_step(parser: Parser) -> None:
    """Which checkpoint."""
    parser.add_argument("--step", type=int, default=None, help="which checkpoint (default: the newest)")
