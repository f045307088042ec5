"""Arrays → containers: interpolated sections as an AnnData that squidpy draws, with a record of how it was made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging, _result, ops
from c2sti._backed import Stored
from c2sti._tasks import compute
from c2sti._types import FloatArray, Lattice, SlicePair
from c2sti.io._factors import (
    VALUES,
    Layers,
    StackPart,
    add_stack_confidence,
    confidence,
    filled,
    put,
    rows_lazily,
    spot_of_each,
    values_lazily,
)
from c2sti.io._rasterize import Rows
from c2sti.io._virtual_histology import Canvas, library_of_sections

N_EDGES = 30  # edges kept for each gene
GRAPH_GENES = 2000  # genes between which edges are sought: correlations of rarely detected genes are noise
GRAPH_WIDTH = 0.6  # smoothing before correlating, in spot spacings
LEAST = 3  # spots between which there is a correlation
GENES = "genes"  # names of the genes that a graph joins
LEAST_VIEW = 0.05  # share of squidpy's axes below which bins are too small to be seen


# ---- rows, and what is known of them


def frame_slices(
    pair: SlicePair,
    rows: Rows,
    *,
    var: pd.DataFrame,
    positions: FloatArray,
    graphs: Mapping[str, Any] | None,
    notes: Mapping[str, Any],
    provenance: Mapping[str, Any],
    images: Sequence[Canvas] | None = None,
    stained: Collection[float] = (),
    columns: Mapping[str, NDArray[Any]] | None = None,
    key_added: str = _keys.RESULT,
) -> AnnData:
    """All of a result but the values of its sections.

    `positions` are the (S,) of the interpolated sections, `graphs` those of :func:`graphs_of`, `images` the S + 2 of
    :func:`c2sti.io.section_images`, `stained` positions whose H&E was photographed, and `columns` (M,) further ones of
    `obs`. `provenance` goes into ``uns[key_added]``, but its ``"log1p"``, of the measured sections, into ``uns``.
    """
    inserted = _keys.inserted(key_added, len(positions))
    names = [_keys.SLICE_A, *inserted, _keys.SLICE_B]
    depths = np.array([0.0, *positions, 1.0])
    middle = inserted[(len(inserted) - 1) // 2]
    tissue = {name: rows.inside(p) for name, p in zip(names, depths, strict=True)}
    adata = AnnData(
        obs=_obs(rows, pair.lattice, tissue).assign(**(columns or {})),
        var=var.copy(),
        obsm={_keys.SPATIAL: rows.points.copy()},
    )
    painted = [] if images is None else [s for s, p in zip(inserted, positions, strict=True) if p not in stained]
    shown = {} if images is None else dict(zip(names, images, strict=True))
    adata.uns[_keys.SPATIAL] = {key_added: library_of_sections(shown, middle, pair.lattice.pitch, rows.points)}
    if "calls" in provenance:  # a result that the user gets as it is
        warn_of_view(adata.uns[_keys.SPATIAL][key_added], middle, rows.points)
    scale = _result.log1p_of(provenance)
    if scale is not None:
        adata.uns[_keys.LOG1P] = scale
    adata.uns[key_added] = {
        "synthetic": True,
        _keys.STATISTICS: _result.STATISTICS,
        "sections": names,
        "inserted": inserted,
        "positions": depths,
        "genes": var.index.to_numpy(dtype=str),
        _keys.COEXPRESSION: dict(graphs or {}),
        "lattice": lattice_as_dict(pair.lattice),
        "notes": dict(notes),
        _keys.VIRTUAL_HISTOLOGY: np.array(painted, dtype=str),
        **{name: value for name, value in provenance.items() if name != _keys.LOG1P},
    }
    return adata


def _obs(rows: Rows, lattice: Lattice, tissue: Mapping[str, NDArray[np.bool_]]) -> pd.DataFrame:
    in_a, in_b = tissue[_keys.SLICE_A], tissue[_keys.SLICE_B]
    support = np.select([in_a & in_b, in_a, in_b], ["both", "a", "b"], default="none")
    row, column = np.divmod(rows.bins, lattice.shape[1])
    obs = pd.DataFrame(
        {
            "array_row": np.where(rows.bins >= 0, row, -1),
            "array_col": np.where(rows.bins >= 0, column, -1),
            _keys.SUPPORT: pd.Categorical(support, categories=["both", "a", "b", "none"]),
            _keys.INSERTED: True,
        },
        index=pd.Index([f"bin_{i}" for i in range(len(row))]),
    )
    for name, inside in tissue.items():
        obs[_keys.tissue(name)] = inside
    return obs


def warn_of_view(library: Mapping[str, Any], section: str, points: FloatArray, *, least: float = LEAST_VIEW) -> None:
    """Warn where squidpy's default plot, whose axes begin at the origin of the frame, shows little.

    `least` is the share of the axes below which bins are too small.
    """
    under, scales = library["images"]["hires"], library["scalefactors"]
    if section in library["images"] and under.min() == under.max():
        _logging.warning(
            "some bins lie beside the H&E, which begins at the origin of the frame: squidpy draws all bins over white, "
            f"and those that the H&E reaches over it with img_res_key={section!r}"
        )
    size = (np.ptp(points, axis=0) + scales["spot_diameter_fullres"]) * scales["tissue_hires_scalef"]
    share = float(np.prod(size)) / (under.shape[0] * under.shape[1])
    if share < least:
        _logging.warning(
            f"bins fill {share:.1%} of the axes that squidpy draws from the origin of the frame; "
            "sq.pl.spatial_scatter(…, img=False) fits them to the tissue, as c2sti.pl does"
        )


def lattice_as_dict(lattice: Lattice) -> dict[str, Any]:
    """A lattice as it stands in `uns`."""
    return {"origin": np.array(lattice.origin), "pitch": lattice.pitch, "shape": np.array(lattice.shape)}


# ---- values


def add_layers(frame: AnnData, layers: Layers, pair: SlicePair, *, dense: bool, key: str, n_threads: int) -> None:
    """Put the measured pair and the interpolated sections into a result, as layers over its rows, and `X`.

    They are computed now if `dense`. Otherwise they are lazy, and their factors are in the result as well.
    """
    lazy = layers.lazily(by_rows=dense)
    ends = ((_keys.SLICE_A, pair.a), (_keys.SLICE_B, pair.b))
    first, last = ({name: rows_lazily(s.expression, spot_of_each(s, frame, name))} for name, s in ends)
    values: dict[str, Any] = first | {name: lazy[name] for name in layers.names} | last | lazy
    if dense:
        values = filled(values, n_threads)
    add_confidence(frame, layers, values, n_threads)
    if not dense:
        put(frame, layers, key)
    for name, layer in values.items():
        frame.layers[name] = layer
    frame.X = values[layers.names[(len(layers.names) - 1) // 2]].copy()


def add_confidence(frame: AnnData, layers: Layers, values: Mapping[str, Any], n_threads: int) -> None:
    """Write the confidence of each bin of each interpolated section into `obs`, where there are standard deviations."""
    if layers.spread is None:
        return
    wanted = [
        confidence(values[name], values[_keys.layer_of(name, _keys.STD)], frame.obs[_keys.tissue(name)].to_numpy())
        for name in layers.names
    ]
    for name, found in zip(layers.names, compute(wanted, n_threads=n_threads), strict=True):
        frame.obs[_keys.confidence(name)] = found


def add_values(
    frame: AnnData, stack: Sequence[StackPart], kinds: Sequence[str], *, dense: bool, n_threads: int
) -> None:
    """Put the values of a stack into `X`, and the kinds beside them into layers: dense, or lazily."""
    values: dict[str | None, Any] = dict(values_lazily(stack, frame.n_vars, kinds, by_rows=dense))
    if dense:
        values = filled(values, n_threads)
    add_stack_confidence(frame, stack, values, n_threads)
    frame.X = values.pop(VALUES)
    for kind, layer in values.items():
        frame.layers[str(kind)] = layer


# ---- gene graphs


def graphs_of(pair: SlicePair, sections: Mapping[str, float], genes: pd.Index) -> dict[str, Any]:
    """Gene graphs of sections between a pair by their positions, as they stand in ``uns[key]["coexpression"]``.

    They have the strongest edges between the most variable genes of the pair.
    """
    chosen = np.sort(ops.most_variable([pair.a.moments, pair.b.moments], GRAPH_GENES))
    values = [ops.graph_values(s.xy, s.expression[:, chosen], GRAPH_WIDTH * pair.spacing) for s in (pair.a, pair.b)]
    found = ops.pearson_graphs(values, [(1 - p, p) for p in sections.values()], N_EDGES)
    return {
        GENES: genes[chosen].to_numpy(dtype=str),
        **{name: sp.csr_matrix(edges) for name, edges in zip(sections, found, strict=True)},
    }


def held_graph(record: Mapping[str, Any], section: str, names: pd.Index) -> sp.csr_matrix | None:
    """(N, N) graph of a section that a result came with, among these genes; None without one."""
    held = record.get(_keys.COEXPRESSION, {})
    if section not in held or GENES not in held:
        return None
    place = names.get_indexer([str(gene) for gene in held[GENES]])
    coo = sp.coo_array(held[section])
    row, column = (place[index] for index in coo.coords)
    kept = (row >= 0) & (column >= 0)
    return sp.csr_matrix((coo.data[kept], (row[kept], column[kept])), shape=(len(names), len(names)))


class MeasuredPair:
    """The measured sections behind a pair's result, each spot once, from which graphs are computed."""

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
            layer = adata.layers[name]  # read block by block where it is lazy
            lazy = hasattr(layer, "compute")
            some = Stored(layer, layer.shape[0] * layer.shape[1], rows) if lazy else sp.csr_array(layer[rows])
            self.values.append(ops.graph_values(xy[rows], some, width))

    def correlations(self, section: str, genes: NDArray[np.intp]) -> FloatArray:
        """(G, N) correlations of some genes with all, at the position of a section; 0 of a gene with itself."""
        p = self.positions[section]
        return ops.pearson_rows(self.values, (1 - p, p), genes)
