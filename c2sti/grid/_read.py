"""Containers → arrays: one section of spots, bins or cells as a `SliceGrid`, checked once and for all."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _check, _keys, _log
from c2sti._stored import Expression, Stored, as_csr, blocks
from c2sti._types import FloatArray
from c2sti.grid._annotations import Annotations, read_annotations
from c2sti.grid._histology import Picture, read_image
from c2sti.grid._spatialdata import read_slide, read_table

if TYPE_CHECKING:
    from spatialdata import SpatialData

TARGET_SUM = 1e4  # counts a spot are scaled to this before log1p
LEAST_SPOTS = 20
NEIGHBOURS = 6  # of a spot, by which the layout is told
LARGE = 2**24  # entries of a backed or lazy matrix from which it is left where it is and read in blocks
CELLS_PER_BIN = 4
LEAST_CELLS = 1000  # irregular points fewer than this are too few to be gathered into bins

Layout = Literal["square", "hex", "cells", "scattered"]


@dataclass(frozen=True)
class SliceGrid:
    """One section as read: points with sparse expression, where they lie, and the picture under them.

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
        (n,) counts of a spot over all genes that the container has, whatever genes are kept later.
    genes
        (N,) names.
    layout
        ``"square"`` and ``"hex"`` arrays, irregular ``"cells"``, or irregular points that are too few to be gathered:
        ``"scattered"``, such as spots that were warped into an atlas.
    pitch
        Distance between neighbouring spots; for cells the side of a bin that holds about four of them, for scattered
        points of one that holds one.
    z
        Depth of the section where the container tells it, else None.
    image
        H&E in the same frame, or None.
    annotations
        Labels and numbers of the points, those that were asked for.
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


def is_spatialdata(slice_: Any) -> TypeGuard[SpatialData]:
    """Whether a section is a SpatialData, without importing that library: who holds one has imported it."""
    return "spatialdata" in sys.modules and isinstance(slice_, sys.modules["spatialdata"].SpatialData)


def read_slice(
    slice_: AnnData | SpatialData,
    *,
    name: str = "slice",
    layer: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    table_key: str | None = None,
    image_key: str | None = None,
    coordinate_system: str = "global",
    obs_keys: str | Sequence[str] = (),
    measured: bool = False,
) -> SliceGrid:
    """Read one section from its container.

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
        Of a SpatialData, in which the spots are wanted. Where there is no "global", that in which they are stored.
    obs_keys
        Columns of `obs` to bring along: labels or numbers.
    measured
        Whether to refuse rows that say of themselves that they were computed.

    Raises
    ------
    KeyError
        A key is not there; the message lists those that are.
    ValueError
        Coordinates, expression or gene names cannot be used; the message says what was found and what to do.
    """
    image: Picture | None
    if is_spatialdata(slice_):
        adata, xy, frame = read_table(slice_, name, table_key, _check.text(coordinate_system, "coordinate_system"))
        _check_points(xy, adata, f"the region of {name} in {frame!r}", name)
        z, image = _depth(adata, xy, name), read_slide(slice_, xy, name, frame, image_key)
    elif isinstance(slice_, AnnData):
        adata, xy = slice_, _coordinates(slice_, name, _check.text(spatial_key, "spatial_key"))
        z, image = _depth(adata, xy, name), read_image(slice_, xy[:, :2], name, spatial_key, image_key)
    else:
        raise TypeError(f"{name} is a {type(slice_).__name__}; an AnnData or SpatialData is needed")
    if measured:
        _check_measured(adata, name)
    if adata.n_vars == 0:
        raise ValueError(f"{name} has no genes; give a section with expression")
    xy = xy[:, :2]
    _check_expression(adata, name, layer)
    values, where = _expression(adata, name, layer), _where(name, layer)
    counts, library = _survey(values, where)
    genes = _gene_names(adata, name)
    layout, pitch = _layout(xy, name)
    annotations = read_annotations(adata, name, list(dict.fromkeys(_check.names(obs_keys, "obs_keys"))))
    return SliceGrid(name, xy, values, counts, library, genes, layout, pitch, z, image, annotations)


def _check_measured(adata: AnnData, name: str) -> None:
    """Refuse what was made by us: a section between two of which one was made is not known to be between anything."""
    made = np.asarray(adata.obs[_keys.INSERTED] if _keys.INSERTED in adata.obs else ())
    if made.dtype == bool and made.any():
        raise ValueError(
            f"{int(made.sum())} of {len(made)} rows of {name} were inserted, not measured (obs[{_keys.INSERTED!r}]); "
            "give the measured section, or, if you mean this one, a copy without that column"
        )


def _coordinates(adata: AnnData, name: str, spatial_key: str) -> FloatArray:
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"{name} has no coordinates in obsm[{spatial_key!r}]; it has {sorted(adata.obsm)}. Put an (n, 2) array "
            "there, or name another one with spatial_key="
        )
    xy = _check.reals(adata.obsm[spatial_key], f"obsm[{spatial_key!r}] of {name}")
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"obsm[{spatial_key!r}] of {name} has shape {xy.shape}; columns x and y are needed")
    _check_points(
        xy,
        adata,
        f"obsm[{spatial_key!r}] of {name}",
        name,
        f": adata[np.isfinite(adata.obsm[{spatial_key!r}]).all(1)]",
    )
    return xy


