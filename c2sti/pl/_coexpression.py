"""Which genes vary together with one gene, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from c2sti import _keys, _result, _validators, io
from c2sti._types import FloatArray
from c2sti.pl._look import CAPTION_FONT, Panels, ends, halo, ink, is_dark, panels, shares
from c2sti.pl._shown import Result, colour_bar, several_genes

SIZE = 3.1  # inches of a panel
UNKNOWN, SELF = ("0.93", "0.25"), "0.6"  # where no edge was kept, and a gene with itself
REACH = 2.2  # half a panel's width, in radii of the ring of neighbours: the rest is for their names


@shares(Panels)
def coexpression(
    adata: AnnData,
    gene: str | Sequence[str],
    *,
    sections: str | Sequence[str] | None = None,
    kind: Literal["network", "heatmap"] = "network",
    n_genes: int = 12,
    key: str = "c2sti",
    **look: Unpack[Panels],
) -> list[Axes]:
    """The co-expression graph around a gene: its strongest neighbours, and what joins them.

    All panels of a gene show the same genes in the same places and colours. The graphs of interpolated sections are
    made from their measured neighbours.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate`, or a section with a graph by :func:`c2sti.tl.coexpression`.
    gene
        Name of the gene in the middle, or what a text column of `var` calls it, which then names all genes; or several
        such names, each of which begins a row.
    kind
        ``"network"``: the gene in the middle of its neighbours, red lines for positive correlations, blue ones for
        negative, wider the stronger. ``"heatmap"``: the same genes as a matrix.
    n_genes
        Neighbours shown: those with the largest absolute correlation with the gene in any of the sections.
    %(shared)s

    Returns
    -------
    The axes, gene by gene and one a section. The colour map is diverging and its scale symmetric by default.

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
    result = Result(adata, key) if _result.is_result(adata, key) else None
    around = [_around(adata, result, one, sections, n_genes) for one in several_genes(gene)]
    rows = panels([len(matrices) for _, matrices in around], look, width=SIZE)
    for (names, matrices), row in zip(around, rows, strict=True):
        every = np.abs(np.concatenate([matrix.ravel() for matrix in matrices.values()]))
        _, top = ends(every, look, high="p100")
        low = look.get("vmin")
        scale = Normalize(-top if low is None or isinstance(low, str) else low, top)
        # In the middle of a diverging map lies the colour of the background, where weak edges vanish.
        colours = ScalarMappable(scale, look.get("cmap") or ("berlin" if is_dark() else "RdBu_r"))
        for (name, matrix), ax in zip(matrices.items(), row.axes, strict=True):
            if result is not None:
                result.mark(ax, name)
            if kind == "network":
                _draw_network(ax, matrix, names, colours, top)
            else:
                _draw_heatmap(ax, matrix, names, scale, colours.get_cmap())
                ax.set_yticks(range(len(names)), names if ax is row.axes[0] or look.get("ax") is not None else [])
        colour_bar(
            row, colours, "Pearson correlation", extend="neither" if low is None and "vmax" not in look else "both"
        )
    return [ax for row in rows for ax in row.axes]


def _around(
    adata: AnnData, result: Result | None, gene: str, sections: str | Sequence[str] | None, n_genes: int
) -> tuple[list[str], dict[str, FloatArray]]:
    """Names of a gene and its neighbours, and by section the (n, n) correlations between them."""
    place = adata.var_names.get_loc(_result.gene_of(adata, gene))
    graphs = _of_section(adata, sections) if result is None else _of_result(result, sections, place, n_genes)
    chosen = _neighbours(graphs, gene, place, n_genes)
    names = _result.names_like(adata, gene)[chosen].tolist()
    return names, {name: graph[chosen][:, chosen].toarray() for name, graph in graphs.items()}


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
    wanted, adata = result.named(sections), result.adata
    held = {n: adata.varp.get(_keys.graph(n), io.held_graph(result.record, n, adata.var_names)) for n in wanted}
    found = {name: sp.csr_matrix(graph) for name, graph in held.items() if graph is not None}
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
    chosen = np.unique([place, *np.argsort(-strength, kind="stable")[:n_genes]])
    found = {}
    for name in wanted:
        among = sp.coo_array(pair.correlations(name, chosen)[:, chosen])
        places = tuple(chosen[index] for index in among.coords)
        found[name] = sp.csr_matrix((among.data, places), shape=(adata.n_vars, adata.n_vars))
    return found


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
    n, node = len(names) - 1, UNKNOWN[is_dark()]
    ax.scatter(places[:, 0], places[:, 1], s=[50] + n * [22], c=[ink()] + n * [node], edgecolors=ink(), zorder=3)
    centre = ax.annotate(
        names[0], (0, 0), (0, -9), textcoords="offset points", ha="center", va="top", fontsize=CAPTION_FONT
    )
    centre.set(weight="bold", path_effects=halo())
    for name, (x, y), turn in zip(names[1:], places[1:], np.rad2deg(angle), strict=True):
        left = x < -1e-6
        ax.annotate(
            name, (1.09 * x, 1.09 * y), rotation=turn - 180 if left else turn, rotation_mode="anchor",
            ha="right" if left else "left", va="center", fontsize=6.5, path_effects=halo(),
        )  # fmt: skip
    ax.set_xlim(-REACH, REACH)
    ax.set_ylim(-REACH, REACH)
    ax.set_aspect("equal")


def _draw_heatmap(ax: Axes, matrix: FloatArray, names: Sequence[str], scale: Normalize, cmap: Colormap) -> None:
    ax.set_facecolor(UNKNOWN[is_dark()])
    ax.imshow(np.where(matrix == 0, np.nan, matrix), cmap=cmap, norm=scale)
    places = np.arange(len(names))
    ax.plot(places, places, "s", color=SELF, markersize=4)
    ax.set_xticks(places, names, rotation=90)
    ax.tick_params(length=0, labelsize=6.5)
