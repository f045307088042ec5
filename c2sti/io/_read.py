"""Containers → arrays: one section of spots, bins or cells as a `SliceGrid`, checked once and for all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _logging, _validators
from c2sti._backed import Expression, Stored, as_csr, blocks
from c2sti._types import FloatArray
from c2sti.io._annotations import Annotations, read_annotations
from c2sti.io._histology import Picture
from c2sti.io._places import Layout, array_of, layout_of, place_of, z_of
from c2sti.io._rows import obs_column
from c2sti.io._window import window_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

TARGET_SUM = 1e4  # counts a spot are scaled to this before log1p
COUNTS = "counts"  # layer that holds counts beside a normalised X, by scanpy's convention
SAME_SIZE = 0.01  # by which library sizes told by the values of one spot may differ: their rounding
LARGE = 2**22  # entries of a backed or lazy matrix from which it is left where it is and read in blocks


@dataclass(frozen=True)
class SliceGrid:
    """One section as read: points with sparse expression, where they lie, and the image under them.

    Parameters
    ----------
    name
        What errors call it, e.g. ``"slice_a"``.
    xy
        (n, 2) coordinates of spots, bins or cells, unit of the frame.
    values
        (n, N) CSR float32: raw counts, or already normalised expression. What reads them in blocks, where the container
        leaves them on disk and they are many.
    counts
        Whether `values` are raw counts.
    library
        (n,) library size: counts of a spot over all genes of the section; of sections that were cut to the genes that
        they share, over these.
    genes
        (N,) names.
    layout
        ``"square"`` and ``"hex"`` arrays, irregular ``"cells"``, or irregular points that are too few to be gathered:
        ``"scattered"``, such as spots that were warped into an atlas.
    pitch
        Distance between neighbouring spots; for cells the side of a bin that holds about four of them, for scattered
        points of one that holds one.
    z
        z of the section where the container tells it, else None.
    image
        H&E in the same frame, or None.
    annotations
        Labels and numbers of the points, those that were asked for.
    no_image
        Why there is an H&E that is not used; empty where it is used, or where there is none.
    var
        (N, columns) what the container says of its genes; index `genes`.
    obs
        (n, columns) what the container says of these points; index: their names.
    window
        (k, 3) half-planes of the capture window, see :func:`c2sti.io.window_of`; None where it is not known.
    log1p
        ``uns["log1p"]`` of the container, where it has one.
    beside
        (n, N) counts that the container holds in ``layers["counts"]`` beside normalised `values`, else None. `library`
        is then what the values were normalised by, as far as that can be told.
    uncut
        The section with all of its genes, where some were left out; what it is recognised by.
    """

    name: str
    xy: FloatArray
    values: Expression
    counts: bool
    library: FloatArray
    genes: pd.Index
    layout: Layout
    pitch: float
    z: float | None = None
    image: Picture | None = None
    annotations: Annotations = field(default_factory=Annotations)
    no_image: str = ""
    var: pd.DataFrame = field(default_factory=pd.DataFrame)
    obs: pd.DataFrame = field(default_factory=pd.DataFrame)
    window: FloatArray | None = None
    log1p: Mapping[str, Any] | None = None
    beside: Expression | None = None
    uncut: SliceGrid | None = None

    @property
    def names(self) -> pd.Index:
        """(n,) names of the points; their numbers where they have none."""
        return self.obs.index if len(self.obs) == len(self.xy) else pd.RangeIndex(len(self.xy)).astype(str)

    @property
    def reach(self) -> float:
        """How far from the nearest spot a point may lie and still be tissue.

        Inside a square array the farthest point is 0.71 pitch away, inside a hexagonal one 0.58; cells leave larger
        gaps.
        """
        return self.pitch * (0.75 if self.layout in ("square", "hex") else 1.0)

    def covers(self, points: FloatArray) -> NDArray[np.bool_]:
        """(M,) whether each point lies in this section's tissue."""
        return KDTree(self.xy).query(points, distance_upper_bound=self.reach)[0] <= self.reach

    def fingerprint(self) -> str:
        """Hash of coordinates, expression and gene names, to recognise an input by."""
        entries, columns = hashlib.sha256(), hashlib.sha256()
        lengths = []
        for _, block in blocks(self.values):
            entries.update(block.data.astype(np.float32).tobytes())
            columns.update(block.indices.astype(np.int64).tobytes())
            lengths.append(np.diff(block.indptr).astype(np.int64))
        digest = hashlib.sha256(self.xy.astype(np.float64).tobytes())
        digest.update(entries.digest() + columns.digest())
        digest.update(np.concatenate(lengths).tobytes())
        digest.update("\n".join(self.genes).encode())
        return digest.hexdigest()


