"""The wavelengths of rotary positions in config.json and in the section `model.rope`, kind by kind, as data.

Both dialects are read, `rope_scaling` beside `rope_theta` and `rope_parameters`, and both are written. Of each kind, a
key that is missing or that it does not have is refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from llm_jax.core.table import UserError, choices
from llm_jax.interop.fields import Entry, Fields, Json, Shapes
from llm_jax.nn.rotary import Rope

KEYS = ("rope_theta", "rope_scaling", "rope_parameters")
LONGEST, ORIGINAL = "max_position_embeddings", "original_max_position_embeddings"
WORDS = {
    "factor": "factor", ORIGINAL: "original", "low_freq_factor": "low", "high_freq_factor": "high", "beta_slow": "low",
    "beta_fast": "high", "truncate": "truncate", "mscale": "mscale", "mscale_all_dim": "mscale_all",
    "short_factor": "short", "long_factor": "long", "attention_factor": "amplitude",
}  # fmt: skip
"""Keys beside `rope_theta` and `rope_type` -> fields of `Rope`."""
KINDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", ORIGINAL),
    "longrope": ("factor", ORIGINAL, "short_factor", "long_factor"),
}
"""`rope_type` -> the keys that it must have; yarn and longrope take two from the longest text where they lack them."""
MORE = {
    "yarn": ("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor"),
    "longrope": ("attention_factor",),
}
"""`rope_type` -> the keys that it may have."""


def rope(prefix: str = "rope", theta: float = 10_000.0, kinds: Iterable[str] = KINDS) -> Entry:
    """The wavelengths of rotary positions.

    Args:
        prefix: of our fields.
        theta: what transformers takes where it is missing.
        kinds: the `rope_type`s that transformers' model of the family does.
    """

    def read(config: Json) -> Fields:
        kind, base, said = _said(config, theta, kinds)
        if kind in ("yarn", "longrope"):
            said = _completed(said, config)
        _check(kind, said, (*KINDS[kind], *MORE.get(kind, ())))
        if kind == "dynamic":
            said[ORIGINAL] = config.get(LONGEST)
        stretched = {f"{prefix}.{WORDS[key]}": value for key, value in said.items()}
        return {f"{prefix}.theta": base} | stretched | ({} if kind == "default" else {f"{prefix}.kind": kind})

    def write(fields: Fields, shapes: Shapes) -> dict[str, Any]:
        ours: dict[str, Any] = {
            k.removeprefix(f"{prefix}."): v for k, v in fields.items() if k.startswith(f"{prefix}.")
        }
        ours |= {k: tuple(v) for k, v in ours.items() if isinstance(v, list)}
        section = Rope(**ours)
        kind = section.chosen
        if section.factor == 1 and kind in ("linear", "llama3"):
            kind = "default"
        if kind not in kinds:
            raise UserError(
                f"model.{prefix}.kind={kind!r} has no place in this family's config.json; it does {choices(kinds)}"
            )
        low, high = section.bounds
        values = vars(section) | {"low": low, "high": high}
        said = {key: values[WORDS[key]] for key in (*KINDS[kind], *MORE.get(kind, ()))}
        said = {key: list(v) if isinstance(v, tuple) else v for key, v in said.items() if v is not None}
        longest = {LONGEST: section.original} if kind == "dynamic" else {}
        return both(kind, section.theta, said) | longest

    return Entry(KEYS, read, write)


YARN = {key: {"low": "slow", "high": "fast"}.get(WORDS[key], WORDS[key]) for key in (*KINDS["yarn"], *MORE["yarn"][:3])}
"""Keys of kind yarn -> fields of `Yarn`."""
MSCALE = {"mscale": "mscale", "mscale_all_dim": "mscale_all"}
"""More such keys, of DeepSeek."""


def yarn(words: Mapping[str, str], theta: float = 10_000.0, usual: Json | None = None) -> Entry:
    """Rotary positions of families with the section `Yarn`, plain or stretched.

    Args:
        words: the keys that the family heeds.
        theta, usual: what transformers takes where the wavelengths' base, or everything, is missing.
    """

    def read(config: Json) -> Fields:
        missing = usual and not config.get("rope_parameters") and "rope_scaling" not in config
        kind, base, said = _said(
            {**config, "rope_parameters": usual} if missing else config, theta, ("default", "yarn")
        )
        if kind == "yarn":
            said = _completed(said, config)
        _check(kind, said, tuple(words) if kind == "yarn" else ())
        return {"rope.theta": base} | {f"rope.{words[key]}": value for key, value in said.items()}

    def write(fields: Fields, shapes: Shapes) -> dict[str, Any]:
        plain = fields.get("rope.factor", 1.0) == 1.0
        lost = [o for o in MSCALE.values() if o not in words.values() and fields.get(f"rope.{o}") is not None]
        if lost and not plain:
            raise UserError(f"model.rope.{lost[0]} has no place in this family's config.json; train with it None")
        said = {} if plain else {key: fields.get(f"rope.{ours}") for key, ours in words.items()}
        said = {key: value for key, value in said.items() if value is not None}
        return both("default" if plain else "yarn", fields["rope.theta"], said)

    return Entry(KEYS, read, write)


def both(kind: str, theta: float, said: Json) -> dict[str, Any]:
    """Return what config.json says of one kind, in both dialects."""
    whole = {"rope_type": kind, **said}
    return {
        "rope_parameters": whole | {"rope_theta": theta}, "rope_theta": theta,
        "rope_scaling": None if kind == "default" else whole,
    }  # fmt: skip


def rope_parameters(config: Json, theta: float) -> dict[str, Any]:
    """Return {"rope_type", "rope_theta", …} of either dialect (a family with several kinds of layer nests them)."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found["rope_type"] = found.get("rope_type", found.pop("type", None)) or "default"
    found.setdefault("rope_theta", config.get("rope_theta") or theta)
    return found


def _said(config: Json, theta: float, kinds: Iterable[str]) -> tuple[str, float, dict[str, Any]]:
    """Return the kind, the base and what else is said."""
    said = {key: value for key, value in rope_parameters(config, theta).items() if value is not None}
    said.pop("type", None)
    kind, base = said.pop("rope_type"), said.pop("rope_theta")
    if kind not in kinds:
        raise UserError(f"rope_type={kind!r} is not supported; this family does {choices(kinds)}")
    for key, value in {**said, "rope_theta": base}.items():
        numbers = value if isinstance(value, list) and key in ("short_factor", "long_factor") else [value]
        if key in (*WORDS, "rope_theta") and not all(isinstance(n, int | float) for n in numbers):
            raise UserError(f"{key}={value!r} must be a number, or of longrope's two factors a list of numbers")
    return kind, float(base), said


def _completed(said: dict[str, Any], config: Json) -> dict[str, Any]:
    """Add the original context, else the longest text, and the factor, else how much longer that is."""
    longest = config.get(LONGEST)
    original = said.get(ORIGINAL) or longest
    factor = said.get("factor") or (longest / original if longest and original and longest != original else None)
    return {**said, ORIGINAL: original, "factor": factor}


def _check(kind: str, said: Json, able: tuple[str, ...]) -> None:
    missing = [key for key in KINDS[kind] if said.get(key) is None]
    if missing:
        raise UserError(f"rope_type={kind!r} needs {', '.join(missing)} beside rope_theta, not only {dict(said)}")
    extra = {key: value for key, value in said.items() if key not in able}
    if extra:
        words = f"{choices(able)} beside rope_theta, and no more" if able else "rope_theta, and no more"
        raise UserError(f"rope_type={kind!r} has {words}; {extra} is not understood")
