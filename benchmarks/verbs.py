"""Verbs of the command line, run as a user runs them."""

import subprocess
import sys


def run(*words: str) -> None:
    """Run a verb; where it fails, end as it did."""
    code = subprocess.run([sys.executable, "-m", "llm_jax", *words]).returncode
    if code:
        sys.exit(code)