def read_slice(
    slice_: AnnData | SpatialData,
    *,
    name: str = "slice",
    layer: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    table_key: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    library_key: str | None = None,
    library: str | None = None,
    obs_keys: str | Sequence[str] = (),
    obsm_keys: str | Sequence[str] = (),
    window: Any = None,
    measured: bool = False,
) -> SliceGrid:
    """Read one section from its container.

    Rows that ``obs["in_tissue"]`` says lie outside of the tissue are left out.

    Parameters
    ----------
    slice_
        AnnData with coordinates in ``obsm[spatial_key]``, or SpatialData with a table that annotates its spots.
    name
        What errors call it.
    layer
        Layer with the expression; `X` by default.
    spatial_key
        Key of the coordinates in ``obsm`` and, by squidpy's convention, of the images in ``uns``.
    table_key
        Table of a SpatialData; may be left out where there is one.
    image_key
        Library of ``uns[spatial_key]``, or image of a SpatialData; may be left out where there is one.
    coordinate_system
        Of a SpatialData, in which the spots are wanted; "global", or where there is none that of the spots.
    library_key, library
        Column of `obs` that names the section of each row, and the name of this one; None where all rows are.
    obs_keys, obsm_keys
        Columns of `obs` and tables of `obsm` to bring along: labels or numbers.
    window
        Capture window: (x0, y0, x1, y1), or (k, 2) corners, in the frame. Told from the section by default.
    measured
        Whether to refuse rows that say of themselves that they were computed.

    Raises
    ------
    KeyError
        A key is not there; the message lists those that are.
    ValueError
        Coordinates, expression or gene names cannot be used; the message says what was found and what to do.
    """
    place = place_of(slice_, name, spatial_key, table_key, image_key, coordinate_system, library_key, library)
    adata, rows, xy = place.adata, place.rows, place.xy[:, :2]
    if measured:
        _check_measured(adata, rows, name)
    if adata.n_vars == 0:
        raise ValueError(f"{name} has no genes; give a section with expression")
    _check_expression(adata, name, layer)
    values, where = _expression(adata, rows, name, layer), _where(name, layer)
    counts, library_sizes = _survey(values, where, _other_expression(adata, layer))
    beside = None
    if not counts and layer is None and COUNTS in layer_names(adata):
        beside, library_sizes = _counts_beside(adata, rows, name, values, library_sizes)
    genes = _gene_names(adata, name)
    layout, pitch = layout_of(xy, name)
    annotations = read_annotations(
        adata,
        rows,
        name,
        list(dict.fromkeys(_validators.names(obs_keys, "obs_keys"))),
        list(dict.fromkeys(_validators.names(obsm_keys, "obsm_keys"))),
    )
    return SliceGrid(
        name,
        xy,
        values,
        counts,
        library_sizes,
        genes,
        layout,
        pitch,
        z_of(adata, rows, place.xy, name),
        place.image,
        annotations,
        place.no_image,
        _var(adata, genes),
        _obs(adata, rows),
        window_of(xy, pitch, layout, all_xy=place.all_xy, array=array_of(adata, rows), given=window, name=name),
        adata.uns.get("log1p"),
        beside,
    )


def _check_measured(adata: AnnData, rows: NDArray[np.intp], name: str) -> None:
    """Refuse what c2sti computed: what lies between two sections of which one was computed is not known."""
    made = np.asarray(obs_column(adata, _keys.INSERTED).iloc[rows] if _keys.INSERTED in adata.obs else ())
    if made.dtype == bool and made.any():
        raise ValueError(
            f"{int(made.sum())} of {len(made)} rows of {name} were interpolated (obs[{_keys.INSERTED!r}]); "
            "give the measured section, or, if you mean this one, a copy without that column"
        )


