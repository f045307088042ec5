"""Plots: one gene through depth, and how well the hidden sections were made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from c2sti import _keys

__all__ = ["evaluation", "sections"]

INSERTED_COLOUR, MEASURED_COLOUR = "#b5402a", "#333333"
PANEL = 2.6  # inches


def sections(
    adata: AnnData,
    gene: str,
    *,
    key: str = "c2sti",
    cmap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    axs: Sequence[Axes] | None = None,
    save: str | Path | None = None,
) -> list[Axes]:
    """One gene through depth: slice_a, the inserted sections, slice_b, on one colour scale.

    Inserted sections are framed and labelled as such. Each is drawn inside its own outline by squidpy's
    ``spatial_scatter``.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate`.
    gene
        Name of the gene.
    key
        The `key_added` that the result was made with.
    cmap
        Colour map.
    vmin, vmax
        Ends of the colour scale, log1p expression. By default 0 and the 99th percentile over the inserted sections and
        the 95th over the measured ones, whichever is larger: single noisy spots would otherwise darken everything else.
    axs
        One axes a section to draw into, in order of depth.
    save
        File to write the figure to.

    Returns
    -------
    The axes, in order of depth.

    Raises
    ------
    KeyError
        `adata` is not such a result, or has no such gene.
    ValueError
        `axs` does not hold one axes a section.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, n_slices=2, show_progress_bar=False)
    >>> axes = c2sti.pl.sections(out, out.var_names[0])
    """
    import squidpy as sq  # noqa: PLC0415 - four seconds that only a plot should cost

    if key not in adata.uns or "sections" not in adata.uns[key]:
        raise KeyError(f"uns[{key!r}] does not hold the result of c2sti.tl.interpolate; uns has {sorted(adata.uns)}")
    if gene not in adata.var_names:
        raise KeyError(f"there is no gene {gene!r}; var_names has {adata.n_vars}, such as {adata.var_names[0]!r}")
    record = adata.uns[key]
    names, inserted = [str(n) for n in record["sections"]], {str(n) for n in record["inserted"]}
    panels = _panels(names, axs)
    one = adata[:, [gene]].copy()
    one.varp.clear()
    shown = {name: one[one.obs[_keys.tissue(name)].to_numpy()] for name in names}
    high = vmax if vmax is not None else _top({n: np.asarray(s.layers[n]) for n, s in shown.items()}, inserted)
    for name, ax, where in zip(names, panels, _captions(record, names), strict=True):
        sq.pl.spatial_scatter(
            shown[name],
            color=gene,
            layer=name,
            shape="square",
            img=False,
            ax=ax,
            cmap=cmap,
            vmin=0 if vmin is None else vmin,
            vmax=high,
            colorbar=name == names[-1],
            title="",
            axis_label=["", ""],
        )
        _mark(ax, name, where, name in inserted)
    _same_extent(panels)
    _figure(panels[0]).suptitle(gene)
    _save(panels[0], save)
    return panels


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes that were drawn into belong to one
    return figure


def _save(ax: Axes, path: str | Path | None) -> None:
    if path is not None:
        _figure(ax).savefig(path, bbox_inches="tight", dpi=150)


def _panels(names: Sequence[str], axs: Sequence[Axes] | None) -> list[Axes]:
    if axs is None:
        _, grid = plt.subplots(
            1, len(names), figsize=(PANEL * len(names), PANEL * 1.25), squeeze=False, layout="constrained"
        )
        return list(grid[0])
    if len(axs) != len(names):
        raise ValueError(f"axs holds {len(axs)} axes; one for each of {', '.join(names)} is needed")
    return list(axs)


def _top(values: dict[str, np.ndarray], inserted: set[str]) -> float:
    tops = [np.percentile(v, 99 if name in inserted else 95) for name, v in values.items() if v.size]
    return max(float(max(tops)), 1e-3)


def _captions(record: dict, names: Sequence[str]) -> list[str]:
    if "z" in record:
        return [f"z = {z:.0f}" for z in np.asarray(record["z"])]
    return ["" if p in (0, 1) else f"at {p:.2f}" for p in np.asarray(record["positions"])]


def _mark(ax: Axes, name: str, where: str, inserted: bool) -> None:
    colour = INSERTED_COLOUR if inserted else MEASURED_COLOUR
    kind = "inserted" if inserted else "measured"
    ax.set_title(f"{name}\n{kind}{', ' if where else ''}{where}", color=colour, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, edgecolor=colour, linestyle="--" if inserted else "-", linewidth=1.2)


def _same_extent(panels: Sequence[Axes]) -> None:
    """One frame for all, so that the eye sees the tissue move; y keeps pointing down."""
    x = np.array([ax.get_xlim() for ax in panels])
    y = np.array([ax.get_ylim() for ax in panels])
    for ax in panels:
        ax.set_xlim(x.min(), x.max())
        ax.set_ylim(y.max(), y.min())
        ax.set_aspect("equal")


def evaluation(
    table: pd.DataFrame, *, metric: str = "pcc", ax: Axes | None = None, save: str | Path | None = None
) -> Axes:
    """Every method on every hidden section, their mean, and for PCC the ceiling that count noise allows.

    Parameters
    ----------
    table
        Result of :func:`c2sti.tl.evaluate`.
    metric
        ``"pcc"``, ``"rmse"``, ``"rv"`` or ``"fraction"``.
    ax
        Axes to draw into.
    save
        File to write the figure to.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The table has no such column.

    Examples
    --------
    >>> import c2sti
    >>> series = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 200.0, 400.0])
    >>> ax = c2sti.pl.evaluation(c2sti.tl.evaluate(series, show_progress_bar=False))
    """
    if metric not in table or "method" not in table:
        raise KeyError(f"the table has no column {metric!r} or 'method'; its columns are {list(table.columns)}")
    methods = list(dict.fromkeys(table["method"]))
    if ax is None:
        _, ax = plt.subplots(figsize=(1.1 * len(methods) + 2.0, 3.4), layout="constrained")
    scores = table.pivot_table(index=["section", "position"], columns="method", values=metric)[methods]
    place = np.arange(len(methods))
    for row in scores.to_numpy():
        ax.plot(place, row, color="0.75", linewidth=0.8, marker="o", markersize=3, zorder=1)
    ax.plot(place, scores.mean(), linestyle="", marker="_", markersize=26, markeredgewidth=3, color=INSERTED_COLOUR)
    for x, mean in zip(place, scores.mean(), strict=True):
        ax.annotate(f"{mean:.3f}", (x, mean), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
    handles = [
        Line2D([], [], color="0.75", marker="o", markersize=3, label="a hidden section"),
        Line2D([], [], color=INSERTED_COLOUR, linestyle="", marker="_", markersize=14, markeredgewidth=3, label="mean"),
    ]
    if metric == "pcc" and table["ceiling"].notna().any():
        ceiling = table.drop_duplicates("section")["ceiling"].mean()
        handles.append(ax.axhline(ceiling, color=MEASURED_COLOUR, linestyle=":", label="ceiling set by count noise"))
    ax.set_xticks(place, methods)
    ax.set_xlim(-0.5, len(methods) - 0.5)
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))  # or small differences look dramatic
    ax.set_ylabel(
        {"pcc": "PCC", "rmse": "RMSE (log1p)", "rv": "RV", "fraction": "share of the ceiling"}.get(metric, metric)
    )
    ax.legend(handles=handles, fontsize=8, frameon=False, loc="best")
    ax.spines[["top", "right"]].set_visible(False)
    _save(ax, save)
    return ax
