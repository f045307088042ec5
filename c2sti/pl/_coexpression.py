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
from c2sti.pl._axes import HALO, Result, check_look, figure_of, panels, save_figure

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

    All panels show the same genes in the same places and colours. The graphs of interpolated sections are made from
    their measured neighbours.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate`, or a section with a graph by :func:`c2sti.tl.coexpression`.
    gene
        Name of the gene in the middle, or what a text column of `var` calls it, which then names all genes.
    sections
        One or several sections of a result; all by default.
    kind
        ``"network"``: the gene in the middle of its neighbours, red lines for positive correlations, blue ones for
        negative, wider the stronger. ``"heatmap"``: the same genes as a matrix.
    n_genes
        Neighbours shown: those with the largest absolute correlation with the gene in any of the sections.
    key, cmap
        The `key_added` that the result was made with; diverging colour map of the Pearson correlation.
    axs, save
        One axes a section to draw into; file to write the figure to.

    Returns
    -------
    The axes, one a section.

    Raises
    ------
    KeyError
        There is no such gene, section or graph.
    ValueError
        The gene has no edge, as one that does not vary, or an argument makes no sense.

    Notes
    -----
    A result holds the graphs of its 2,000 most variable genes; correlations of another gene are computed from the
    measured sections. A graph keeps the strongest edges of each gene: grey in the heatmap is a weaker correlation than
    those shown, which may differ from zero.

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
    result = Result(adata, key) if _result.is_result(adata, key) else None
    graphs = _of_section(adata, sections) if result is None else _of_result(result, sections, place, n_genes)
    chosen = _neighbours(graphs, gene, place, n_genes)
    names = _result.names_like(adata, gene)[chosen].tolist()
    matrices = {name: graph[chosen][:, chosen].toarray() for name, graph in graphs.items()}
    top = max(float(np.abs(m).max()) for m in matrices.values())
    scale = Normalize(-top, top)
    colours = ScalarMappable(scale, colormaps[cmap])
    axes = panels(list(graphs), axs, size=(SIZE, SIZE + 0.5))
    for (name, matrix), ax in zip(matrices.items(), axes, strict=True):
        if result is not None:
            result.mark(ax, name)
        if kind == "network":
            _draw_network(ax, matrix, names, colours, top)
        else:
            _draw_heatmap(ax, matrix, names, scale, cmap)
            ax.set_yticks(range(len(names)), names if ax is axes[0] or axs is not None else [])
    figure_of(axes[0]).colorbar(colours, ax=axes, shrink=0.6, label="Pearson correlation", pad=0.02)
    save_figure(axes[0], save)
    return axes


def _of_section(adata: AnnData, sections: str | Sequence[str] | None) -> dict[str, sp.csr_matrix]:
    """(N, N) graph of a section of its own."""
    if _keys.COEXPRESSION not in adata.varp:
        raise KeyError(
            f"varp has no {_keys.COEXPRESSION!r} (it has {sorted(adata.varp)}); c2sti.tl.coexpression(adata) makes one"
        )
    if sections is not None:
        raise KeyError(f"sections = {sections!r}, but adata is one section and no result of c2sti.tl.interpolate")
    return {_keys.COEXPRESSION: sp.csr_matrix(adata.varp[_keys.COEXPRESSION])}


def _of_result(
    result: Result, sections: str | Sequence[str] | None, place: int, n_genes: int
) -> dict[str, sp.csr_matrix]:
    """(N, N) graph of each section wanted: that which a result holds, or else of the gene's strongest neighbours."""
    wanted = result.names if sections is None else _validators.names(sections, "sections")
    if not wanted:
        raise ValueError(f"sections= is empty; name one or more of {', '.join(result.names)}")
    adata = result.adata
    found: dict[str, sp.csr_matrix] = {}
    for name in wanted:
        held = io.held_graph(result.record, result.section(name), adata.var_names)
        graph = adata.varp.get(_keys.graph(name), held)
        if graph is not None:
            found[name] = sp.csr_matrix(graph)
    lacking = [name for name in wanted if name not in found]
    if result.is_stack and lacking:
        raise KeyError(
            f"the result holds no graph of {lacking[0]}; c2sti.tl.coexpression(adata[adata.obs['section'] == "
            f"{lacking[0]!r}].copy(), key_added={_keys.graph(lacking[0])!r}) makes one"
        )
    if result.is_stack or (not lacking and all(graph[[place]].nnz for graph in found.values())):
        return found
    pair = io.MeasuredPair(adata, result.key)
    strength = np.max([np.abs(pair.correlations(name, np.array([place]))[0]) for name in wanted], axis=0)
    chosen, shape = np.unique([place, *np.argsort(-strength, kind="stable")[:n_genes]]), (adata.n_vars, adata.n_vars)
    for name in wanted:
        among = sp.coo_array(pair.correlations(name, chosen)[:, chosen])
        found[name] = sp.csr_matrix((among.data, tuple(chosen[index] for index in among.coords)), shape=shape)
    return {name: found[name] for name in wanted}


def _neighbours(graphs: dict[str, sp.csr_matrix], gene: str, place: int, n_genes: int) -> list[int]:
    """Places of the gene and of its strongest neighbours, similar ones beside each other."""
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
        distance = 1 - np.clip(mean, -1, 1)
        np.fill_diagonal(distance, 0)
        tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
        chosen = chosen[leaves_list(tree)]
    return [place, *chosen.tolist()]


def _draw_network(ax: Axes, matrix: FloatArray, names: Sequence[str], colours: ScalarMappable, top: float) -> None:
    angle = 2 * np.pi * np.arange(len(names) - 1) / max(len(names) - 1, 1) + np.pi / 2
    places = np.concatenate([[[0.0, 0.0]], np.column_stack([np.cos(angle), np.sin(angle)])])
    for i, j in sorted(zip(*np.nonzero(np.triu(matrix, 1)), strict=True), key=lambda e: (e[0] == 0, abs(matrix[e]))):
        central = i == 0
        line = LineCollection(
            [places[[i, j]]],
            colors=[colours.to_rgba(matrix[i, j], alpha=1.0 if central else 0.3)],
            linewidths=(0.3 + 2.7 * abs(matrix[i, j]) / top) * (1.0 if central else 0.4),
            capstyle="round",
            zorder=2 if central else 1,
        )
        ax.add_collection(line)
    n = len(names) - 1
    ax.scatter(places[:, 0], places[:, 1], s=[90] + n * [45], c=["0.15"] + n * ["0.95"], edgecolors="0.15", zorder=3)
    centre = ax.annotate(names[0], (0, 0), (0, -9), textcoords="offset points", ha="center", va="top", fontsize=8)
    centre.set(weight="bold", path_effects=HALO)
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
