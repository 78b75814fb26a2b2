"""The table, the samples and the picture of rows that `sweep` made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.ladder_of_language_models.recipe import NONE, PSEUDO

HEAD = ("model", "what the number is", "held-out bits per byte", "parameters", "tokens seen", "CPU s", "tokens/s")
APART = (PSEUDO, NONE)  # not to be compared with the others

Row = dict[str, Any]


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Return the rows from the foot of the ladder to its top, those of other kinds after them."""
    return sorted(rows, key=lambda row: (row["kind"] in APART, -row["bits_per_byte"]))


def table(rows: Sequence[Row], seconds: float) -> str:
    """Return the table and the samples, as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *map(_cells, rows)]
    samples = [f"**{row['name']}**: {' '.join(row['sample'].split())}" for row in rows if row["sample"]]
    return "\n".join([
        *("| " + " | ".join(line) + " |" for line in lines), "",
        f"Steps for {seconds:.0f} CPU seconds; `CPU s` has the compiling and judging of that process too.", "",
        "\n\n".join(samples), "",
    ])  # fmt: skip


def _cells(row: Row) -> tuple[str, ...]:
    pace = row["tokens_per_second"]
    return (
        f"`{row['name']}`", row["kind"], f"{row['bits_per_byte']:.3f} ± {row['error']:.3f}",
        f"{row['parameters']:,}", f"{row['tokens']:,}", f"{row['cpu_seconds']:.0f}",
        "" if pace is None else f"{pace:,.0f}",
    )  # fmt: skip


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a picture: a bar each, hatched where the number is not to be compared."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.24 * len(rows) + 1), layout="constrained")
    bars = axes.barh([row["name"] for row in rows], [row["bits_per_byte"] for row in rows], color="#4878a8")
    for bar, row in zip(bars, rows, strict=True):
        if row["kind"] in APART:
            bar.set(hatch="//", facecolor="white", edgecolor="#4878a8")
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="bits per held-out byte (hatched: of another kind)", xmargin=0.1)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
