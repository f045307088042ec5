"""A table as a picture: how far every method is from the best one that needs no training, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from c2sti._aside import aside
from c2sti._types import FloatArray
from c2sti.benchmark._methods import NAIVE, OURS, ROWS
from c2sti.benchmark._summary import by_case, interval, reference_of
from c2sti.benchmark._tables import LABELS, short, title
from c2sti.pl._axes import INSERTED_COLOUR, MEASURED_COLOUR

NAIVE_COLOUR = "0.55"
FAR = ("copy", "linear")  # so far behind on most tissue that an axis with them shows nothing of the others
MARGIN = 0.12  # of the axis beyond the outermost case


def draw(rows: pd.DataFrame, methods: Sequence[str], path: Path) -> None:
    """Draw PCC less that of the reference: a panel for each series (down) and number of hidden sections (across).

    Parameters
    ----------
    rows
        As :func:`c2sti.benchmark._scores.collect` gives them.
    methods
        Rows, in their order.
    path
        Picture to write, whole or not at all.
    """
    cases = by_case(rows)
    series, numbers = (list(dict.fromkeys(cases[key])) for key in ("series", "n_slices"))
    # Side by side where one number only is hidden, else series by series.
    lines, columns = (1, len(series)) if len(numbers) == 1 else (len(series), len(numbers))
    size = (0.6 + 4.2 * columns, 0.8 + lines * (0.8 + 0.23 * len(methods)))
    figure = Figure(figsize=size, layout="constrained")
    axs = figure.subplots(lines, columns, squeeze=False)
    for (name, n_slices), ax in zip(product(series, numbers), axs.flat, strict=True):
        group = cases[(cases["series"] == name) & (cases["n_slices"] == n_slices)]
        if group.empty:  # too short a series
            ax.remove()
            continue
        pcc = group.pivot(index="case", columns="method", values="pcc")
        _panel(ax, pcc[[m for m in methods if m in pcc]], title(str(name), int(n_slices)))
    figure.legend(handles=_key(), loc="outside lower center", ncols=4 if columns > 1 else 2, fontsize=8, frameon=False)
    with aside(path) as part:
        figure.savefig(part, dpi=150)


def _panel(ax: Axes, pcc: pd.DataFrame, name: str) -> None:
    """One panel of (cases, methods)."""
    reference = reference_of(pcc)
    gains = pcc.sub(pcc[reference], axis=0) if reference else pcc
    low, high = _limits(gains, reference)
    edge = low + 0.02 * (high - low)
    ax.axvline(0, color=NAIVE_COLOUR, linewidth=0.8, zorder=0)
    for y, method in enumerate(pcc):
        _row(ax, y, gains[method].to_numpy(), colour(str(method)), edge, reference=method == reference)
    ax.set_xlim(low, high)
    ax.set_yticks(range(len(pcc.columns)), [f"{LABELS[str(m)]}  {short(pcc[m].mean(), 4)}" for m in pcc], fontsize=8)
    ax.set_ylim(len(pcc.columns) - 0.4, -0.6)
    ax.tick_params(axis="x", labelsize=8)
    ax.locator_params(axis="x", nbins=5)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"PCC − PCC of {reference}" if reference else "PCC", fontsize=8)
    ax.set_title(f"{name} ({len(pcc)})", fontsize=9, loc="left")


def _row(ax: Axes, y: int, gains: FloatArray, shade: str, edge: float, *, reference: bool) -> None:
    mean = gains.mean()
    if mean < edge:  # off the axis: an arrow says on which side
        ax.plot(edge, y, "<", color=shade, markersize=6)
        return
    ends = interval(gains)
    if not np.isnan(ends[0]) and not reference:
        ax.plot(ends, [y, y], color=shade, linewidth=1.8, solid_capstyle="butt")
    if not reference:
        # Cases below the interval, not on it: a dot on a line of its own colour is not seen.
        ax.plot(gains, np.full(len(gains), y + 0.28), "o", color=shade, markersize=2.5, alpha=0.6)
    ax.plot(mean, y, "D", color=shade, markersize=5)


def _limits(gains: pd.DataFrame, reference: str) -> tuple[float, float]:
    near = gains[[m for m in gains if m not in FAR]] if set(gains) - {*FAR, reference} else gains
    low, high = min(0.0, float(near.min().min())), max(0.0, float(near.max().max()))
    space = MARGIN * (high - low) or 0.01
    return low - space, high + space


def colour(method: str) -> str:
    """Of a method: grey where nothing is trained, red for C2-STi whole or in parts, else dark."""
    if method in NAIVE:
        return NAIVE_COLOUR
    ours = ROWS[method].model == OURS or method == "no_displacement"
    return INSERTED_COLOUR if ours else MEASURED_COLOUR


def _key() -> list[Line2D]:
    return [
        Line2D([], [], color="0.4", marker="o", markersize=2.5, linestyle="", alpha=0.6, label="a case"),
        Line2D([], [], color="0.4", marker="D", markersize=5, linewidth=1.8, label="mean, 95 % interval over cases"),
        Line2D([], [], color="0.4", marker="<", markersize=6, linestyle="", label="mean off the axis"),
        Line2D([], [], linestyle="", label="beside the names: mean PCC"),
    ]