def _var(adata: AnnData, genes: pd.Index) -> pd.DataFrame:
    """What is said of the genes, in memory, under their names."""
    var = adata.var if isinstance(adata.var, pd.DataFrame) else adata.var.to_memory()
    return var.set_axis(genes, axis=0)


def _obs(adata: AnnData, rows: NDArray[np.intp]) -> pd.DataFrame:
    """What is said of some rows, under their names; of a table that is left on disk, the names alone."""
    names = pd.Index(adata.obs_names[rows].astype(str))
    return adata.obs.iloc[rows] if isinstance(adata.obs, pd.DataFrame) else pd.DataFrame(index=names)


def shared_var(grids: Sequence[SliceGrid]) -> pd.DataFrame:
    """(N, columns) what all sections, of the same genes, say alike of them; index: their names."""
    first, *others = (g.var.reindex(grids[0].genes) for g in grids)
    alike = [
        column
        for column in first.columns
        if all(column in other and _equal(first[column], other[column]) for other in others)
    ]
    return first[alike].set_axis(grids[0].genes.copy(), axis=0)


def _equal(one: pd.Series, other: pd.Series) -> bool:
    """Whether two columns hold the same, whatever they are kept as."""
    return one.astype(object).equals(other.astype(object))


def check_layer(adata: AnnData, name: str, layer: str | None) -> None:
    """Refuse a layer that is not there.

    Raises
    ------
    KeyError
        It is not; the message lists those that are.
    """
    if layer is not None and layer not in layer_names(adata):
        raise KeyError(f"{name} has no layer {layer!r}; its layers are {layer_names(adata)}")


def layer_names(adata: AnnData) -> list[str]:
    """Sorted names of the layers; from 0.13 on anndata lists X among them, as None."""
    return sorted(name for name in adata.layers if name is not None)


def _where(name: str, layer: str | None) -> str:
    return f"X of {name}" if layer is None else f"layer {layer!r} of {name}"


def _check_expression(adata: AnnData, name: str, layer: str | None) -> None:
    """Refuse expression that is not there, or is none, before any of it is read."""
    check_layer(adata, name, layer)
    if adata.isbacked and not Path(adata.filename).is_file():
        raise FileNotFoundError(f"{name} is read from {adata.filename}, which is gone; read it again from where it is")
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        raise ValueError(f"{_where(name, layer)} is empty; put expression there, or name a layer with layer=")
    if not _validators.is_real(x.dtype):
        raise TypeError(
            f"{_where(name, layer)} holds {x.dtype}; counts or log-normalised expression are needed: .astype('float32')"
        )


def _expression(adata: AnnData, rows: NDArray[np.intp], name: str, layer: str | None) -> Expression:
    """Values as CSR; what a backed file or a lazy array holds stays there where it is large."""
    x = adata.X if layer is None else adata.layers[layer]
    every = len(rows) == adata.n_obs
    if not isinstance(x, np.ndarray) and not sp.issparse(x) and _entries(x) > LARGE:
        if getattr(x, "format", "csr") == "csr":
            return Stored(x, _entries(x), None if every else rows, name=_where(name, layer))
        _logging.warning(
            f"{_where(name, layer)} is stored by genes (CSC) and has to be read whole; CSR is read in blocks"
        )
    if hasattr(x, "compute"):  # dask
        x = x.compute()
    elif hasattr(x, "to_memory"):  # sparse matrix of a backed AnnData
        x = x.to_memory()
    whole = as_csr(x if sp.issparse(x) else x[:], _where(name, layer))
    return whole if every else whole[rows]


def _entries(x: Any) -> int:
    """Entries of a stored matrix: those that are not zero where it tells, else a twentieth, as in counts of tissue."""
    group = getattr(x, "group", None)  # of a sparse dataset
    return int(group["data"].shape[0]) if group is not None else int(np.prod(x.shape)) // 20


