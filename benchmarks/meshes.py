"""By how much each plan changes each family's loss and gradient: tiny models on eight simulated devices and on one.

    python -m benchmarks.meshes [--out=benchmarks/MESHES.md] [--families=llama,mixtral]

The plans and the measure are those of the laws (tests/laws/plans.py). The file is written anew after each family.
"""

import argparse
import sys
import time
from pathlib import Path

import tests.conftest  # noqa: F401  # eight simulated devices, before jax looks for any
from tests.laws.kinds import KINDS
from tests.laws.plans import PLANS, TOLERANCE, alone, differences, layout, on

HEAD = f"""# Every plan, every family

The largest difference, of the loss and of all leaves of the gradient, between a plan of eight devices and one device,
over the largest value of the leaf (of those below a hundredth of the whole gradient, over that). Tiny models in
float32, {{families}} families on {len(PLANS)} plans; the laws allow {TOLERANCE:.0e}. Worst here: {{worst:.1e}}.

Written by `python -m benchmarks.meshes --out=benchmarks/MESHES.md`; `make test-mesh` asserts the same.
"""


def measured(family: str) -> dict[str, float]:
    """Return {plan: largest relative difference} of a family."""
    model, params, expected = alone(family)
    found = {}
    for text in PLANS:
        began = time.perf_counter()
        found[text] = max(differences(on(layout(text), model, params)[:2], expected).values())
        print(f"{family}, {text}: {found[text]:.1e} ({time.perf_counter() - began:.1f} s)", file=sys.stderr, flush=True)
    return found


def document(rows: dict[str, dict[str, float]]) -> str:
    """Return the text of the document, one column a family."""
    lines = ["| plan | " + " | ".join(f"`{f}`" for f in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    lines += [f"| {text} | " + " | ".join(f"{found[text]:.0e}" for found in rows.values()) + " |" for text in PLANS]
    worst = max(max(found.values()) for found in rows.values())
    return HEAD.format(families=len(rows), worst=worst) + "\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--families", default=",".join(KINDS["deep"]))
    args = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for family in args.families.split(","):
        rows[family] = measured(family)
        if args.out:
            args.out.write_text(document(rows))
    if not args.out:
        print(document(rows))


if __name__ == "__main__":
    main()
