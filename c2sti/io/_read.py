"""Containers → arrays: one section of spots, bins or cells as a `SliceGrid`, checked once and for all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _logging, _validators
from c2sti._backed import Expression, Stored, as_csr, blocks
from c2sti._types import TARGET_SUM, FloatArray
from c2sti.io._annotations import Annotations, read_annotations
from c2sti.io._histology import HEImage, UnusableImage
from c2sti.io._libraries import first_usable, section_library, warn_caller
from c2sti.io._places import (
    LEAST_SPOTS,
    Layout,
    array_of,
    coordinates,
    is_spatialdata,
    layout_of,
    library_rows,
    obs_column,
    tissue_rows,
    z_of,
)
from c2sti.io._spatialdata import read_slide, read_table
from c2sti.io._window import window_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

Container: TypeAlias = "AnnData | SpatialData"
COUNTS = "counts"  # layer that holds counts beside a normalised X, by scanpy's convention
SAME_SIZE = 0.01  # by which library sizes that follow from the values of one spot may differ: their rounding
LARGE = 2**22  # entries of a backed or lazy matrix from which it is left where it is and read in blocks


@dataclass(frozen=True)
class SliceGrid:
    """One section as read: n points with sparse expression of N genes, where they lie, and the H&E under them."""

    name: str  # what errors call it, e.g. "slice_a"
    xy: FloatArray  # (n, 2) coordinates of spots, bins or cells, unit of the frame
    values: Expression  # (n, N) CSR float32: raw counts, or already normalised expression
    counts: bool  # whether `values` are raw counts
    library: FloatArray  # (n,) library size: counts of a spot over all genes; after `on_shared_genes`, over these
    genes: pd.Index  # (N,) names
    layout: (
        Layout  # "square" or "hex" array, irregular "cells", or "scattered": too few irregular points to be gathered
    )
    pitch: float  # distance between neighbouring spots; side of a bin that holds four cells or one scattered point
    z: float | None = None  # where the container has it
    image: HEImage | None = None  # H&E in the same frame
    annotations: Annotations = field(default_factory=Annotations)  # labels and numbers of the points, as asked for
    no_image: str = ""  # why there is H&E that is not used
    var: pd.DataFrame = field(default_factory=pd.DataFrame)  # columns of the container; index: `genes`
    obs: pd.DataFrame = field(default_factory=pd.DataFrame)  # the same of the points; index: their names
    window: FloatArray | None = None  # (k, 3) half-planes of the capture window, where it is known
    log1p: Mapping[str, Any] | None = None  # `uns["log1p"]` of the container
    beside: Expression | None = None  # (n, N) counts in `layers["counts"]` beside normalised `values`
    uncut: SliceGrid | None = None  # the section with all of its genes, where some were left out

    @property
    def names(self) -> pd.Index:
        """(n,) names of the points; their numbers where they have none."""
        return self.obs.index if len(self.obs) == len(self.xy) else pd.RangeIndex(len(self.xy)).astype(str)

    def covers(self, points: FloatArray) -> NDArray[np.bool_]:
        """(M,) whether each point lies in this section's tissue."""
        # Inside a square array the farthest point is 0.71 pitch away from a spot, inside a hexagonal one 0.58.
        reach = self.pitch * (0.75 if self.layout in ("square", "hex") else 1.0)
        return KDTree(self.xy).query(points, distance_upper_bound=reach)[0] <= reach

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


@dataclass(frozen=True, eq=False)  # containers cannot be compared
class Source:
    """A section that has not been read: its container, its name in messages and results, and where it is kept.

    `place` is that of the container among those that were given. The keys are those of :func:`c2sti.tl.interpolate`;
    `library` is the section's name in the column `library_key` of `obs`, None where it has all rows.
    """

    container: Container
    name: str = "slice"
    place: int = 0
    library_key: str | None = None
    library: str | None = None
    layer: str | None = None
    spatial_key: str = _keys.SPATIAL
    table_key: str | None = None
    image_key: str | None = None
    coordinate_system: str | None = None

    @property
    def has_aligned(self) -> bool:
        """Whether :func:`c2sti.pp.align` has given it common coordinates."""
        if is_spatialdata(self.container):
            return _keys.ALIGNED in self.container.coordinate_systems
        return isinstance(self.container, AnnData) and _keys.ALIGNED in self.container.obsm

    def parameters(self) -> dict[str, str | None]:
        """The keys that provenance records."""
        frame = "coordinate_system" if is_spatialdata(self.container) else "spatial_key"
        return {name: getattr(self, name) for name in ("library_key", "layer", frame)}

    def read(self, **wanted: Any) -> SliceGrid:
        """The section; further arguments as of :func:`c2sti.io.read_slice`."""
        return read_slice(**vars(self), **wanted)


