"""Draw what ``end_to_end.py`` and ``throughput.py`` wrote: ``python benchmarks/figures.py``."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

RESULTS = Path(__file__).parent / "results"
FOLDER = Path(__file__).parents[1] / "docs" / "_static"
STYLES = {"": "default", "_dark": "dark_background"}  # of light and of dark pages


def main(results: Path = RESULTS, folder: Path = FOLDER) -> None:
    """Read both, draw both, write one picture for light pages and one for dark ones."""
    costs, floors = (
        json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["rows"]
        for name in ("end_to_end", "throughput")
    )
    for ending, style in STYLES.items():
        with plt.style.context(style):
            figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
            _costs(axes[0], costs)
            _floors(axes[1], floors)
            figure.savefig(folder / f"performance{ending}.png", dpi=120)
            plt.close(figure)


def _costs(axes: Axes, rows: list[dict]) -> None:
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        label = "scipy, linear" if model == "scipy" else model
        axes.plot([r["genes"] for r in mine], [r["cpu_s"] for r in mine], "o-", label=label)
    axes.set(xscale="log", yscale="log", xlabel="genes", ylabel="processor seconds", title="Three sections, end to end")
    axes.legend(frameon=False)


def _floors(axes: Axes, rows: list[dict]) -> None:
    names = [row["factors"] for row in rows]
    axes.barh(names, [100 * row["share_of_floor"] for row in rows], color="C0")
    for i, row in enumerate(rows):
        axes.text(
            100 * row["share_of_floor"] + 1, i, f"{100 * row['share_of_floor']:.0f} % of {row['floor']}", va="center"
        )
    axes.set(xlim=(0, 165), xlabel="% of what the machine can do", title="Writing a section out")
    axes.invert_yaxis()


if __name__ == "__main__":
    main()
