"""Climb the ladder: `python -m experiments.ladder_of_language_models [--seconds=60] [--workdirs=runs/ladder]`.

Rungs that are done are read, not trained again. TABLE.md and ladder.png go into --to, after each rung.
"""

import argparse
import importlib.util
from pathlib import Path

from experiments.ladder_of_language_models import report
from experiments.ladder_of_language_models.sweep import RUNGS, climbed


def main() -> None:
    """Climb, and report after each rung."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of CPU time, for the steps of each rung")
    parser.add_argument("--workdirs", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--rungs", default=",".join(RUNGS), help="names with commas between")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="folder of the table and the picture")
    flags = parser.parse_args()
    unknown = [name for name in flags.rungs.split(",") if name not in RUNGS]
    if unknown:
        parser.error(f"no rung is named {unknown[0]!r}; there are: {', '.join(RUNGS)}")
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("the picture needs matplotlib: pip install -r requirements-plan.txt")
    rows = []
    for name in flags.rungs.split(","):
        rows = report.ordered([*rows, climbed(name, flags.seconds, flags.workdirs)])
        (row,) = (row for row in rows if row["name"] == name)
        print(f"{name}: {row['bits_per_byte']:.3f} bits per byte, {row['kind']}", flush=True)
        (flags.to / "TABLE.md").write_text(report.table(rows, flags.seconds))
        report.draw(rows, flags.to / "ladder.png")


if __name__ == "__main__":
    main()
