"""Arrays → containers: interpolated sections as an AnnData that squidpy draws and that says of itself what it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging, _result, ops
from c2sti._backed import Expression, Stored
from c2sti._tasks import compute
from c2sti._types import FloatArray, Lattice, SlicePair
from c2sti.io._factors import Layers, confidence, measured_lazily, put, store
from c2sti.io._histology import HEImage
from c2sti.io._rasterize import Rows
from c2sti.io._virtual_histology import library_of_sections

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


LEAST_VIEW = 0.05  # share of squidpy's axes below which bins are too small to be seen


def add_layers(
    frame: AnnData,
    layers: Layers,
    pair: SlicePair,
    rows: Rows,
    *,
    dense: bool,
    key: str,
    n_threads: int,
) -> None:
    """Put the measured pair and the interpolated sections into a result, as layers over its rows, and `X`.

    Parameters
    ----------
    frame
        Made by :func:`frame_slices`.
    layers
        The interpolated sections.
    pair, rows
        The measured sections, and the M points.
    dense
        Whether layers are made now, or when somebody looks at them; their factors are then in the result as well.
    key
        The `key_added` of the result.
    n_threads
        How many blocks are made side by side.
    """
    made = layers.lazily(by_rows=dense)
    first, last = (measured_lazily(s, rows.points, rows.inside(p)) for s, p in ((pair.a, 0.0), (pair.b, 1.0)))
    wanted: dict[str, Any] = {_keys.SLICE_A: first, **{name: made.pop(name) for name in layers.names}}
    wanted |= {_keys.SLICE_B: last, **made}  # what is beside the sections comes last
    if dense:
        filled = {name: np.empty(array.shape, dtype=np.float32) for name, array in wanted.items()}
        store(list(wanted.values()), list(filled.values()), n_threads=n_threads)
        wanted = filled
    else:
        put(frame, layers, key)
    for name, values in wanted.items():
        frame.layers[name] = values
    middle = wanted[layers.names[(len(layers.names) - 1) // 2]]
    frame.X = middle.copy()


def add_confidence(
    frame: AnnData,
    layers: Layers,
    positions: Sequence[float],
    rows: Rows,
    n_threads: int,
) -> None:
    """Write the confidence of each bin of each interpolated section into `obs`, where there are standard deviations."""
    if layers.spread is None:
        return
    made = layers.lazily()
    wanted = [
        confidence(made[name], made[_keys.doubt(name, _keys.STD)], rows.inside(p))
        for name, p in zip(layers.names, positions, strict=True)
    ]
    found = compute(wanted, n_threads=n_threads)
    for name, values in zip(layers.names, found, strict=True):
        frame.obs[_keys.confidence(name)] = values


def frame_slices(
    pair: SlicePair,
    rows: Rows,
    *,
    var: pd.DataFrame,
    positions: FloatArray,
    graphs: Sequence[Graph] | None,
    notes: Mapping[str, Any],
    provenance: Mapping[str, Any],
    pictures: Sequence[HEImage] | None = None,
    stained: Collection[float] = (),
    columns: Mapping[str, NDArray[Any]] | None = None,
    key_added: str = _keys.RESULT,
) -> AnnData:
    """All of a result but the values of its sections: the same in memory and on disk.

    Parameters
    ----------
    pair, rows
        What the interpolator was given, and the M points at which it was asked.
    var
        (N, columns) what is said of the genes; its index are their names.
    positions
        (S,) of the interpolated sections.
    graphs
        S + 2 gene graphs: of slice_a, the interpolated sections, slice_b; None for none.
    notes
        What the method found out.
    provenance
        Goes into ``uns[key_added]`` beside what is written there in any case; has to survive ``write_h5ad``. Its
        ``"log1p"``, what the measured sections say of their logarithm, goes into ``uns["log1p"]``.
    images
        S + 2 of :func:`c2sti.io.section_images`; a white one is written where there are none.
    stained
        Positions of interpolated sections whose H&E was photographed.
    columns
        (M,) further columns of `obs`.
    key_added
        Prefix of the interpolated layers and key in `uns`.
    """
    inserted = _keys.inserted(key_added, len(positions))
    names = [_keys.SLICE_A, *inserted, _keys.SLICE_B]
    depths = np.array([0.0, *positions, 1.0])
    middle = inserted[(len(inserted) - 1) // 2]
    tissue = {name: rows.inside(p) for name, p in zip(names, depths, strict=True)}
    made = {} if graphs is None else dict(zip(names, graphs, strict=True))
    adata = AnnData(
        obs=_obs(rows, pair.lattice, tissue).assign(**(columns or {})),
        var=var.copy(),
        obsm={_keys.SPATIAL: rows.points.copy()},
    )
    painted = [] if pictures is None else [s for s, p in zip(inserted, positions, strict=True) if p not in stained]
    shown = {} if pictures is None else dict(zip(names, pictures, strict=True))
    adata.uns[_keys.SPATIAL] = {key_added: library_of_sections(shown, middle, pair.lattice.pitch, rows.points)}
    if "calls" in provenance:  # a result that the user gets as it is
        _tell_view(adata.uns[_keys.SPATIAL][key_added], middle, rows.points)
    scale = _result.log1p_of(provenance)
    if scale is not None:
        adata.uns[_keys.LOG1P] = scale
    adata.uns[key_added] = {
        "synthetic": True,
        "sections": names,
        "inserted": inserted,
        "positions": depths,
        "genes": var.index.to_numpy(dtype=str),
        _keys.COEXPRESSION: as_record(made),
        "lattice": lattice_as_dict(pair.lattice),
        "notes": dict(notes),
        _keys.VIRTUAL_HISTOLOGY: np.array(painted, dtype=str),
        **{name: said for name, said in provenance.items() if name != _keys.LOG1P},
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


def _tell_view(library: Mapping[str, Any], section: str, points: FloatArray) -> None:
    """Say where squidpy's default plot, whose axes begin with the image at the origin of the frame, shows little."""
    under, scales = library["images"]["hires"], library["scalefactors"]
    if section in library["images"] and under.min() == under.max():
        _logging.warning(
            "some bins lie beside the H&E, which begins at the origin of the frame: squidpy draws all bins over white, "
            f"and those that the H&E reaches over it with img_res_key={section!r}"
        )
    size = (np.ptp(points, axis=0) + scales["spot_diameter_fullres"]) * scales["tissue_hires_scalef"]
    share = float(np.prod(size)) / (under.shape[0] * under.shape[1])
    if share < LEAST_VIEW:
        _logging.warning(
            f"bins fill {share:.1%} of the axes that squidpy draws from the origin of the frame; "
            "sq.pl.spatial_scatter(…, img=False) fits them to the tissue, as c2sti.pl does"
        )


def lattice_as_dict(lattice: Lattice) -> dict[str, Any]:
    """A lattice as it stands in `uns`."""
    return {"origin": np.array(lattice.origin), "pitch": lattice.pitch, "shape": np.array(lattice.shape)}
