"""Axes to draw into, how a computed section is told from a measured one, and the file that a figure goes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from c2sti.pl._record import Record

INSERTED_COLOUR, MEASURED_COLOUR = "#b5402a", "#333333"
MOST_COLUMNS = 8  # of a figure
BAR = 0.9  # inches beside the panels for a colour bar
HALO = [Stroke(linewidth=2.0, foreground="white"), Normal()]  # around what is written over a picture


def panels(names: Sequence[str], axs: Sequence[Axes] | None, *, size: tuple[float, float]) -> list[Axes]:
    """One axes a section, side by side and in several rows where there are many; or those given.

    Raises
    ------
    ValueError
        Another number of axes was given.
    """
    if axs is None:
        n_rows = -(-len(names) // MOST_COLUMNS)
        n_columns = -(-len(names) // n_rows)
        width, height = size
        _, grid = plt.subplots(
            n_rows,
            n_columns,
            figsize=(width * n_columns + BAR, height * n_rows),
            squeeze=False,
            layout="constrained",
        )
        for unused in grid.flat[len(names) :]:
            unused.remove()
        return list(grid.flat[: len(names)])
    if len(axs) != len(names):
        raise ValueError(f"axs holds {len(axs)} axes; one for each of {', '.join(names)} is needed")
    return list(axs)


def figure_of(ax: Axes) -> Figure:
    """The figure that holds the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes that were drawn into belong to one
    return figure


def mark(ax: Axes, record: Record, section: str) -> None:
    """Title and frame that say whether a section was measured or computed; no ticks."""
    inserted = section in record.inserted
    colour = INSERTED_COLOUR if inserted else MEASURED_COLOUR
    words = ["inserted" if inserted else "measured", record.captions[section]]
    ax.set_title(f"{section}\n{', '.join(filter(None, words))}", color=colour, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, edgecolor=colour, linestyle="--" if inserted else "-", linewidth=1.2)


def save_figure(ax: Axes, path: str | Path | None) -> None:
    """Write the figure of the axes to a file, if one is named."""
    if path is not None:
        figure_of(ax).savefig(path, bbox_inches="tight", dpi=150)
