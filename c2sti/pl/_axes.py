"""Axes to draw into, how a computed section is told from a measured one, and the file that a figure goes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from c2sti import _check
from c2sti.pl._record import Record

INSERTED_COLOUR, MEASURED_COLOUR = "#b5402a", "#333333"
MOST_COLUMNS = 8  # of a figure
BAR = 0.9  # inches beside the panels for a colour bar
HALO = [Stroke(linewidth=2.0, foreground="white"), Normal()]  # around what is written over an image


def panels(names: Sequence[str], axs: Sequence[Axes] | None, *, size: tuple[float, float]) -> list[Axes]:
    """One axes a section, side by side and in several rows where there are many; or those given.

    Raises
    ------
    ValueError, TypeError
        Another number of axes was given, or no axes.
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
    given = _check.several(axs, "axs", "axes, one a section")
    if len(given) != len(names):
        raise ValueError(f"axs holds {len(given)} axes; one for each of {', '.join(names)} is needed")
    for ax in given:
        _check.a(ax, "one of axs", Axes, "a matplotlib Axes")
    return given


def one_panel(section: str, ax: Axes | None, *, size: tuple[float, float]) -> Axes:
    """The axes given, or new ones for a section."""
    if ax is not None:
        _check.a(ax, "ax", Axes, "a matplotlib Axes")
    return panels([section], None if ax is None else [ax], size=size)[0]


def check_look(save: str | Path | None, cmap: str | Colormap | None = None, **ends: float | None) -> None:
    """Refuse a file that cannot be written, colours that do not exist, and ends of a scale that are none.

    Parameters
    ----------
    save, cmap
        Of a plot; None for none, and for matplotlib's own.
    ends
        `vmin` and `vmax` of it.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        Before anything is drawn; the message names the argument.
    """
    if isinstance(cmap, str) and cmap not in colormaps:
        raise ValueError(f"cmap = {cmap!r} is no colour map of matplotlib, such as 'viridis' or 'magma'")
    _check.a(cmap, "cmap", (str, Colormap, type(None)), "the name of a colour map")
    known = {name: _check.number(end, name) for name, end in ends.items() if end is not None}
    if len(known) == 2 and not known["vmin"] < known["vmax"]:
        raise ValueError(f"vmin = {known['vmin']:g} must lie below vmax = {known['vmax']:g}")
    if save is None:
        return
    path = check_kind(save, "save")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save = {str(path)!r}: there is no folder {path.parent}; make it first")


def check_kind(file: str | Path, name: str) -> Path:
    """Refuse a file of a kind that matplotlib cannot draw.

    Raises
    ------
    TypeError, ValueError
        It is no path, or ends otherwise.
    """
    path, kinds = _check.path(file, name), FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{name} = {str(path)!r} ends in none of what can be drawn: {', '.join(sorted(kinds))}")
    return path


def figure_of(ax: Axes) -> Figure:
    """The figure that holds the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes that were drawn into belong to one
    return figure


def mark(ax: Axes, record: Record, section: str) -> None:
    """Title and frame that say whether a section was measured or computed; no ticks."""
    inserted = section in record.inserted
    colour = INSERTED_COLOUR if inserted else MEASURED_COLOUR
    words = ["interpolated" if inserted else "measured", record.captions[section]]
    ax.set_title(f"{record.titles[section]}\n{', '.join(filter(None, words))}", color=colour, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, edgecolor=colour, linestyle="--" if inserted else "-", linewidth=1.2)


def save_figure(ax: Axes, path: str | Path | None) -> None:
    """Write the figure of the axes to a file, if one is named."""
    if path is not None:
        figure_of(ax).savefig(path, bbox_inches="tight", dpi=150)
