"""Genes, labels and H&E through the sections of a result, and the standard deviation of genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.pl._look import HALO, INK, SMALL_FONT, THIN_HALO, Panels, Row, panels, shares
from c2sti.pl._shown import Result, Shown, draw_image, gene_values, several_colors, several_genes, shown

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
    wanted = several_colors(color)
    there = result.drawn(sections)
    things = [_images(result, there) if one is None else shown(result, there, one) for one in wanted]
    rows = panels([len(thing.values) for thing in things], look, shape=result.shape)
    for thing, row in zip(things, rows, strict=True):
        if thing.unit:
            _draw_values(result, thing, row, look, "viridis")
        else:
            _draw_images(result, thing, row)
    return [ax for row in rows for ax in row.axes]


def _draw_values(
    result: Result,
    thing: Shown,
    row: Row,
    look: Panels,
    default: str,
    lines: Mapping[str, FloatArray] | None = None,
    n_lines: int = 0,
) -> None:
    """A row of sections on one scale, with `n_lines` contour lines of other values, section by section, over them."""
    scale, cmap = thing.scale(result, look, default)
    for (name, values), ax in zip(thing.values.items(), row.axes, strict=True):
        result.draw_bins(ax, name, values, scale, cmap=cmap)
        if lines is not None and n_lines:
            _draw_contours(ax, result, name, lines[name], n_lines)
        result.mark(ax, name)
        result.fit(ax)
    row.axes[0].set_ylabel(thing.name, fontsize=9, fontweight="bold")
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


def _draw_images(result: Result, thing: Shown, row: Row) -> None:
    virtual = set(result.adata.uns.get(_keys.VIRTUAL_HISTOLOGY, result.inserted))
    for name, ax in zip(thing.values, row.axes, strict=True):
        if (image := result.image(name)) is not None:
            draw_image(ax, image)
        result.mark(ax, name)
        if name in virtual:
            ax.title.set_text(ax.get_title().replace("interpolated", "virtual"))
        result.fit(ax)
    row.axes[0].set_ylabel(thing.name, fontsize=9, fontweight="bold")


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
    genes = several_genes(gene)
    there = result.drawn(result.interpolated(sections, "standard deviation"))
    contours = _validators.whole(contours, "contours", least=0)
    things, values = [], []
    for one in genes:
        name_of_gene = _result.gene_of(adata, one)
        layers = {name: result.layer(name, _keys.STD) for name in there}
        for layer in layers.values():
            if layer not in adata.layers:
                raise KeyError(f"there is no layer {layer!r}; c2sti.tl.interpolate(…, std=True) writes it")
        std = {name: gene_values(adata, name_of_gene, layer) for name, layer in layers.items()}
        things.append(Shown(one, std, "standard deviation"))
        values.append({name: gene_values(adata, name_of_gene, result.layer(name)) for name in there})
    rows = panels([len(there)] * len(things), look, shape=result.shape, width=WIDE)
    for thing, lines, row in zip(things, values, rows, strict=True):
        _draw_values(result, thing, row, look, "plasma", lines, contours)
    return [ax for row in rows for ax in row.axes]


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
