"""Flags that several verbs share."""

import os
import sys
from importlib import import_module

import pytest

from llm_jax.cli import MODULES as NAMES
from llm_jax.cli import VERBS, flags

MODULES = {verb: import_module(f"llm_jax.cli.{NAMES.get(verb, verb)}") for verb in VERBS}
STARTING = [verb for verb, module in MODULES.items() if hasattr(module, "with_huge_pages")]
NEEDED = {"train": ["--config=x"], "sample": ["--prompt=x"]}


@pytest.mark.parametrize("verb", STARTING)
@pytest.mark.parametrize("flags", [[], ["--no_huge_pages"]])
def test_every_verb_that_starts_anew_with_huge_pages_can_be_told_not_to(monkeypatch, verb, flags):
    class Asked(Exception):
        pass

    def ask(wanted):
        raise Asked(wanted)

    monkeypatch.setattr(MODULES[verb], "with_huge_pages", ask)
    with pytest.raises(Asked, match=str(not flags)):
        MODULES[verb].run(["--workdir=x", *NEEDED.get(verb, []), *flags])


def test_there_are_such_verbs():
    assert {"train", "sample", "chat", "evaluate"} <= set(STARTING)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is that of Linux")
@pytest.mark.parametrize(
    ("program", "anew"),
    [("/lib/llm_jax/__main__.py", True), ("/bin/llm_jax", True), ("/lib/benchmarks/labelled.py", False), ("", False)],
)
def test_only_the_command_line_itself_starts_anew(monkeypatch, program, anew):
    started = []
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    monkeypatch.setattr(sys, "argv", [program, "train", "--workdir=x"])
    monkeypatch.setattr(os, "execve", lambda file, words, environment: started.append(words[1:]))
    flags.with_huge_pages(True)
    assert started == [["-m", "llm_jax", "train", "--workdir=x"]] * anew
