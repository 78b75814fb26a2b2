"""llm_jax: pretrain language models in JAX, from a laptop CPU to a TPU pod."""

from typing import Any

__all__ = ["open_run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Hand out `open_run` on first use, so that importing the package never imports jax."""
    if name == "open_run":
        from llm_jax.run.open_run import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
