"""Gene co-expression graphs (eq. 2): those that come with a result, and that of any section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _check, _keys, _log, grid, ops
from c2sti._types import SlicePair

N_EDGES = 30  # co-expression edges kept for each gene
GRAPH_GENES = 2000  # genes between which edges are sought: correlations of rarely seen genes are noise
LEAST = 2  # rows and genes between which there is a correlation
GRAPH_WIDTH = 0.6  # smoothing before correlating, in spot spacings


def graphs(pair: SlicePair, positions: Sequence[float]) -> list[sp.csr_array]:
    """Gene graph of each position, N × N; edges between the most variable genes."""
    genes = np.sort(ops.most_variable([pair.a.moments, pair.b.moments], GRAPH_GENES))
    values = [ops.graph_values(s.xy, s.expression[:, genes], GRAPH_WIDTH * pair.spacing) for s in (pair.a, pair.b)]
    found = ops.pearson_graphs(values, [(1 - p, p) for p in positions], N_EDGES)
    return [_spread_out(graph, genes, pair.n_genes) for graph in found]


def _spread_out(graph: sp.csr_array, genes: NDArray[np.intp], n_genes: int) -> sp.csr_array:
    """The graph of some genes as one of all genes."""
    coo = graph.tocoo()
    return sp.coo_array((coo.data, (genes[coo.row], genes[coo.col])), shape=(n_genes, n_genes)).tocsr()


def coexpression(
    adata: AnnData,
    *,
    layer: str | None = None,
    n_edges: int = N_EDGES,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Gene co-expression graph of a section by Pearson correlation (eq. 2).

    Of a measured section, or of a layer of :func:`interpolate`'s result. The graphs which that result brings along are
    made from the measured neighbours; this one is of the layer's own values, which an interpolation has smoothed:
    expect stronger correlations. It replaces that of the result, which the log says, unless it is given a `key_added`.

    Parameters
    ----------
    adata
        M spots × N genes, log1p expression.
    layer
        Layer to use; `X` by default. Rows that hold NaN (outside of a section's tissue) are left out.
    n_edges
        Strongest correlations, by absolute value, kept for each gene; an edge that either end keeps is kept.
    key_added
        Key in ``varp``; ``"coexpression"`` or ``"coexpression_<layer>"`` by default.
    copy
        Return a changed copy instead of writing into `adata`.

    Returns
    -------
    None or, with `copy`, AnnData. Writes ``varp[key_added]``: CSR float32 (N, N), symmetric, zero diagonal.

    Raises
    ------
    KeyError
        There is no such layer.
    TypeError, ValueError
        It is no section, or a view of a backed file; or what it holds is no expression, or too little of it.

    Examples
    --------
    >>> import c2sti, scanpy as sc
    >>> section = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).section(0.0)
    >>> sc.pp.normalize_total(section, target_sum=1e4)
    >>> sc.pp.log1p(section)
    >>> c2sti.tl.coexpression(section)
    >>> section.varp["coexpression"].shape
    (50, 50)
    """
    _check.a(adata, "adata", AnnData, "a section or a result, an AnnData,")
    n_edges = _check.whole(n_edges, "n_edges")
    if key_added is not None:
        _check.key(key_added)
    grid.check_layer(adata, "adata", layer)
    if not copy:
        grid.check_writable(adata, "adata")
    values = adata.X if layer is None else adata.layers[layer]
    values = values.to_memory() if hasattr(values, "to_memory") else values  # sparse, of a backed file
    if layer is not None and sp.issparse(values) and _keys.tissue(layer) in adata.obs:
        values = values[
            adata.obs[_keys.tissue(layer)].to_numpy()
        ]  # a streamed measured section: empty, not NaN, outside
    dense = _dense(values, "X" if layer is None else f"layer {layer!r}")
    adata = grid.copied(adata) if copy else adata
    key = key_added or (_keys.COEXPRESSION if layer is None else _keys.graph(layer))
    if key in adata.varp:
        _log.warning(f"varp[{key!r}] was there, and is replaced; key_added= keeps both")
    adata.varp[key] = sp.csr_matrix(ops.pearson_graph([dense], [1.0], n_edges))
    return adata if copy else None


def _dense(values: Any, where: str) -> NDArray[np.float32]:
    """(n, N) values of the rows without NaN.

    Raises
    ------
    TypeError, ValueError
        They are no real numbers, or infinite, or of fewer than two rows or genes.
    """
    if values is None:
        raise ValueError(f"{where} of adata is empty; put expression there, or name a layer with layer=")
    if not _check.is_real(values.dtype):
        raise TypeError(f"{where} of adata holds {values.dtype}; expression is needed: .astype('float32')")
    dense = np.asarray(values.toarray() if sp.issparse(values) else values, dtype=np.float32)
    dense = dense[~np.isnan(dense).any(axis=1)]
    if np.isinf(dense).any():
        raise ValueError(f"{where} of adata holds infinite values; set them to 0 or drop their genes")
    if min(dense.shape) < LEAST:
        raise ValueError(
            f"{where} of adata holds {dense.shape[0]} rows without NaN and {dense.shape[1]} genes; a correlation needs "
            f"{LEAST} of both"
        )
    return dense
