"""Standard deviations of a gene over an interpolated section."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation

from c2sti import _check, _keys, _result
from c2sti._types import FloatArray
from c2sti.pl._axes import HALO, check_look, figure_of, mark, one_panel, save_figure
from c2sti.pl._bins import draw_bins, fit, panel_size
from c2sti.pl._record import Record, check_drawn, is_stack, record_of, rows_of, values_of

PANEL = 4.6  # inches
INK = "#12203a"
FEWEST_BINS = 4  # through which contours are drawn
LONGEST = 1.8  # pitches: longer edges of a triangle would join tissue across a gap


def spread(
    adata: AnnData,
    gene: str,
    *,
    section: str | None = None,
    key: str = "c2sti",
    contours: int = 4,
    cmap: str = "magma",
    vmin: float | None = None,
    vmax: float | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Uncertainty of a gene over an interpolated section: the standard deviation as colour, the value as contour lines.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate` with ``std=True``, or a stack of :func:`c2sti.tl.to_slices` of it.
    gene
        Name of the gene, or what a text column of `var` calls it; the figure has the name given.
    section
        An interpolated section; the middle one by default.
    key
        The `key_added` that the result was made with.
    contours
        Lines of equal interpolated value, labelled with it; 0 for none.
    cmap
        Colour map of the standard deviation.
    vmin, vmax
        Ends of the colour scale; by default 0 and the 99th percentile over the section. Set both to compare sections.
    ax
        Axes to draw into.
    save
        File to write the figure to.

    Returns
    -------
    The axes; their coordinates are those of ``obsm["spatial"]``.

    Raises
    ------
    KeyError
        `adata` is not such a result, has no such gene or section, or was made without ``std=True``.
    ValueError
        The section was measured.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, std=True, show_progress_bar=False)
    >>> ax = c2sti.pl.spread(out, out.var_names[0])
    """
    record = record_of(adata, key)
    section = record.middle if section is None else record.check(section)
    contours = _check.whole(contours, "contours", least=0)
    check_look(save, cmap, vmin=vmin, vmax=vmax)
    name_of_gene = _result.gene_of(adata, gene)
    check_drawn(adata, record, [section])
    value, std = _values(adata, record, name_of_gene, section)
    ax = one_panel(section, ax, size=panel_size(adata, record, PANEL))
    shown = std[rows_of(adata, section)]
    top = vmax if vmax is not None else max(float(np.percentile(shown, 99)), 1e-3) if shown.size else 1.0
    bins = draw_bins(ax, adata, record, section, std, cmap=cmap, vmin=0 if vmin is None else vmin, vmax=top)
    if contours:
        _draw_contours(ax, adata, record, section, value, contours)
    mark(ax, record, section)
    fit(ax, adata, record)
    ax.set_ylabel(gene, fontsize=11, fontweight="bold")
    label = "standard deviation; lines: the interpolated value" if contours else "standard deviation"
    figure_of(ax).colorbar(bins, ax=ax, shrink=0.8, pad=0.02, label=label)
    save_figure(ax, save)
    return ax


def _values(adata: AnnData, record: Record, gene: str, section: str) -> tuple[FloatArray, FloatArray]:
    """(M,) interpolated values of the gene, and their standard deviations."""
    if section not in record.inserted:
        others = ", ".join(name for name in record.names if name in record.inserted)
        raise ValueError(f"{section} was measured and has no spread; the interpolated sections are {others}")
    value, std = (None, _keys.STD) if is_stack(adata) else (section, _keys.doubt(section, _keys.STD))
    if std not in adata.layers:
        raise KeyError(f"there is no layer {std!r}; c2sti.tl.interpolate(…, std=True) writes it")
    return values_of(adata, gene, value), values_of(adata, gene, std)


def _draw_contours(ax: Axes, adata: AnnData, record: Record, section: str, values: FloatArray, n: int) -> None:
    """Lines of equal value between bins that lie side by side."""
    inside = rows_of(adata, section)
    xy, shown = np.asarray(adata.obsm[_keys.SPATIAL])[inside], values[inside]
    if len(xy) < FEWEST_BINS or np.ptp(shown) == 0 or (np.ptp(xy, axis=0) == 0).any():
        return
    mesh = Triangulation(*xy.T)
    corners = xy[mesh.triangles]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    mesh.set_mask(longest > LONGEST * record.pitch)
    levels = np.unique(np.quantile(shown, np.linspace(0, 1, n + 2)[1:-1]))
    lines = ax.tricontour(mesh, shown, levels=levels, colors=INK, linewidths=0.9)
    lines.set_path_effects(HALO)
    for text in ax.clabel(lines, fmt="%.2g", fontsize=7):
        text.set_path_effects(HALO)