def read_slice(
    container: Container,
    *,
    obs_keys: str | Sequence[str] = (),
    obsm_keys: str | Sequence[str] = (),
    window: Any = None,
    measured: bool = False,
    **keys: Any,
) -> SliceGrid:
    """Read one section without the rows that ``obs["in_tissue"]`` puts outside of the tissue.

    `keys` are those of :class:`Source`. `window` is (x0, y0, x1, y1), or (k, 2) corners; by default it is found from
    the section. `measured` refuses interpolated rows. KeyError where a key is not there, whose message lists those that
    are; ValueError where coordinates, expression or gene names cannot be used.
    """
    source = Source(container, **keys)
    adata, rows, xyz, all_xy, image, no_image = _place_of(source)
    xy, name, layer = xyz[:, :2], source.name, source.layer
    if measured and _keys.INSERTED in adata.obs:
        interpolated = np.asarray(obs_column(adata, _keys.INSERTED).iloc[rows])
        if interpolated.dtype == bool and interpolated.any():
            raise ValueError(
                f"{int(interpolated.sum())} of {len(rows)} rows of {name} were interpolated (obs[{_keys.INSERTED!r}]); "
                "give the measured section, or, if you mean this one, a copy without that column"
            )
    if adata.n_vars == 0:
        raise ValueError(f"{name} has no genes; give a section with expression")
    values = _expression(adata, rows, name, layer)
    counts, library_sizes = _survey(values, _where(name, layer), _other_expression(adata, layer))
    beside = None
    if not counts and layer is None and COUNTS in _layer_names(adata):
        beside, library_sizes = _counts_beside(adata, rows, name, values, library_sizes)
    genes = _gene_names(adata, name)
    layout, pitch = layout_of(xy, name)
    columns, tables = (
        list(dict.fromkeys(_validators.names(keys, argument)))
        for keys, argument in ((obs_keys, "obs_keys"), (obsm_keys, "obsm_keys"))
    )
    in_memory = isinstance(adata.obs, pd.DataFrame)  # else a table that is left on disk, of which names are read alone
    return SliceGrid(
        name,
        xy,
        values,
        counts,
        library_sizes,
        genes,
        layout,
        pitch,
        z_of(adata, rows, xyz, name),
        image,
        read_annotations(adata, rows, name, columns, tables),
        no_image,
        (adata.var if isinstance(adata.var, pd.DataFrame) else adata.var.to_memory()).set_axis(genes, axis=0),
        adata.obs.iloc[rows] if in_memory else pd.DataFrame(index=pd.Index(adata.obs_names[rows].astype(str))),
        window_of(xy, pitch, layout, all_xy=all_xy, array=array_of(adata, rows), given=window, name=name),
        adata.uns.get("log1p"),
        beside,
    )


def read_places(
    slice_: AnnData, *, name: str, spatial_key: str = _keys.SPATIAL
) -> tuple[NDArray[np.intp], FloatArray, float, HEImage | None]:
    """Of a section in AnnData the rows of its spots, their (n, 2) coordinates, the pitch, and the H&E under them."""
    _, rows, xyz, _, image, _ = _place_of(Source(slice_, name, spatial_key=spatial_key))
    return rows, xyz[:, :2], layout_of(xyz[:, :2], name)[1], image


def shared_var(grids: Sequence[SliceGrid]) -> pd.DataFrame:
    """(N, columns) what all sections, of the same genes, say alike of them; index: their names."""
    first, *others = (g.var.reindex(grids[0].genes).astype(object) for g in grids)  # whatever columns are kept as
    alike = [key for key in first if all(key in other and first[key].equals(other[key]) for other in others)]
    return grids[0].var.reindex(grids[0].genes)[alike].set_axis(grids[0].genes.copy(), axis=0)


def check_layer(adata: AnnData, name: str, layer: str | None) -> None:
    """Refuse a layer that is not there: KeyError, whose message lists those that are."""
    if layer is not None and layer not in _layer_names(adata):
        raise KeyError(f"{name} has no layer {layer!r}; its layers are {_layer_names(adata)}")


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


def _place_of(
    source: Source,
) -> tuple[AnnData, NDArray[np.intp], FloatArray, FloatArray | None, HEImage | None, str]:
    """Find a section: its AnnData, rows in tissue, their (n, 2 or 3) coordinates, and its H&E as of `SliceGrid`.

    Before the H&E come the (m, 2) coordinates of all of its rows, where some lie outside of the tissue; else None.
    """
    container, name, key = source.container, source.name, source.spatial_key
    if is_spatialdata(container):
        adata, every, all_xy, frame, region = read_table(source, container)
        where, fix = f"the region of {name} in {frame!r}", ""
    elif isinstance(container, AnnData):
        adata, every = container, library_rows(container, source.library_key, source.library)
        all_xy = coordinates(adata, name, _validators.text(key, "spatial_key"))[every]
        where, fix = f"obsm[{key!r}] of {name}", f": adata[np.isfinite(adata.obsm[{key!r}]).all(1)]"
    else:
        raise TypeError(f"{name} is a {type(container).__name__}; an AnnData or SpatialData is needed")
    rows = tissue_rows(adata, every, name)
    kept = np.isin(every, rows)
    xy = all_xy[kept]
    bad = ~np.isfinite(xy[:, :2]).all(axis=1)
    if bad.any():
        first = adata.obs_names[rows][bad][0]
        raise ValueError(f"{where} is not finite for {bad.sum()} of {len(xy)} spots (first: {first!r}); drop them{fix}")
    if len(xy) < LEAST_SPOTS:
        raise ValueError(f"{name} has {len(xy)} spots; at least {LEAST_SPOTS} are needed to tell tissue from noise")
    image, no_image = None, ""
    try:
        if is_spatialdata(container):
            image = read_slide(source, container, xy, frame, region)
        else:
            held = section_library(source, adata, rows)
            image = None if held is None else first_usable(held, xy[:, :2])
    except UnusableImage as fault:
        if source.image_key is not None:
            raise UnusableImage(f"the image of {name} cannot be used: {fault}") from fault
        warn_caller(f"the image of {name} is not used: {fault}")
        no_image = str(fault)
    return adata, rows, xy, None if kept.all() else all_xy[:, :2], image, no_image


