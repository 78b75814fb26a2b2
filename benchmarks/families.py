"""The README's table of families: what each reads and writes, how far it is from `transformers`, its published sizes.

    python -m benchmarks.families [--out=README.md]

Every number is measured here: a random model of each case in `benchmarks.foreign` is saved by `transformers`, imported,
and compared; exported, loaded by `transformers`, and compared again. A format is named where it was really written and
read back. Differences are the largest of any case, of float32, divided by the largest value compared.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.foreign import CASES, save_random
from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.interop.configs import MODEL_TYPES
from llm_jax.interop.load import leaves
from llm_jax.interop.names import NAMES, numbered
from llm_jax.interop.source import open_source
from llm_jax.models import MODELS
from llm_jax.run.config import construct
from llm_jax.run.exchange.exported import FORMATS, export
from llm_jax.run.exchange.imported import import_run
from llm_jax.run.open_run import OpenRun, open_run

BEGIN, END = "<!-- families: python -m benchmarks.families -->", "<!-- families end -->"
HEAD = (
    "family", "import hf", "gguf", "export hf", "gguf", "logits, imported", "exported", "gradients",
    "presets: parameters",
)  # fmt: skip
TOLERANCES = {"imported": 1e-4, "exported": 1e-4, "gradients": 1e-3}
YES, NO = "yes", "-"
VOCABULARIES: dict[str, int | dict[str, int]] = {
    "deepseek_v3": {"16b": 163_840, "671b": 129_280},
    "gemma": 256_000,
    "gemma2": 256_000,
    "gemma3": {"270m": 262_144, "1b": 262_144, "4b": 262_208, "12b": 262_208, "27b": 262_208},
    "gpt2": 50_257,
    "gpt_neox": {
        "70m": 50_304, "160m": 50_304, "410m": 50_304, "1b": 50_304, "1.4b": 50_304, "2.8b": 50_304, "6.9b": 50_432,
        "12b": 50_688, "20b": 50_432,
    },
    "gpt_oss": 201_088,
    "llama": {"150m": 32_768, "1b": 128_256, "7b": 32_000, "8b": 128_256, "13b": 32_000, "70b": 32_000},
    "mamba2": {"130m": 50_288, "370m": 50_288, "780m": 50_288, "1.3b": 50_288, "2.7b": 50_288, "7b": 32_768},
    "mistral": {"7b": 32_000, "7b-v0.3": 32_768},
    "mixtral": {"8x7b": 32_000, "8x22b": 32_768},
    "olmo2": 100_352,
    "phi3": 32_064,
    "qwen2": {
        "0.5b": 151_936, "1.5b": 151_936, "3b": 151_936, "7b": 152_064, "14b": 152_064, "32b": 152_064, "72b": 152_064,
    },
    "qwen3": 151_936,
    "qwen3_moe": 151_936,
}  # fmt: skip
"""The published vocabulary of each preset of a family, or of all of them."""
TIED = {"llama": ("1b", "150m")}
"""Presets whose table is the head too, where the preset leaves that to the recipe."""
MORE = {"gpt2": {"max_positions": 1024}}
"""What presets of a family leave to the recipe beside it."""
FAMILIES = sorted({MODEL_TYPES[theirs] for theirs, _ in CASES.values()})


class Measured(NamedTuple):
    """What was seen of a case, or of all cases of a family: formats that were read and written, and differences."""

    reads: frozenset[str]
    writes: frozenset[str]
    imported: float
    exported: float
    gradients: float

    def worse(self, other: "Measured") -> "Measured":
        """Return all formats of both, and the larger differences."""
        return Measured(self.reads | other.reads, self.writes | other.writes, *map(max, self[2:], other[2:]))


def distance(found: Any, wanted: Any) -> float:
    """Return the largest difference, divided by the largest value that was wanted."""
    return float(np.max(np.abs(np.asarray(found) - wanted)) / np.max(np.abs(wanted)))


def logits_of(run: OpenRun, tokens: np.ndarray) -> np.ndarray:
    """Return float32 logits of a run's newest parameters."""
    return np.asarray(jax.jit(lambda p, t: run.model.apply(p, {"tokens": t}).logits)(run.params(), tokens))


