"""The gene co-expression graph (eq. 2) of a section, and that of any gene in a result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging, _result, _validators, io, ops
from c2sti._types import FloatArray

LEAST = 2  # rows and genes between which there is a correlation


def coexpression(
    adata: AnnData,
    *,
    genes: str | Sequence[str] | pd.Index | None = None,
    layer: str | None = None,
    n_edges: int = io.N_EDGES,
    key: str = "c2sti",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Gene co-expression graph of a section by Pearson correlation (eq. 2).

    Of a result and some `genes`, without a `layer`, each section gets a graph of these genes with all others, from the
    two measured sections weighted by 1 − p and p. A layer is smooth: its correlations are stronger than measured ones.

    Parameters
    ----------
    adata
        M spots × N genes, log1p expression; or a result of :func:`interpolate`.
    genes
        Names of the genes whose edges are wanted, or what a text column of `var` calls them; all by default.
    layer
        Layer to use; `X` by default. Rows that hold NaN (outside of a section's tissue) are left out.
    n_edges
        Strongest correlations, by absolute value, kept for each gene; an edge that either end keeps is kept.
    key
        The `key_added` that a result was made with.
    key_added
        Key in ``varp``; ``"coexpression"`` or ``"coexpression_<layer>"`` by default. Of a result and some genes it is
        the prefix, before the names of the sections.
    copy
        Return a changed copy instead of writing into `adata`.

    Returns
    -------
    None or, with `copy`, AnnData. Writes ``varp[key_added]``: CSR float32 (N, N), symmetric, zero diagonal; of a result
    and some genes ``varp["coexpression_slice_a"]``, ``varp["coexpression_c2sti_1"]`` ….

    Raises
    ------
    KeyError
        There is no such layer or gene.
    TypeError, ValueError
        It is no section, or a view of a backed file; or it holds no expression, or too little.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, show_progress_bar=False)
    >>> c2sti.tl.coexpression(out, genes=["gene_007"])
    >>> out.varp["coexpression_c2sti_1"].shape
    (50, 50)
    """
    _validators.a(adata, "adata", AnnData, "a section or a result, an AnnData,")
    n_edges = _validators.whole(n_edges, "n_edges")
    if key_added is not None:
        _validators.key(key_added)
    _validators.text(key, "key")
    io.check_layer(adata, "adata", layer)
    if not copy:
        io.check_writable(adata, "adata")
    at = key_added or (_keys.COEXPRESSION if layer is None else _keys.graph(layer))
    if genes is None:
        found = {at: ops.pearson_graph([_dense(adata, layer)], [1.0], n_edges)}
    else:
        chosen = np.sort(adata.var_names.get_indexer(_result.genes_of(genes, adata.var_names, adata.var)))
        if layer is None and _result.is_result(adata, key) and _keys.SECTION not in adata.obs:
            pair = io.MeasuredPair(adata, key)
            correlations = {f"{at}_{name}": pair.correlations(name, chosen) for name in pair.positions}
        else:
            correlations = {at: ops.pearson_rows([_dense(adata, layer)], [1.0], chosen)}
        found = {name: _edges(rows, chosen, n_edges) for name, rows in correlations.items()}
    adata = io.copied(adata) if copy else adata
    for name, graph in found.items():
        if name in adata.varp:
            _logging.warning(f"varp[{name!r}] was there, and is replaced; key_added= keeps both")
        adata.varp[name] = sp.csr_matrix(graph)
    return adata if copy else None


def _edges(correlations: FloatArray, genes: NDArray[np.intp], n_edges: int) -> sp.csr_array:
    """(N, N) symmetric graph of the strongest of (G, N) correlations of some genes."""
    n = correlations.shape[1]
    column = np.argsort(-np.abs(correlations), axis=1, kind="stable")[:, : min(n_edges, n - 1)]
    return ops.symmetric_graph(np.take_along_axis(correlations, column, axis=1), genes, column, n)


def _dense(adata: AnnData, layer: str | None) -> NDArray[np.float32]:
    """(n, N) values of the rows without NaN; refuses what are no finite numbers, or too few."""
    where, values = ("X", adata.X) if layer is None else (f"layer {layer!r}", adata.layers[layer])
    if values is None:
        raise ValueError(f"{where} of adata is empty; put expression there, or name a layer with layer=")
    if not _validators.is_real(values.dtype):
        raise TypeError(f"{where} of adata holds {values.dtype}; expression is needed: .astype('float32')")
    values = values.to_memory() if hasattr(values, "to_memory") else values  # sparse, of a backed file
    if layer is not None and sp.issparse(values) and _keys.tissue(layer) in adata.obs:
        values = values[adata.obs[_keys.tissue(layer)].to_numpy()]  # of a store: empty, not NaN, outside
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
