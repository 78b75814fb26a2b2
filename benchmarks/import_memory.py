"""What an import and an export hold in memory, and how long they take.

    python -m benchmarks.import_memory [--source=FILE.gguf]

Each case runs in a process of its own. Memory: (peak - before - the parameters' own bytes) / the largest tensor, all in
the host's resident bytes; the aim is at most 1.2. Time: of the whole verb, and of reading, dequantizing and writing the
same bytes alone (float32, one file, synced); the aim for an import is at most 1.5 times that.
The best of three interleaved rounds, each after a sync; the most memory of the three. Linux only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

LLAMA = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2816, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip

ROUNDS = 3


def resident(name: str) -> int:
    """Return a line of /proc/self/status in bytes: VmRSS now, or VmHWM, the most since the last `forget`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def forget() -> None:
    """Let VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def make_model(folder: Path) -> None:
    """Write a random model of Hugging Face in bfloat16, in several files."""
    from llm_jax.core.table import lookup
    from llm_jax.interop import configs, safetensors
    from llm_jax.interop.names import NAMES, slots
    from llm_jax.models import MODELS
    from llm_jax.run.config import construct

    described = configs.read(LLAMA)
    model = construct(lookup(MODELS, described.family, "family"), described.fields)
    shapes = {path: d.shape for path, d in model.declarations().items()}
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    table = slots(lookup(NAMES, described.family, "family"), shapes)
    infos = {n: safetensors.Info(s.rule.shape(s.shapes), bfloat16) for n, s in table.items()}
    draw = np.random.default_rng(0)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    tensors = ((n, draw.standard_normal(i.shape, np.float32).astype(bfloat16)) for n, i in infos.items())
    safetensors.write(folder, infos, tensors, max_shard_bytes=200 << 20)


def bare(source: str, folder: Path) -> dict[str, float]:
    """Read and dequantize every tensor, and write it: what no import can do without."""
    from llm_jax.interop.source import open_source

    started = time.perf_counter()
    tensors = open_source(source).tensors
    with open(folder / "bytes", "wb") as out:
        for name in tensors.infos:
            tensors.read(name).astype(np.float32).tofile(out)
        out.flush()
        os.fsync(out.fileno())
    return {"seconds": time.perf_counter() - started}


def measured(verb: str, source: str, folder: Path) -> dict[str, float]:
    """Run a verb in this process; what is imported before does not count."""
    import jax
    import orbax.checkpoint  # noqa: F401  # a second of importing, whatever the model's size

    from llm_jax.core import tree
    from llm_jax.interop.source import open_source
    from llm_jax.run.exchange import exported, imported
    from llm_jax.run.open_run import open_run

    os.sync()  # what was written before does not count
    if verb == "bare":
        return bare(source, folder)
    jax.block_until_ready(jax.numpy.zeros(8) + 1)
    before = resident("VmRSS")
    forget()
    started = time.perf_counter()
    if verb == "import":
        imported.import_run(open_source(source), str(folder / "run"))
    elif verb == "export":
        exported.export(open_run(source), str(folder / "out"), dtype="bfloat16")
    seconds, peak = time.perf_counter() - started, resident("VmHWM")
    run = open_run(folder / "run" if verb == "import" else source)
    declared = run.model.declarations()
    sizes = {path: 4 * int(np.prod(d.shape)) for path, d in declared.items()}
    assert tree.flatten(declared).keys() == sizes.keys()
    own, largest = sum(sizes.values()), max(sizes.values())
    return {"seconds": seconds, "own": own, "largest": largest, "ratio": (peak - before - own) / largest}


def child(verb: str, source: str, folder: Path) -> dict[str, float]:
    """Run a case in a process of its own; an export is of the newest import."""
    shutil.rmtree(folder / "run", ignore_errors=True) if verb == "import" else None
    shutil.rmtree(folder / "out", ignore_errors=True)
    source = str(folder / "run") if verb == "export" else source
    words = [sys.executable, "-m", "benchmarks.import_memory", "--case", verb, source, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", help="a further model, such as the .gguf of `python -m llm_jax fetch smollm2`")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.case:
        print(json.dumps(measured(flags.case[0], flags.case[1], Path(flags.case[2]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "random").mkdir()
        make_model(folder / "random")
        print("| model | verb | own GB | largest tensor MB | further memory / largest | seconds | / bare |")
        print("|---|---|---|---|---|---|---|")
        models = {"random llama, bfloat16": str(folder / "random")} | ({"given": flags.source} if flags.source else {})
        for label, source in models.items():
            for verb in ("import", "export"):
                rounds = [(child("bare", source, folder), child(verb, source, folder)) for _ in range(ROUNDS)]
                alone, found = (min(each, key=lambda f: f["seconds"]) for each in zip(*rounds, strict=True))
                print(
                    f"| {label} | {verb} | {found['own'] / 1e9:.2f} | {found['largest'] / 1e6:.0f} | "
                    f"{max(f['ratio'] for _, f in rounds):.2f} | {found['seconds']:.2f} | "
                    f"{found['seconds'] / alone['seconds']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
