"""One gene through the sections of a result, and its standard deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.pl._axes import (
    HALO,
    Record,
    check_drawn,
    check_look,
    draw_bins,
    figure_of,
    fit,
    is_stack,
    mark,
    one_panel,
    panel_size,
    panels,
    record_of,
    rows_of,
    save_figure,
    values_of,
)

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
    """One gene through a series: the measured and the interpolated sections in order of z, on one colour scale.

    Interpolated sections are framed and labelled as such. Each is drawn inside its own outline by squidpy's
    ``spatial_scatter``.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate`, or a stack of :func:`c2sti.tl.to_slices` or
        :func:`c2sti.tl.interpolate_series`.
    gene
        Name of the gene, or what a text column of `var` calls it; the figure has the name given.
    key
        The `key_added` that the result was made with.
    cmap
        Colour map.
    vmin, vmax
        Ends of the colour scale, log1p expression. By default 0 and the 99th percentile over the interpolated sections
        and the 95th over the measured ones, whichever is larger: single noisy spots would otherwise darken everything
        else.
    axs
        One axes a section to draw into, in order of z. By default eight in a row.
    save
        File to write the figure to.

    Returns
    -------
    The axes, in order of z; their coordinates are those of ``obsm["spatial"]``.

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
    record = record_of(adata, key)
    check_look(save, cmap, vmin=vmin, vmax=vmax)
    name_of_gene = _result.gene_of(adata, gene)
    check_drawn(adata, record, record.names)
    values = _values(adata, record, name_of_gene)
    axes = panels(record.names, axs, size=panel_size(adata, record, PANEL))
    low = 0 if vmin is None else vmin
    high = vmax if vmax is not None else _top(adata, record, values)
    for name, ax in zip(record.names, axes, strict=True):
        bins = draw_bins(ax, adata, record, name, values[name], cmap=cmap, vmin=low, vmax=high)
        mark(ax, record, name)
        fit(ax, adata, record)
    axes[0].set_ylabel(gene, fontsize=11, fontweight="bold")
    kind = str(record.content.get("expression", "")).partition(" ")[0]
    figure_of(axes[0]).colorbar(bins, ax=axes, shrink=0.8, pad=0.01, label=f"{kind} expression")
    save_figure(axes[0], save)
    return axes


def _values(adata: AnnData, record: Record, gene: str) -> dict[str, FloatArray]:
    """(M,) expression of the gene in every section."""
    if is_stack(adata):
        return dict.fromkeys(record.names, values_of(adata, gene))
    return {name: values_of(adata, gene, name) for name in record.names}


def _top(adata: AnnData, record: Record, values: Mapping[str, FloatArray]) -> float:
    shown = {name: v[rows_of(adata, name)] for name, v in values.items()}
    tops = [np.percentile(v, 99 if name in record.inserted else 95) for name, v in shown.items() if v.size]
    return max(float(max(tops)), 1e-3)


LARGE_PANEL = 4.6  # inches
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
    contours = _validators.whole(contours, "contours", least=0)
    check_look(save, cmap, vmin=vmin, vmax=vmax)
    name_of_gene = _result.gene_of(adata, gene)
    check_drawn(adata, record, [section])
    value, std = _value_and_std(adata, record, name_of_gene, section)
    ax = one_panel(section, ax, size=panel_size(adata, record, LARGE_PANEL))
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


def _value_and_std(adata: AnnData, record: Record, gene: str, section: str) -> tuple[FloatArray, FloatArray]:
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
