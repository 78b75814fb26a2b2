"""The house, checked from its own source: who imports whom, how large things are, and that every recipe traces."""

import ast
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from llm_jax.run import build
from llm_jax.run.checks import examples
from llm_jax.run.config import load_recipe, resolve
from llm_jax.text import tokenizers

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llm_jax"
LADDER = [
    {"core"},
    {"mesh", "text"},
    {"nn", "kernels", "optim", "data", "store"},
    {"models", "objectives"},
    {"learn", "decode", "adapt", "interop", "cost"},
    {"evals"},
    {"run"},
    {"serve", "planning", "launch", "analysis"},
    {"cli"},
]
ARROWS = {("nn", "kernels")}
MODULES = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((ROOT / "configs").rglob("*.py"))
LINES, FIELDS, PER_ROOM = 350, 15, 13
SPINE = [
    "run/train.py", "learn/gradient.py", "objectives/causal.py", "models/decoder/llama.py", "nn/attention.py"
]  # fmt: skip


def dotted(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions and under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "llm_jax" and len(parts) > 1 else None


def rank(name: str) -> int:
    return next(i for i, group in enumerate(LADDER) if name in group)


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent != PACKAGE], ids=dotted)
def test_a_room_imports_only_rooms_to_its_left(path):
    here = room(dotted(path))
    for module in imports(path):
        there = room(module)
        if there is None or there == here or not (PACKAGE / there).is_dir():
            continue
        allowed = rank(there) < rank(here) or (here, there) in ARROWS
        assert allowed, f"{dotted(path)} imports {module}, and {there} is not to the left of {here}"


def test_no_import_cycles():
    known = {dotted(p): {m for m in imports(p) if m.startswith("llm_jax.")} for p in MODULES}
    graph = {name: {m for m in found if m in known and m != name} for name, found in known.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_module_imports_and_stays_small(path):
    importlib.import_module(dotted(path)) if path.name != "__main__.py" else None
    lines = len(path.read_text().splitlines())
    assert lines <= LINES, f"{dotted(path)} has {lines} lines; split it by thought"


def test_a_training_step_is_read_in_six_short_files():
    for name in SPINE:
        lines = len((PACKAGE / name).read_text().splitlines())
        assert lines <= 250, f"{name} has {lines} lines"


def test_rooms_stay_small_and_no_room_of_odds_and_ends():
    folders = {p.parent for p in MODULES} - {PACKAGE}
    for folder in folders:
        assert len(list(folder.glob("*.py"))) <= PER_ROOM, f"{folder.name} has too many modules"
    assert not [p for p in MODULES if p.stem in ("utils", "helpers", "common", "misc")]
    assert {f.relative_to(PACKAGE).parts[0] for f in folders} - {"__pycache__"} <= set().union(*LADDER)


def test_sections_have_few_fields():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path.match("*/run/sections.py"):
                fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
                assert len(fields) <= FIELDS, f"{node.name} has {len(fields)} fields"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_mesh_axes_configs_and_pickles_stay_in_their_rooms(path):
    text, name = path.read_text(), room(dotted(path))
    if name not in ("mesh", "run", None):
        assert '"fsdp"' not in text, "only the mesh room and recipes name mesh axes"
    if name not in ("run", "cli"):
        assert "ml_collections" not in imports(path), "a configuration stops at the door"
    banned = {"pickle", "dill", "shelve", "marshal", "tensorflow", "torch"}
    assert not {m.split(".")[0] for m in imports(path)} & banned


@pytest.mark.rotates(2)
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_builds_and_traces_one_abstract_step(path):
    devices = [("mesh.data", "-1"), ("mesh.fsdp", "1"), ("mesh.tensor", "1"), ("mesh.slice", "1")]
    recipe = load_recipe(str(path))
    workers = recipe.get("local", {}).get("workers", 1)
    config = resolve(recipe, [*devices, ("data.batch_size", str(2 * workers * jax.device_count()))])
    parts, plan = build.check(config)
    model = build.model(config, vocab_size=config.values["model"].get("vocab_size") or 512)
    transform, _ = build.optimizer(config, 10**9)
    learner = build.learner(config, parts, model, transform)
    fields = examples.blank(parts.data, parts.data.batch_size)
    reshaped = getattr(build.objective(config), "transform", None)
    if reshaped is not None:
        words = tokenizers.build("bytes", {})
        fields = reshaped(words, parts.data.seq_len, 0)(fields, np.arange(parts.data.batch_size))
    with plan.active():
        state = jax.eval_shape(learner.init, jax.random.key(0))
        batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in fields.items()}
        after, stats = jax.eval_shape(learner.update, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert stats and {mean.total.shape for mean in stats.values()} == {() if workers == 1 else (workers,)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_opens_with_its_command(path):
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"--config={path.relative_to(ROOT)}" in doc


def test_importing_the_package_and_the_tables_imports_no_jax():
    import subprocess
    import sys

    modules = "llm_jax, llm_jax.core.table, llm_jax.core.durations, llm_jax.models, llm_jax.cli.flags"
    code = f"import sys, {modules}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
