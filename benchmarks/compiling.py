"""Compile time against depth: the update of a small Llama with scanned layers, and with unrolled ones.

    python -m benchmarks.compiling [--layers=2,8,32,96]

It prints seconds to trace, lower and compile, each in a process of its own, and their ratio to those of 8 layers.
"""

import argparse
import subprocess
import sys
import time

from benchmarks.training import ENVIRONMENT, ROOT


def seconds(layers: int, unroll: bool) -> float:
    """Compile the update of a Llama of this depth in this process, and return the seconds."""
    import jax
    import optax

    from llm_jax.learn.gradient import gradient, plain
    from llm_jax.models.decoder.llama import Llama
    from llm_jax.nn import stack
    from llm_jax.objectives.causal import Causal

    stack.UNROLLED_ON_CPU = layers if unroll else 0
    model = Llama(vocab_size=512, num_layers=layers, embed_dim=128, num_heads=4)
    learner = gradient(plain(model, Causal()), model.init, optax.adamw(1e-3))
    state = jax.eval_shape(learner.init, jax.random.key(0))
    batch = {"tokens": jax.ShapeDtypeStruct((4, 128), "int32")}
    began = time.perf_counter()
    jax.jit(learner.update, donate_argnums=0).lower(state, batch).compile()
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="2,8,32,96")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        print(seconds(int(flags.one[0]), flags.one[1] == "unrolled"))
        return
    print("# Compile time against depth, seconds to trace, lower and compile an update\n")
    print("| layers | " + " | ".join(f"{kind}, s | / 8 layers" for kind in ("scanned", "unrolled")) + " |")
    print("|---|---|---|---|---|")
    found: dict[tuple[int, str], float] = {}
    for layers in sorted({8, *map(int, flags.layers.split(","))}, key=lambda n: (n != 8, n)):
        for kind in ("scanned", "unrolled"):
            command = [sys.executable, "-m", "benchmarks.compiling", "--one", str(layers), kind]
            out = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            found[layers, kind] = float(out)
        cells = [f"{found[layers, k]:.2f} | {found[layers, k] / found[8, k]:.2f}" for k in ("scanned", "unrolled")]
        print(f"| {layers} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