def _layer_names(adata: AnnData) -> list[str]:
    """Sorted names of the layers; from 0.13 on anndata lists X among them, as None."""
    return sorted(name for name in adata.layers if name is not None)


def _where(name: str, layer: str | None) -> str:
    return f"X of {name}" if layer is None else f"layer {layer!r} of {name}"


def _other_expression(adata: AnnData, layer: str | None) -> str:
    """Where else expression lies, as the end of an error."""
    layers = [name for name in _layer_names(adata) if name != layer]
    found = [f"layer={layers[0]!r} (its layers are {layers})"] if layers else []
    if adata.raw is not None:
        found.append("its .raw: adata.raw.to_adata()")
    return f": give {', or '.join(found)}" if found else ": name its layer with layer="


def _expression(adata: AnnData, rows: NDArray[np.intp], name: str, layer: str | None) -> Expression:
    """Values as CSR; what a backed file or a lazy array holds stays there where it is large."""
    check_layer(adata, name, layer)
    if adata.isbacked and not Path(adata.filename).is_file():
        raise FileNotFoundError(f"{name} is read from {adata.filename}, which is gone; read it again from where it is")
    x, where = adata.X if layer is None else adata.layers[layer], _where(name, layer)
    if x is None:
        raise ValueError(f"{where} is empty; put expression there, or name a layer with layer=")
    if not _validators.is_real(x.dtype):
        raise TypeError(f"{where} holds {x.dtype}; counts or log-normalised expression are needed: .astype('float32')")
    every = len(rows) == adata.n_obs
    if not isinstance(x, np.ndarray) and not sp.issparse(x) and _entries(x) > LARGE:
        if getattr(x, "format", "csr") == "csr":
            return Stored(x, _entries(x), None if every else rows, name=where)
        _logging.warning(f"{where} is stored by genes (CSC) and has to be read whole; CSR is read in blocks")
    if hasattr(x, "compute"):  # dask
        x = x.compute()
    elif hasattr(x, "to_memory"):  # sparse matrix of a backed AnnData
        x = x.to_memory()
    whole = as_csr(x if sp.issparse(x) else x[:], where)
    return whole if every else whole[rows]


def _entries(x: Any) -> int:
    """Entries that are not zero, of a sparse dataset; of others a twentieth of the places, as in counts of tissue."""
    group = getattr(x, "group", None)  # of a sparse dataset
    return int(group["data"].shape[0]) if group is not None else int(np.prod(x.shape)) // 20


def _survey(values: Expression, where: str, elsewhere: str) -> tuple[bool, FloatArray]:
    """Whether the values are counts, and their sum in each spot (1 where they are none); refuse what cannot be used."""
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


def _counts_beside(
    adata: AnnData, rows: NDArray[np.intp], name: str, values: Expression, library: FloatArray
) -> tuple[Expression | None, FloatArray]:
    """The counts of ``layers["counts"]``, and the library sizes by which `values` were normalised.

    Where values are log1p of counts scaled to 1e4 the sizes follow from both; else they are the sums of the counts.
    """
    try:
        found = _expression(adata, rows, name, COUNTS)
        counts, sums = _survey(found, _where(name, COUNTS), "")
    except (TypeError, ValueError) as fault:  # X is what is asked for, and can be used without them
        _logging.warning(f"counts beside the expression of {name} are not used: {fault}")
        return None, library
    if not counts:
        _logging.warning(f"{_where(name, COUNTS)} holds no whole numbers and is not used")
        return None, library
    _logging.info(f"expression of {name} is its X; counts are those of layers[{COUNTS!r}]")
    sizes = np.concatenate([_sizes(x, y) for (_, x), (_, y) in zip(blocks(values), blocks(found), strict=False)])
    return found, sizes if len(sizes) == len(sums) and np.isfinite(sizes[sums > 0]).all() else sums


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


def _gene_names(adata: AnnData, name: str) -> pd.Index:
    if adata.var_names.has_duplicates:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"{name} has {len(twice)} gene names more than once (first: {twice[0]!r}); make them unique first: "
            "adata.var_names_make_unique()"
        )
    return adata.var_names.astype(str)
