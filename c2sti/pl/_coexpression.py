"""Which genes vary together with one gene, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from c2sti import _keys, _result, _validators, io
from c2sti._types import FloatArray
from c2sti.pl._axes import HALO, Record, check_look, figure_of, is_stack, mark, panels, record_of, save_figure

SIZE = 3.1  # inches of a panel
UNKNOWN, SELF = "0.93", "0.6"  # where no edge was kept, and a gene with itself
REACH = 1.95  # half a panel's width, in radii of the ring of neighbours: the rest is for their names


def coexpression(
    adata: AnnData,
    gene: str,
    *,
    sections: str | Sequence[str] | None = None,
    kind: Literal["network", "heatmap"] = "network",
    n_genes: int = 12,
    key: str = "c2sti",
    cmap: str = "RdBu_r",
    axs: Sequence[Axes] | None = None,
    save: str | Path | None = None,
) -> list[Axes]:
    """The co-expression graph around one gene: its strongest neighbours, and what joins them.

    All panels show the same genes in the same places and colours, so that sections can be compared. The graphs of
    interpolated sections are made from their measured neighbours, and marked as computed.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate`, or a section with a graph by :func:`c2sti.tl.coexpression`.
    gene
        Name of the gene in the middle, or what a text column of `var` calls it, which then names all genes.
    sections
        One or several sections of the result; all by default. Has no meaning for a section of its own.
    kind
        ``"network"``: the gene in the middle of its neighbours, red lines for genes that rise together, blue ones for
        those of which one rises where the other falls, wider the stronger. ``"heatmap"``: the same genes as a matrix.
    n_genes
        Neighbours shown: those with the largest absolute correlation with the gene in any of the sections.
    key
        The `key_added` that the result was made with.
    cmap
        Diverging colour map of the Pearson correlation.
    axs
        One axes a section to draw into.
    save
        File to write the figure to.

    Returns
    -------
    The axes, one a section.

    Raises
    ------
    KeyError
        There is no such gene, section or graph.
    ValueError
        The gene has no edge, as one that does not vary has none, or an argument makes no sense.

    Notes
    -----
    A result holds the graphs of its 2,000 most variable genes. Of another gene, correlations are computed from the
    measured sections in the result. A graph keeps the strongest edges of each gene. Grey in the heatmap is a
    correlation that neither gene kept: weaker than those shown, and not known to be zero.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, show_progress_bar=False)
    >>> axes = c2sti.pl.coexpression(out, "gene_001", n_genes=8)
    >>> axes = c2sti.pl.coexpression(out, "gene_001", sections="c2sti_1", kind="heatmap")
    """
    _validators.a(adata, "adata", AnnData, "a section or a result, an AnnData,")
    _validators.text(key, "key")
    if kind not in ("network", "heatmap"):
        raise ValueError(f"kind = {kind!r} must be 'network' or 'heatmap'")
    n_genes = _validators.whole(n_genes, "n_genes")
    check_look(save, cmap)
    place = adata.var_names.get_loc(_result.gene_of(adata, gene))
    record = record_of(adata, key) if _result.is_result(adata, key) else None
    graphs = _graphs(adata, record, sections, place, n_genes)
    chosen = _neighbours(graphs, gene, place, n_genes)
    names = _result.names_like(adata, gene)[chosen].tolist()
    matrices = {name: graph[chosen][:, chosen].toarray() for name, graph in graphs.items()}
    top = max(float(np.abs(m).max()) for m in matrices.values())
    scale = Normalize(-top, top)
    colours = ScalarMappable(scale, colormaps[cmap])
    axes = panels(list(graphs), axs, size=(SIZE, SIZE + 0.5))
    for (name, matrix), ax in zip(matrices.items(), axes, strict=True):
        if record is not None:
            mark(ax, record, name)
        if kind == "network":
            _draw_network(ax, matrix, names, colours, top)
        else:
            _draw_heatmap(ax, matrix, names, scale, cmap)
            ax.set_yticks(range(len(names)), names if ax is axes[0] or axs is not None else [])
    figure_of(axes[0]).colorbar(colours, ax=axes, shrink=0.6, label="Pearson correlation", pad=0.02)
    save_figure(axes[0], save)
    return axes


def _graphs(
    adata: AnnData, record: Record | None, sections: str | Sequence[str] | None, place: int, n_genes: int
) -> dict[str, sp.csr_matrix]:
    """Graph of each section asked for, (N, N)."""
    if record is None:
        if _keys.COEXPRESSION not in adata.varp:
            raise KeyError(
                f"varp has no {_keys.COEXPRESSION!r} (it has {sorted(adata.varp)}); "
                "c2sti.tl.coexpression(adata) makes one"
            )
        if sections is not None:
            raise KeyError(f"sections = {sections!r}, but adata is one section and no result of c2sti.tl.interpolate")
        return {_keys.COEXPRESSION: sp.csr_matrix(adata.varp[_keys.COEXPRESSION])}
    wanted = list(record.names) if sections is None else _validators.names(sections, "sections")
    if not wanted:
        raise ValueError(f"sections= is empty; name one or more of {', '.join(record.names)}")
    found = {name: _held(adata, record, record.check(name)) for name in wanted}
    if all(graph is not None and graph[[place]].nnz for graph in found.values()) or is_stack(adata):
        lacking = [name for name, graph in found.items() if graph is None]
        if lacking:
            raise KeyError(
                f"the result holds no graph of {lacking[0]}; "
                f"c2sti.tl.coexpression({_part(lacking[0])}key_added={_keys.graph(lacking[0])!r}) makes one"
            )
        return {name: graph for name, graph in found.items() if graph is not None}
    return _from_measured(io.MeasuredPair(adata, record.key), wanted, place, n_genes)


def _held(adata: AnnData, record: Record, name: str) -> sp.csr_matrix | None:
    """The (N, N) graph of a section that a result has in `varp` or came with; None without one."""
    if _keys.graph(name) in adata.varp:
        return sp.csr_matrix(adata.varp[_keys.graph(name)])
    held = io.held_graph(record.content, name)
    return None if held is None else sp.csr_matrix(held.among(adata.var_names))


def _from_measured(
    pair: io.MeasuredPair, sections: Sequence[str], place: int, n_genes: int
) -> dict[str, sp.csr_matrix]:
    """(N, N) graph of each section between a gene and its strongest neighbours in any of them, by the spots."""
    rows = {name: pair.correlations(name, np.array([place]))[0] for name in sections}
    strength = np.max([np.abs(row) for row in rows.values()], axis=0)
    chosen = np.unique([place, *np.argsort(-strength, kind="stable")[:n_genes]])
    found = {}
    for name in sections:
        among = pair.correlations(name, chosen)[:, chosen]
        coo = sp.coo_array(among)
        shape = (len(strength), len(strength))
        found[name] = sp.csr_matrix((coo.data, tuple(chosen[index] for index in coo.coords)), shape=shape)
    return found


def _part(name: str) -> str:
    """The argument of tl.coexpression that means one section of a stack."""
    return f"adata[adata.obs['section'] == {name!r}].copy(), "


def _neighbours(graphs: dict[str, sp.csr_matrix], gene: str, place: int, n_genes: int) -> list[int]:
    """Places of the gene and of its strongest neighbours, those that are alike beside each other."""
    strength = np.max([np.abs(graph[[place]].toarray()[0]) for graph in graphs.values()], axis=0)
    strength[place] = 0
    if strength.max() == 0:
        raise ValueError(
            f"{gene} has no edge in the graphs of {', '.join(graphs)}: it does not vary, or its section is in a stack, "
            "whose graphs join the most variable genes; c2sti.tl.coexpression takes any gene of one section"
        )
    order = np.argsort(-strength, kind="stable")[:n_genes]
    chosen = order[strength[order] > 0]
    if len(chosen) > 2:
        mean = np.mean([graph[chosen][:, chosen].toarray() for graph in graphs.values()], axis=0)
        chosen = chosen[_by_likeness(mean)]
    return [place, *chosen.tolist()]


def _by_likeness(correlations: FloatArray) -> FloatArray:
    distance = 1 - np.clip(correlations, -1, 1)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))


def _draw_network(ax: Axes, matrix: FloatArray, names: Sequence[str], colours: ScalarMappable, top: float) -> None:
    angle = 2 * np.pi * np.arange(len(names) - 1) / max(len(names) - 1, 1) + np.pi / 2
    places = np.concatenate([[[0.0, 0.0]], np.column_stack([np.cos(angle), np.sin(angle)])])
    for i, j in sorted(zip(*np.nonzero(np.triu(matrix, 1)), strict=True), key=lambda e: (e[0] == 0, abs(matrix[e]))):
        strength = abs(matrix[i, j]) / top
        ax.add_collection(
            LineCollection(
                [places[[i, j]]],
                colors=[colours.to_rgba(matrix[i, j], alpha=1.0 if i == 0 else 0.3)],
                linewidths=(0.3 + 2.7 * strength) * (1.0 if i == 0 else 0.4),
                capstyle="round",
                zorder=2 if i == 0 else 1,
            )
        )
    n = len(names) - 1
    ax.scatter(places[:, 0], places[:, 1], s=[90] + n * [45], c=["0.15"] + n * ["0.95"], edgecolors="0.15", zorder=3)
    ax.annotate(
        names[0],
        (0, 0),
        xytext=(0, -9),
        textcoords="offset points",
        ha="center",
        va="top",
        weight="bold",
        fontsize=8,
        path_effects=HALO,
    )
    for name, (x, y), turn in zip(names[1:], places[1:], np.rad2deg(angle), strict=True):
        left = x < -1e-6
        ax.annotate(
            name, (1.09 * x, 1.09 * y), rotation=turn - 180 if left else turn, rotation_mode="anchor",
            ha="right" if left else "left", va="center", fontsize=7.5, path_effects=HALO,
        )  # fmt: skip
    ax.set_xlim(-REACH, REACH)
    ax.set_ylim(-REACH, REACH)
    ax.set_aspect("equal")


def _draw_heatmap(ax: Axes, matrix: FloatArray, names: Sequence[str], scale: Normalize, cmap: str) -> None:
    ax.set_facecolor(UNKNOWN)
    ax.imshow(np.where(matrix == 0, np.nan, matrix), cmap=cmap, norm=scale)
    places = np.arange(len(names))
    ax.plot(places, places, "s", color=SELF, markersize=4)
    ax.set_xticks(places, names, rotation=90)
    ax.tick_params(length=0, labelsize=7)
