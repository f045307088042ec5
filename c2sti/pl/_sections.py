"""One gene through the sections of a result, and its standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.pl._axes import HALO, INK, LARGE_PANEL, Result, check_look, figure_of, one_panel, panels, save_figure

PANEL = 2.6  # inches
FEWEST_BINS = 4  # through which contours are drawn
LONGEST = 1.8  # pitches: longer edges of a triangle would join tissue across a gap


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

    Each section is drawn inside its own outline by squidpy's ``spatial_scatter``; interpolated ones are marked.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate`, or a stack of :func:`c2sti.tl.to_slices` or
        :func:`c2sti.tl.interpolate_series`.
    gene
        Name of the gene, or what a text column of `var` calls it; the figure has the name given.
    key, cmap
        The `key_added` that the result was made with; colour map.
    vmin, vmax
        Ends of the colour scale, log1p expression. By default 0 and the larger of the 99th percentiles of interpolated
        sections and the 95th of measured ones, so that single noisy spots do not darken everything else.
    axs, save
        One axes a section to draw into, in order of z, by default eight in a row; file to write the figure to.

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
    result = Result(adata, key)
    check_look(save, cmap, vmin=vmin, vmax=vmax)
    name_of_gene = _result.gene_of(adata, gene)
    result.check_drawn(result.names)
    layers = {name: result.layer(name) for name in result.names}
    values = {layer: result.values(name_of_gene, layer) for layer in dict.fromkeys(layers.values())}
    axes = panels(result.names, axs, size=result.panel_size(PANEL))
    if vmax is None:
        shown = {name: values[layer][result.rows(name)] for name, layer in layers.items()}
        tops = [np.percentile(v, 99 if name in result.inserted else 95) for name, v in shown.items() if v.size]
        vmax = max(float(max(tops)), 1e-3)
    for name, ax in zip(result.names, axes, strict=True):
        bins = result.draw_bins(ax, name, values[layers[name]], cmap=cmap, vmin=vmin or 0, vmax=vmax)
        result.mark(ax, name)
        result.fit(ax)
    axes[0].set_ylabel(gene, fontsize=11, fontweight="bold")
    kind = str(result.record.get("expression", "")).partition(" ")[0]
    figure_of(axes[0]).colorbar(bins, ax=axes, shrink=0.8, pad=0.01, label=f"{kind} expression")
    save_figure(axes[0], save)
    return axes


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
    cmap, vmin, vmax
        Colour map of the standard deviation, and its ends; by default 0 and the 99th percentile over the section. Set
        both to compare sections.
    ax, save
        Axes to draw into; file to write the figure to.

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
    result = Result(adata, key)
    section = result.interpolated(section, "standard deviation")
    contours = _validators.whole(contours, "contours", least=0)
    check_look(save, cmap, vmin=vmin, vmax=vmax)
    name_of_gene = _result.gene_of(adata, gene)
    result.check_drawn([section])
    layer = result.layer(section, _keys.STD)
    if layer not in adata.layers:
        raise KeyError(f"there is no layer {layer!r}; c2sti.tl.interpolate(…, std=True) writes it")
    std = result.values(name_of_gene, layer)
    ax = one_panel(ax, size=result.panel_size(LARGE_PANEL))
    if vmax is None:
        shown = std[result.rows(section)]
        vmax = max(float(np.percentile(shown, 99)), 1e-3) if shown.size else 1.0
    bins = result.draw_bins(ax, section, std, cmap=cmap, vmin=vmin or 0, vmax=vmax)
    if contours:
        _draw_contours(ax, result, section, result.values(name_of_gene, result.layer(section)), contours)
    result.mark(ax, section)
    result.fit(ax)
    ax.set_ylabel(gene, fontsize=11, fontweight="bold")
    label = "standard deviation; lines: the interpolated value" if contours else "standard deviation"
    figure_of(ax).colorbar(bins, ax=ax, shrink=0.8, pad=0.02, label=label)
    save_figure(ax, save)
    return ax


def _draw_contours(ax: Axes, result: Result, section: str, values: FloatArray, n: int) -> None:
    """Lines of equal value between bins that lie side by side."""
    inside = result.rows(section)
    xy, shown = result.xy[inside], values[inside]
    if len(xy) < FEWEST_BINS or np.ptp(shown) == 0 or (np.ptp(xy, axis=0) == 0).any():
        return
    mesh = Triangulation(*xy.T)
    corners = xy[mesh.triangles]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    mesh.set_mask(longest > LONGEST * result.pitch)
    levels = np.unique(np.quantile(shown, np.linspace(0, 1, n + 2)[1:-1]))
    lines = ax.tricontour(mesh, shown, levels=levels, colors=INK, linewidths=0.9)
    lines.set_path_effects(HALO)
    for text in ax.clabel(lines, fmt="%.2g", fontsize=7):
        text.set_path_effects(HALO)
