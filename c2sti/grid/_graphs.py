"""Gene co-expression graphs (eq. 2) of the sections of a result: those that it holds, and those of any gene.

A graph is made from the measured sections, weighted by 1 - p and p, never from interpolated values, which have been
smoothed. A result holds those of its most variable genes; of any other gene it has the measured sections to ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _result, ops
from c2sti._stored import Expression, Stored
from c2sti._types import FloatArray, SlicePair

N_EDGES = 30  # edges kept for each gene
GRAPH_GENES = 2000  # genes between which edges are sought: correlations of rarely seen genes are noise
GRAPH_WIDTH = 0.6  # smoothing before correlating, in spot spacings
LEAST = 3  # spots between which there is a correlation
GENES = "genes"  # names of the genes that a graph joins


@dataclass(frozen=True)
class Graph:
    """Which genes vary together in a section.

    Parameters
    ----------
    genes
        (G,) names.
    edges
        (G, G) symmetric correlations, zero where none was kept.
    """

    genes: pd.Index
    edges: sp.csr_array

    def among(self, names: pd.Index) -> sp.csr_array:
        """(N, N) the same edges among other genes; those that it does not know have none."""
        place = names.get_indexer(self.genes)
        coo = self.edges.tocoo()
        row, column = (place[index] for index in coo.coords)
        kept = (row >= 0) & (column >= 0)
        return sp.coo_array((coo.data[kept], (row[kept], column[kept])), shape=(len(names), len(names))).tocsr()


def graphs_of(pair: SlicePair, positions: Sequence[float], genes: pd.Index) -> list[Graph]:
    """Graph of each position between a pair, by the strongest edges of its most variable genes."""
    chosen = np.sort(ops.most_variable([pair.a.moments, pair.b.moments], GRAPH_GENES))
    values = [ops.graph_values(s.xy, s.expression[:, chosen], GRAPH_WIDTH * pair.spacing) for s in (pair.a, pair.b)]
    found = ops.pearson_graphs(values, [(1 - p, p) for p in positions], N_EDGES)
    return [Graph(genes[chosen], edges) for edges in found]


def as_record(graphs: Mapping[str, Graph]) -> dict[str, Any]:
    """Graphs of sections as they stand in ``uns[key]["coexpression"]``: all join the same genes."""
    if not graphs:
        return {}
    genes = next(iter(graphs.values())).genes
    return {GENES: genes.to_numpy(dtype=str), **{name: sp.csr_matrix(graph.edges) for name, graph in graphs.items()}}


def held_graph(record: Mapping[str, Any], section: str) -> Graph | None:
    """The graph of a section that a result came with; None without one."""
    held = record.get(_keys.COEXPRESSION, {})
    if section not in held or GENES not in held:
        return None
    return Graph(pd.Index([str(gene) for gene in held[GENES]]), sp.csr_array(held[section]))


class MeasuredPair:
    """The measured sections behind a result, each spot once, as graphs are made from them.

    Parameters
    ----------
    adata
        A result whose rows share measured sections as layers.
    key
        The `key_added` that it was made with.
    """

    def __init__(self, adata: AnnData, key: str) -> None:
        record = _result.record_of(adata, key)
        ends = [_keys.SLICE_A, _keys.SLICE_B]
        _result.check_parts(adata, layers=ends, obs=[_keys.spot(name) for name in ends], obsm=[_keys.SPATIAL])
        xy = np.asarray(adata.obsm[_keys.SPATIAL])
        self.positions = dict(zip(map(str, record["sections"]), map(float, record["positions"]), strict=True))
        self.values: list[NDArray[np.float32]] = []
        for name in ends:
            spot = adata.obs[_keys.spot(name)]
            rows = np.flatnonzero((spot.notna() & ~spot.duplicated()).to_numpy())
            if len(rows) < LEAST:
                raise ValueError(f"{name} has {len(rows)} spots in the result; a correlation needs {LEAST}")
            width = GRAPH_WIDTH * ops.spacing(xy[rows])
            self.values.append(ops.graph_values(xy[rows], _rows_of(adata.layers[name], rows), width))

    def correlations(self, section: str, genes: NDArray[np.intp]) -> FloatArray:
        """(G, N) correlations of some genes with all, at the position of a section; 0 of a gene with itself."""
        p = self.positions[section]
        return ops.pearson_rows(self.values, (1 - p, p), genes)


def _rows_of(layer: Any, rows: NDArray[np.intp]) -> Expression:
    """Some rows of a layer; block by block where it is not in memory."""
    if hasattr(layer, "compute"):
        return Stored(layer, layer.shape[0] * layer.shape[1], rows)
    return sp.csr_array(layer[rows])