def measure(case: str, folder: Path) -> Measured:
    """Compare a case of `CASES` with `transformers`, both ways, in an empty folder."""
    import torch
    import transformers

    theirs = save_random(case, folder / "source")
    import_run(open_source(str(folder / "source")), str(folder / "run"))
    run = open_run(folder / "run")
    tokens = np.random.default_rng(0).integers(0, theirs.config.vocab_size, (2, 40))
    theirs.get_input_embeddings().padding_idx = None  # else torch gives the row of a pad no gradient
    wanted = theirs(torch.tensor(tokens)).logits
    ours = logits_of(run, tokens)
    reads, writes = {"hf"}, set[str]()
    exported = 0.0
    for form in FORMATS:
        try:
            export(run, str(folder / form), form=form)
        except UserError:  # the format cannot say this model
            continue
        writes.add(form)
        if form == "hf":
            again = transformers.AutoModelForCausalLM.from_pretrained(folder / form, dtype=torch.float32)
            back = again(torch.tensor(tokens)).logits.detach().numpy()
        else:
            (file,) = (folder / form).iterdir()
            import_run(open_source(str(file)), str(folder / f"{form}_run"))
            reads.add(form)
            back = logits_of(open_run(folder / f"{form}_run"), tokens)
        exported = max(exported, distance(back, ours))
    there = gradients_of_theirs(theirs, wanted, tokens, folder / "gradient", run)
    here = {path: np.asarray(g) for path, g in tree.flatten(gradients_of_ours(run, tokens)).items()}
    gradients = distance(*(np.concatenate([g[path].ravel() for path in there]) for g in (here, there)))
    apart = distance(ours, wanted.detach().numpy())
    return Measured(frozenset(reads), frozenset(writes), apart, exported, gradients)


def gradients_of_ours(run: OpenRun, tokens: np.ndarray) -> Any:
    """Return the gradient of the mean loss of next tokens by every parameter."""

    def loss(params: Any) -> Any:
        scores = jax.nn.log_softmax(run.model.apply(params, {"tokens": tokens}).logits[:, :-1])
        return -jnp.mean(jnp.take_along_axis(scores, jnp.asarray(tokens[:, 1:, None]), axis=-1))

    return jax.jit(jax.grad(loss))(run.params())


def gradients_of_theirs(
    theirs: Any, logits: Any, tokens: np.ndarray, folder: Path, run: OpenRun
) -> dict[str, np.ndarray]:
    """Return the same of `transformers` by our paths: it saves its gradient as a model, which is read as one."""
    import torch

    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), torch.tensor(tokens[:, 1:].flatten())).backward()
    with torch.no_grad():
        for _, buffer in theirs.named_buffers():
            buffer.zero_()
        for p in theirs.parameters():
            p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
    theirs.save_pretrained(folder)
    names = numbered(lookup(NAMES, run.resolved.values["model"]["name"], "family"), run.model)
    shapes = {path: d.shape for path, d in run.model.declarations().items()}
    return dict(leaves(open_source(str(folder)).tensors, names, shapes))


def presets(family: str) -> dict[str, int]:
    """Return the number of parameters of each preset of a family, counted from its declarations."""
    make = lookup(MODELS, family, "model.name")
    table: Mapping[str, Any] = sys.modules[make.__module__].PRESETS
    words = VOCABULARIES[family]
    found = {}
    for name, fields in table.items():
        vocabulary = words[name] if isinstance(words, dict) else words
        tied = {"tied": True} if name in TIED.get(family, ()) else {}
        model = construct(make, {"vocab_size": vocabulary} | MORE.get(family, {}) | tied | fields)
        found[name] = sum(int(np.prod(d.shape, dtype=np.int64)) for d in model.declarations().values())
    return found


def row(family: str, seen: Measured) -> tuple[str, ...]:
    """Return the cells of a family."""
    formats = [YES if form in group else NO for group in (seen.reads, seen.writes) for form in FORMATS]
    return (f"`{family}`", *formats, *(f"{number:.0e}" for number in seen[2:]), sizes(family))


def sizes(family: str) -> str:
    """Return the last cell of a family."""
    return ", ".join(f"{name}: {short(count)}" for name, count in presets(family).items())


def short(count: int) -> str:
    """Return a number of parameters in three digits: 124 M, 6.74 B."""
    return f"{count / 1e6:.0f} M" if count < 999.5e6 else f"{count / 1e9:.3g} B"


def measure_family(family: str) -> Measured:
    """Return the worst of all cases of a family."""
    found = None
    for case, (theirs, _) in CASES.items():
        if MODEL_TYPES[theirs] == family:
            with tempfile.TemporaryDirectory() as folder:
                seen = measure(case, Path(folder))
            print(case, json.dumps(seen._asdict(), default=sorted), file=sys.stderr, flush=True)
            found = found.worse(seen) if found else seen
    if found is None:
        raise SystemExit(f"{family} has no case in benchmarks/foreign.py")
    return found


def table() -> str:
    """Return the whole table, measured now."""
    rows = [HEAD, ("---",) * len(HEAD), *(row(family, measure_family(family)) for family in FAMILIES)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def main() -> None:
    """Print the table, or put it into a file between the two marks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a file with both marks, such as README.md")
    flags = parser.parse_args()
    if not flags.out:
        print(table())
        return
    before, begin, rest = flags.out.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{flags.out} does not have {BEGIN} and {END}")
    flags.out.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