def _counts_beside(
    adata: AnnData, rows: NDArray[np.intp], name: str, values: Expression, library: FloatArray
) -> tuple[Expression | None, FloatArray]:
    """The counts of ``layers["counts"]``, and the library sizes by which `values` were normalised.

    Where values are log1p of counts scaled to 1e4 the sizes follow from both; else they are the sums of the counts.
    """
    where = _where(name, COUNTS)
    try:
        _check_expression(adata, name, COUNTS)
        found = _expression(adata, rows, name, COUNTS)
        counts, sums = _survey(found, where, "")
    except (TypeError, ValueError) as fault:  # X is what is asked for, and can be used without them
        _logging.warning(f"counts beside the expression of {name} are not used: {fault}")
        return None, library
    if not counts:
        _logging.warning(f"{where} holds no whole numbers and is not used")
        return None, library
    _logging.info(f"expression of {name} is its X; counts are those of layers[{COUNTS!r}]")
    told = np.concatenate([_sizes(x, y) for (_, x), (_, y) in zip(blocks(values), blocks(found), strict=False)])
    return found, told if len(told) == len(sums) and np.isfinite(told[sums > 0]).all() else sums


def _sizes(values: sp.csr_array, counts: sp.csr_array) -> FloatArray:
    """(n,) library sizes by which counts become these values, log1p of counts scaled to 1e4; NaN where they do not."""
    same = np.array_equal(values.indptr, counts.indptr) and np.array_equal(values.indices, counts.indices)
    if values.shape != counts.shape or not same:
        return np.full(values.shape[0], np.nan)
    sizes = TARGET_SUM * counts.data / np.expm1(values.data.astype(np.float64))
    filled = np.flatnonzero(np.diff(counts.indptr))
    found = np.zeros(values.shape[0])
    low, high = (of.reduceat(sizes, counts.indptr[filled]) for of in (np.minimum, np.maximum))
    found[filled] = np.where(high < low * (1 + SAME_SIZE), np.sqrt(low * high), np.nan)
    return found


def _other_expression(adata: AnnData, layer: str | None) -> str:
    """Where else expression lies, as the end of an error."""
    layers = [name for name in layer_names(adata) if name != layer]
    found = [f"layer={layers[0]!r} (its layers are {layers})"] if layers else []
    if adata.raw is not None:
        found.append("its .raw: adata.raw.to_adata()")
    return f": give {', or '.join(found)}" if found else ": name its layer with layer="


def _survey(values: Expression, where: str, elsewhere: str) -> tuple[bool, FloatArray]:
    """Whether the values are counts, and what each spot has of them; refuse what cannot be used."""
    counts, library = True, []
    for _, block in blocks(values):
        if not np.isfinite(block.data).all():
            raise ValueError(f"{where} holds NaN or infinite values; set them to 0 or drop their genes")
        if block.nnz and block.data.min() < 0:
            raise ValueError(
                f"{where} holds negative values (least: {block.data.min():.3g}); c2sti needs counts or log-normalised "
                f"expression, not scaled or centred data{elsewhere}"
            )
        counts = counts and is_counts(block)
        library.append(np.asarray(block.sum(axis=1, dtype=np.float64)).ravel())
    spots = np.concatenate(library)
    if not (spots > 0).any():
        raise ValueError(f"{where} is zero everywhere; expression is needed{elsewhere}")
    return counts, spots if counts else np.ones(len(spots))


def _gene_names(adata: AnnData, name: str) -> pd.Index:
    if adata.var_names.has_duplicates:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"{name} has {len(twice)} gene names more than once (first: {twice[0]!r}); make them unique first: "
            "adata.var_names_make_unique()"
        )
    return adata.var_names.astype(str)


def is_counts(values: sp.csr_array) -> bool:
    """Whether all values are whole numbers: raw counts rather than normalised expression."""
    head = values.data[:10_000]
    return bool((head == np.rint(head)).all() and (values.data == np.rint(values.data)).all())


def log_normalise(counts: Expression, library: FloatArray) -> Expression:
    """Counts scaled to 1e4 a spot, then log1p; a spot without counts stays zero. CSR float32 in and out.

    Of counts on disk nothing is read yet.
    """
    factor = TARGET_SUM / np.maximum(library, 1)
    if isinstance(counts, Stored):
        return counts.log1p(factor)
    data = np.log1p(counts.data * np.repeat(factor, np.diff(counts.indptr))).astype(np.float32)
    return sp.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)
