"""Genes, labels and H&E through the sections of a result, and the standard deviation of genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.pl._axes import HALO, INK, PANEL, SMALL_FONT, THIN_HALO, Result, Row, panels
from c2sti.pl._look import Panels, shares
from c2sti.pl._shown import Shown, several, shown

WIDE = 3.3  # inches of a panel with lines and numbers in it
FEWEST_BINS = 4  # through which contours are drawn
LONGEST = 1.8  # pitches: longer edges of a triangle would join tissue across a gap


@shares(Panels)
def sections(
    adata: AnnData,
    color: str | Sequence[str | None] | None,
    *,
    sections: str | Sequence[str] | None = None,
    key: str = "c2sti",
    **look: Unpack[Panels],
) -> list[Axes]:
    """Genes, labels or the H&E through a series: measured and interpolated sections in order of z, on one scale each.

    Each section is drawn inside its own outline by squidpy's ``spatial_scatter``; interpolated ones are marked.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate`, or a stack of :func:`c2sti.tl.to_slices` or
        :func:`c2sti.tl.interpolate_series`; or some of its rows. Sections of which none is left are not drawn.
    color
        A gene, by its name or by what a text column of `var` calls it; a column of `obs`, such as a label that was
        carried by ``obs_keys=`` or ``"confidence"``; None for the H&E; or a list of these, which begin a row each.
    %(shared)s

    Returns
    -------
    The axes, `color` by `color` and in order of z; their coordinates are those of ``obsm["spatial"]``. A section
    without H&E, or without a value in the column, has none.

    Raises
    ------
    KeyError
        `adata` is not such a result, or has no such gene, column or image.
    ValueError
        `ax` does not hold one axes a panel.

    Notes
    -----
    The scale reaches by default from the first percentile of what is drawn to the larger of the 99th percentiles of
    interpolated sections and the 95th of measured ones, so that single noisy spots do not darken everything else.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, n_slices=2, obs_keys="domain", show_progress_bar=False)
    >>> axes = c2sti.pl.sections(out, [out.var_names[0], "domain", None])
    """
    result = Result(adata, key)
    wanted = several(color)
    there = result.drawn(sections)
    things = [_images(result, there) if one is None else shown(result, there, one) for one in wanted]
    rows = panels([len(thing.values) for thing in things], look, shape=result.shape, width=PANEL)
    for thing, row in zip(things, rows, strict=True):
        if thing.unit:
            _draw_values(result, thing, row, look)
        else:
            _draw_images(result, thing, row.axes)
        row.axes[0].set_ylabel(thing.name, fontsize=9, fontweight="bold")
    return [ax for row in rows for ax in row.axes]


def _draw_values(result: Result, thing: Shown, row: Row, look: Panels) -> None:
    scale, cmap = thing.scale(result, look, "viridis")
    for (name, values), ax in zip(thing.values.items(), row.axes, strict=True):
        result.draw_bins(ax, name, values, cmap=cmap, vmin=scale.vmin, vmax=scale.vmax)
        result.mark(ax, name)
        result.fit(ax)
    thing.explain(row, scale, cmap)


def _images(result: Result, sections: Sequence[str]) -> Shown:
    """The sections that have an image."""
    found = {name: np.empty(0) for name in sections if result.image(name) is not None}
    if not found:
        raise KeyError(
            f"there is no H&E of {', '.join(sections)} in uns['spatial'], so color=None draws nothing; "
            "name a gene or a column of obs"
        )
    return Shown("H&E", found)


def _draw_images(result: Result, thing: Shown, axes: Sequence[Axes]) -> None:
    virtual = set(result.adata.uns.get(_keys.VIRTUAL_HISTOLOGY, result.inserted))
    for name, ax in zip(thing.values, axes, strict=True):
        draw_image(ax, result, name)
        result.mark(ax, name)
        if name in virtual:
            ax.title.set_text(ax.get_title().replace("interpolated", "virtual"))
        result.fit(ax)


def draw_image(ax: Axes, result: Result, section: str, alpha: float = 1.0) -> None:
    """The H&E of a section in the coordinates of the result."""
    image = result.image(section)
    assert image is not None
    pixels, scale = image
    height, width = pixels.shape[:2]
    ax.imshow(pixels, extent=(0, width / scale, height / scale, 0), alpha=alpha)


@shares(Panels)
def spread(
    adata: AnnData,
    gene: str | Sequence[str],
    *,
    sections: str | Sequence[str] | None = None,
    key: str = "c2sti",
    contours: int = 3,
    **look: Unpack[Panels],
) -> list[Axes]:
    """Uncertainty of genes over interpolated sections: the standard deviation as colour, the value as contour lines.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate` with ``std=True``, or a stack of :func:`c2sti.tl.to_slices` of it.
    gene
        Names of one or several genes, or what a text column of `var` calls them; each begins a row.
    sections
        One or several interpolated sections; the middle one by default.
    contours
        Lines of equal interpolated value, labelled with it; 0 for none.
    %(shared)s

    Returns
    -------
    The axes, gene by gene; their coordinates are those of ``obsm["spatial"]``.

    Raises
    ------
    KeyError
        `adata` is not such a result, has no such gene or section, or was made without ``std=True``.
    ValueError
        The section was measured.

    Notes
    -----
    The scale reaches by default from the first to the 99th percentile of a gene's standard deviations in the sections
    drawn, and need not begin at 0: read the numbers beside it. Set `vmin` and `vmax` to compare genes.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, std=True, show_progress_bar=False)
    >>> axes = c2sti.pl.spread(out, out.var_names[0])
    """
    result = Result(adata, key)
    genes = [_validators.text(one, "gene") for one in _validators.names(gene, "gene")]
    if not genes:
        raise ValueError("gene= is empty; name one or more")
    there = result.drawn(result.interpolated(sections, "standard deviation"))
    contours = _validators.whole(contours, "contours", least=0)
    things = [_std(result, there, one) for one in genes]
    rows = panels([len(there)] * len(things), look, shape=result.shape, width=WIDE)
    for thing, row in zip(things, rows, strict=True):
        scale, cmap = thing.scale(result, look, "plasma")
        gene_name = _result.gene_of(adata, thing.name)
        for (name, values), ax in zip(thing.values.items(), row.axes, strict=True):
            result.draw_bins(ax, name, values, cmap=cmap, vmin=scale.vmin, vmax=scale.vmax)
            if contours:
                _draw_contours(ax, result, name, result.values(gene_name, result.layer(name)), contours)
            result.mark(ax, name)
            result.fit(ax)
        row.axes[0].set_ylabel(thing.name, fontsize=9, fontweight="bold")
        thing.explain(row, scale, cmap)
    return [ax for row in rows for ax in row.axes]


def _std(result: Result, sections: Sequence[str], gene: str) -> Shown:
    """Standard deviations of a gene."""
    name_of_gene = _result.gene_of(result.adata, gene)
    layers = {name: result.layer(name, _keys.STD) for name in sections}
    for layer in layers.values():
        if layer not in result.adata.layers:
            raise KeyError(f"there is no layer {layer!r}; c2sti.tl.interpolate(…, std=True) writes it")
    values = {name: result.values(name_of_gene, layer) for name, layer in layers.items()}
    return Shown(gene, values, "standard deviation")


def _draw_contours(ax: Axes, result: Result, section: str, values: FloatArray, n: int) -> None:
    """Lines of equal value between bins that lie side by side."""
    inside = result.rows(section)
    xy, drawn = result.xy[inside], values[inside]
    if len(xy) < FEWEST_BINS or np.ptp(drawn) == 0 or (np.ptp(xy, axis=0) == 0).any():
        return
    mesh = Triangulation(*xy.T)
    corners = xy[mesh.triangles]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    mesh.set_mask(longest > LONGEST * result.pitch)
    levels = np.unique(np.quantile(drawn, np.linspace(0, 1, n + 2)[1:-1]))
    lines = ax.tricontour(mesh, drawn, levels=levels, colors=INK, linewidths=0.7)
    lines.set_path_effects(THIN_HALO)
    # A number for each level, in the middle of its longest line: short lines are many.
    pieces = [[np.asarray(line) for line in path.to_polygons(closed_only=False)] for path in lines.get_paths()]
    middles = [tuple(max(level, key=len)[max(map(len, level)) // 2].tolist()) for level in pieces if level]
    for text in ax.clabel(lines, fmt="%.3g", fontsize=SMALL_FONT, manual=middles):
        text.set_path_effects(HALO)
