"""One gene through a series of sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from c2sti import _result
from c2sti._types import FloatArray
from c2sti.pl._axes import check_look, figure_of, mark, panels, save_figure
from c2sti.pl._bins import draw_bins, fit, panel_size
from c2sti.pl._record import Record, check_drawn, is_stack, record_of, rows_of, values_of

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