def _check_points(xy: FloatArray, adata: AnnData, where: str, name: str, mend: str = "") -> None:
    bad = ~np.isfinite(xy[:, :2]).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{where} is not finite for {bad.sum()} of {len(xy)} spots (first: {adata.obs_names[bad][0]!r}); drop "
            f"them{mend}"
        )
    if len(xy) < LEAST_SPOTS:
        raise ValueError(f"{name} has {len(xy)} spots; at least {LEAST_SPOTS} are needed to tell tissue from noise")


def _depth(adata: AnnData, xy: FloatArray, name: str) -> float | None:
    for key in (_keys.Z_UM, _keys.Z):
        if key in adata.obs:
            depths = np.unique(_check.reals(adata.obs[key], f"obs[{key!r}] of {name}"))  # of pandas, or lazy
            if len(depths) > 1:
                raise ValueError(
                    f"obs[{key!r}] of {name} holds {len(depths)} depths; a section has one: split it first"
                )
            return float(depths[0]) if np.isfinite(depths[0]) else None
    if xy.shape[1] > 2 and np.ptp(xy[:, 2]) == 0:
        return float(xy[0, 2])
    return None


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
    if not _check.is_real(x.dtype):
        raise TypeError(
            f"{_where(name, layer)} holds {x.dtype}; counts or log-normalised expression are needed: .astype('float32')"
        )


def _expression(adata: AnnData, name: str, layer: str | None) -> Expression:
    """Values as CSR; what a backed file or a lazy array holds stays there where it is large."""
    x = adata.X if layer is None else adata.layers[layer]
    if not isinstance(x, np.ndarray) and not sp.issparse(x) and _entries(x) > LARGE:
        if getattr(x, "format", "csr") == "csr":
            return Stored(x, _entries(x), name=_where(name, layer))
        _log.warning(f"{_where(name, layer)} is stored by genes (CSC) and has to be read whole; CSR is read in blocks")
    if hasattr(x, "compute"):  # dask
        x = x.compute()
    elif hasattr(x, "to_memory"):  # sparse matrix of a backed AnnData
        x = x.to_memory()
    return as_csr(x if sp.issparse(x) else x[:], _where(name, layer))


def _entries(x: Any) -> int:
    """Entries of a stored matrix: those that are not zero where it tells, else a twentieth, as in counts of tissue."""
    group = getattr(x, "group", None)  # of a sparse dataset
    return int(group["data"].shape[0]) if group is not None else int(np.prod(x.shape)) // 20


def _survey(values: Expression, where: str) -> tuple[bool, FloatArray]:
    """Whether the values are counts, and what each spot has of them; refuse what cannot be used."""
    counts, library = True, []
    for _, block in blocks(values):
        if not np.isfinite(block.data).all():
            raise ValueError(f"{where} holds NaN or infinite values; set them to 0 or drop their genes")
        if block.nnz and block.data.min() < 0:
            raise ValueError(
                f"{where} holds negative values (least: {block.data.min():.3g}); c2sti needs counts or log-normalised "
                "expression, not scaled or centred data: name its layer with layer="
            )
        counts = counts and is_counts(block)
        library.append(np.asarray(block.sum(axis=1), dtype=np.float64).ravel())
    spots = np.concatenate(library)
    if not (spots > 0).any():
        raise ValueError(f"{where} is zero everywhere; name the layer that holds the expression with layer=")
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


def _layout(xy: FloatArray, name: str) -> tuple[Layout, float]:
    """Layout of the points and their pitch.

    In an array the distance to the nearest neighbour hardly varies (in random points its spread is half its mean), and
    four or six neighbours are about as near as the nearest. The pitch is the median over all of these: printed spots
    scatter, which makes the nearest of them lie 6 % too near on real arrays.
    """
    points = np.unique(xy, axis=0)
    if len(points) <= NEIGHBOURS:
        raise ValueError(
            f"the {len(xy)} spots of {name} lie at {len(points)} place(s); more than {NEIGHBOURS} are needed to tell "
            "how far apart spots are: correct the coordinates, or name others with spatial_key="
        )
    distance = KDTree(points).query(points, k=NEIGHBOURS + 1)[0][:, 1:]
    nearest = np.median(distance[:, 0])
    if np.std(np.minimum(distance[:, 0], 2 * nearest)) > 0.25 * nearest:
        # For random points the k-th neighbour lies within a circle that holds k others on average.
        density = 6 / (np.pi * np.median(distance[:, 5]) ** 2)
        if len(points) < LEAST_CELLS:
            return "scattered", float(np.sqrt(1 / density))
        return "cells", float(np.sqrt(CELLS_PER_BIN / density))
    layout: Layout = "hex" if np.median((distance < 1.25 * nearest).sum(axis=1)) > 4 else "square"
    return layout, float(np.median(distance[:, : 6 if layout == "hex" else 4]))
