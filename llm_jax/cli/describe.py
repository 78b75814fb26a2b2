"""describe: a recipe resolved, every value with its origin, the parameters, and the FLOPs of a token."""

import math
from collections.abc import Sequence
from typing import Any

from llm_jax.cli.flags import Parser


def run(arguments: Sequence[str]) -> int:
    """Print what a recipe comes to; nothing is allocated, read or compiled."""
    parser = Parser("describe", "Print a recipe resolved: every value and its origin, the parameters, the FLOPs.")
    parser.add_argument("--config", required=True, help="configs/RECIPE.py[:argument]; --config.a.b=value overrides")
    flags, overrides = parser.read(arguments)
    from llm_jax.core import durations
    from llm_jax.run import build
    from llm_jax.run.config import load_recipe, resolve
    from llm_jax.run.parts.effort import flops_per_token, seen

    config = resolve(load_recipe(flags.config), overrides)
    parts, plan = build.check(config)
    size, origin = _vocabulary(config.values)
    model = build.model(config, vocab_size=size)
    print("configuration")
    for key, where in config.origins.items():
        value = _value(config.values, key)
        note = f"derived: {_derived(key, model, origin)}" if value is None and _derived(key, model, origin) else where
        print(f"  {key:<32} {value!r:<28} {note}")
    print("\nparameters")
    declared, total = model.declarations(), 0
    for path, d in declared.items():
        count = math.prod(d.shape)
        total += count
        axes = " ".join(a or "-" for a in d.axes)
        where = "whole" if plan.mesh is None else str(plan.spec(d.axes, d.shape))
        print(f"  {path:<28} {'x'.join(map(str, d.shape)):<18} {axes:<24} {where:<28} {4 * count:>14,} bytes")
    length = parts.data.seq_len
    print(f"  {'all':<28} {total:,} parameters, {4 * total:,} bytes in float32")
    objective = build.objective(config)
    each, share = flops_per_token(model, objective, length), seen(model, objective)
    print(f"\nFLOPs of training on a token of {length}: {each:.4g} (attention of {share:.0%} of a row's pairs)")
    steps = durations.parse(parts.train.duration).steps(
        tokens_per_step=parts.data.batch_size * length, examples_per_step=parts.data.batch_size, examples_per_epoch=None
    ) if not parts.train.duration.endswith(("epoch", "epochs")) else None  # fmt: skip
    if steps:
        tokens = steps * parts.data.batch_size * length
        print(f"whole training: {tokens:,} tokens, {tokens * each:.4g} FLOPs")
    return 0


def _vocabulary(values: dict[str, Any]) -> tuple[int, str]:
    """Return the size of the vocabulary as far as it is known without reading text, and where from."""
    tokenizer = values["data"]["tokenizer"]
    if values["model"].get("vocab_size"):
        return values["model"]["vocab_size"], "given"
    if isinstance(tokenizer.get("vocab_size"), int):
        return tokenizer["vocab_size"], "data.tokenizer.vocab_size"
    return 257, "the tokenizer (here: as many as bytes have)"


def _derived(key: str, model: Any, vocabulary: str) -> str:
    """Say what a value that was left open comes from."""
    rules = {
        "model.vocab_size": f"{model.vocab_size}, from {vocabulary}",
        "model.head_dim": f"{model.embed_dim // model.num_heads} = embed_dim / num_heads",
        "model.num_kv_heads": f"{model.num_heads} = num_heads",
        "model.mlp_dim": "from embed_dim, as the family does",
        "model.max_positions": f"{getattr(model, 'max_positions', None)}, from data.seq_len",
        "eval.batch_size": "data.batch_size",
        "optimizer.decay_exclude": "vectors do not decay",
    }
    return rules.get(key, "")


def _value(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values
