"""How long the import of a GGUF file takes, beside reading, dequantizing and writing the same bytes alone.

    python -m benchmarks.importing FILE.gguf [--out=benchmarks/IMPORTING.md]

Every figure is the median of rounds in turn, each in a fresh process, after a sync, the file in the system's cache.
Two programs do nothing else: parse the header, read every tensor, dequantize it to float32, write it to one file,
fsync; no tokenizer, no digests, no transposed layers. The peer is the `gguf` package by itself, its reader and its
`dequantize` of whole tensors. The floor is our header and the same `dequantize` in slabs that fit a core's cache, as
the import does it. "work" is that alone, beside opening the file and writing the whole workdir; "process" is from start
to exit, with Python and all modules imported: for the first two only numpy and `gguf`, for the import jax, flax and
orbax too.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = {
    "peer": "`gguf`: reading, dequantizing, writing",
    "floor": "the same in slabs, with our header",
    "import": "`llm_jax import`",
}


def peer(source: Path, target: Path) -> float:
    """Return the seconds of the `gguf` package's own functions."""
    import gguf

    started = time.perf_counter()
    with open(target, "wb") as out:
        for tensor in gguf.GGUFReader(source).tensors:
            gguf.dequantize(tensor.data, tensor.tensor_type).tofile(out)
        out.flush()
        os.fsync(out.fileno())
    return time.perf_counter() - started


def floor(source: Path, target: Path) -> float:
    """Return the seconds that no import can do without."""
    from llm_jax.interop.gguf.blocks import dequantized
    from llm_jax.interop.gguf.header import Header, package

    package()
    started = time.perf_counter()
    with open(target, "wb") as out:
        for entry in Header(source).entries.values():
            dequantized(source, entry).tofile(out)
        out.flush()
        os.fsync(out.fileno())
    return time.perf_counter() - started


def work(source: Path, target: Path) -> float:
    """Return the seconds of the verb's own work, its modules imported before."""
    import gguf  # noqa: F401
    import jax
    import orbax.checkpoint  # noqa: F401

    from llm_jax.interop.source import open_source
    from llm_jax.run.exchange.imported import import_run

    jax.block_until_ready(jax.numpy.zeros(8) + 1)
    started = time.perf_counter()
    import_run(open_source(str(source)), str(target))
    return time.perf_counter() - started


CASES = {"peer": peer, "floor": floor, "import": work}


def process(words: list[str]) -> tuple[float, str]:
    """Return the seconds of a process of Python from start to exit, and what it printed."""
    os.sync()
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=True)
    return time.perf_counter() - started, done.stdout


def one_round(source: Path, folder: Path) -> dict[tuple[str, str], float]:
    """Return the seconds of each figure once."""
    found = {}
    for case in CASES:
        child = ["benchmarks.importing", str(source), "--case", case, str(folder / "made")]
        whole, printed = process(child)
        found[case, "work"] = json.loads(printed.splitlines()[-1])
        shutil.rmtree(folder / "made", ignore_errors=True)
        if case == "import":
            whole, _ = process(["llm_jax", "import", str(source), f"--workdir={folder / 'made'}"])
            shutil.rmtree(folder / "made")
        else:
            (folder / "made").unlink()
        found[case, "process"] = whole
    return found


def report(source: Path, rounds: list[dict[tuple[str, str], float]]) -> str:
    """Return the table."""
    median = {key: statistics.median(found[key] for found in rounds) for key in rounds[0]}
    lines = [
        f"{source.name}, {source.stat().st_size / 1e6:.0f} MB, on {os.cpu_count()} cores; seconds, the median of "
        f"{len(rounds)} rounds in turn (least, most). What each figure holds: `benchmarks/importing.py`.\n",
        "| | work | process |",
        "|---|---|---|",
    ]
    for case, words in WORDS.items():
        cells = []
        for clock in ("work", "process"):
            spread = [found[case, clock] for found in rounds]
            cells.append(f"{median[case, clock]:.2f} ({min(spread):.2f}, {max(spread):.2f})")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    for case in ("peer", "floor"):
        ratios = [f"{median['import', clock] / median[case, clock]:.2f}" for clock in ("work", "process")]
        lines.append(f"| import / {case} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it to --out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.case:
        print(json.dumps(CASES[flags.case[0]](flags.source, Path(flags.case[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = report(flags.source, [one_round(flags.source, Path(folder)) for _ in range(flags.rounds)])
    print(text)
    if flags.out:
        flags.out.write_text(f"# Importing\n\n{text}\n")


if __name__ == "__main__":
    main()
