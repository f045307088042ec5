"""Where a section lies: its rows of a container, their coordinates and layout, its z, and the H&E under it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray
from c2sti.io._histology import Picture, read_image
from c2sti.io._rows import as_numbers, library_rows, obs_column, tissue_rows
from c2sti.io._spatialdata import read_slide, read_table, region_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

LEAST_SPOTS = 20
MOST_PLANES, PLANE = 100, 4  # different values of z that are sections, not cells of a thick one; spots of each at least
NEIGHBOURS = 6  # of a spot, by which the layout is told
CELLS_PER_BIN = 4
LEAST_CELLS = 1000  # irregular points fewer than this are too few to be gathered into bins
AXES = (  # names of columns with x, y and z
    ("x", "y", "z"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("x_centroid", "y_centroid", "z_centroid"),
    ("center_x", "center_y", "center_z"),
    ("imagecol", "imagerow"),
)
ARRAY = ("array_row", "array_col")

Layout = Literal["square", "hex", "cells", "scattered"]


def is_spatialdata(slice_: Any) -> TypeGuard[SpatialData]:
    """Whether a section is a SpatialData, without importing that library: who holds one has imported it."""
    return "spatialdata" in sys.modules and isinstance(slice_, sys.modules["spatialdata"].SpatialData)


def check_writable(container: AnnData | SpatialData, name: str) -> None:
    """Refuse a container that nothing can be written into.

    Raises
    ------
    ValueError
        It is a view of a backed AnnData.
    """
    if isinstance(container, AnnData) and container.is_view and container.isbacked:
        raise ValueError(
            f"{name} is a view of a backed AnnData, into which nothing can be written; read it into memory first, "
            ".to_memory(), or take a copy, copy=True"
        )


def copied(container: AnnData | SpatialData) -> AnnData | SpatialData:
    """A copy that can be written into without touching the original; in memory where that is backed."""
    if is_spatialdata(container):
        from spatialdata import deepcopy  # noqa: PLC0415

        return deepcopy(container)
    return container.to_memory(copy=True) if container.isbacked else container.copy()


@dataclass(frozen=True)
class Place:
    """Where a section is kept and where it lies.

    Parameters
    ----------
    adata
        Its AnnData, or the table of its SpatialData.
    rows
        (n,) those of the section that lie in tissue.
    xy
        (n, 2) coordinates, or (n, 3).
    all_xy
        (m, 2) those of all of its rows, where some lie outside of the tissue; else None.
    image, no_image
        H&E under the spots; why there is one that is not used.
    """

    adata: AnnData
    rows: NDArray[np.intp]
    xy: FloatArray
    all_xy: FloatArray | None
    image: Picture | None
    no_image: str


def place_of(
    slice_: AnnData | SpatialData,
    name: str,
    spatial_key: str = _keys.SPATIAL,
    table_key: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    library_key: str | None = None,
    library: str | None = None,
) -> Place:
    """Find a section in its container; parameters and errors as in :func:`c2sti.io.read_slice`."""
    if is_spatialdata(slice_):
        adata, every, xy, frame = read_table(slice_, name, table_key, coordinate_system, library_key, library)
        where, fix = f"the region of {name} in {frame!r}", ""
    elif isinstance(slice_, AnnData):
        adata, frame = slice_, _validators.text(spatial_key, "spatial_key")
        every = np.arange(adata.n_obs)
        if library_key is not None and library is not None:
            every = library_rows(adata, library_key, library)
        xy = _coordinates(adata, name, spatial_key)[every]
        where = f"obsm[{spatial_key!r}] of {name}"
        fix = f": adata[np.isfinite(adata.obsm[{spatial_key!r}]).all(1)]"
    else:
        raise TypeError(f"{name} is a {type(slice_).__name__}; an AnnData or SpatialData is needed")
    rows = tissue_rows(adata, every, name)
    kept = np.isin(every, rows)
    all_xy, xy = xy, xy[kept]
    _check_points(xy, adata.obs_names[rows], where, name, fix)
    image: Picture | None
    if is_spatialdata(slice_):
        region = region_of(slice_, name, table_key, library_key, library)
        image, why = read_slide(slice_, xy, name, frame, image_key, library, region)
    else:
        image, why = read_image(adata, xy[:, :2], name, spatial_key, image_key, library, rows)
    return Place(adata, rows, xy, None if kept.all() else all_xy[:, :2], image, why)


def read_places(
    slice_: AnnData, *, name: str, spatial_key: str = _keys.SPATIAL
) -> tuple[NDArray[np.intp], FloatArray, float, Picture | None]:
    """Of a section in AnnData only where its spots lie: their rows, (n, 2) coordinates, pitch, and the H&E under them.

    Raises
    ------
    KeyError, ValueError
        Coordinates cannot be used, as in :func:`read_slice`.
    """
    place = place_of(slice_, name, spatial_key)
    return place.rows, place.xy[:, :2], layout_of(place.xy[:, :2], name)[1], place.image


def _coordinates(adata: AnnData, name: str, spatial_key: str) -> FloatArray:
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"{name} has no coordinates in obsm[{spatial_key!r}]; it has {sorted(adata.obsm)}. Put an (n, 2) array "
            "there, or name another one with spatial_key="
        )
    held = adata.obsm[spatial_key]
    xy = _validators.reals(named_axes(held), f"obsm[{spatial_key!r}] of {name}")
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"obsm[{spatial_key!r}] of {name} has shape {xy.shape}; columns x and y are needed")
    return xy


def named_axes(held: Any) -> Any:
    """Coordinates in the order x, y, z: columns of a DataFrame by their names, if these are axes."""
    if not isinstance(held, pd.DataFrame):
        return held
    by_name = {str(column).lower(): column for column in held.columns}
    for axes in AXES:
        if set(axes[:2]) <= set(by_name):
            return held[[by_name[axis] for axis in axes if axis in by_name]].to_numpy()
    return held.to_numpy()


def _check_points(xy: FloatArray, names: pd.Index, where: str, name: str, fix: str) -> None:
    bad = ~np.isfinite(xy[:, :2]).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{where} is not finite for {bad.sum()} of {len(xy)} spots (first: {names[bad][0]!r}); drop them{fix}"
        )
    if len(xy) < LEAST_SPOTS:
        raise ValueError(f"{name} has {len(xy)} spots; at least {LEAST_SPOTS} are needed to tell tissue from noise")


def z_of(adata: AnnData, rows: NDArray[np.intp], xy: FloatArray, name: str) -> float | None:
    """The z of a section: of its ``obs["z_um"]`` or ``obs["z"]``, or of a third coordinate that does not vary.

    Where each cell has a z of its own, as in thick sections, it is their median. Spots without one say nothing.

    Raises
    ------
    ValueError
        A few values, each of many spots: several sections in one object.
    """
    for key in (_keys.Z_UM, _keys.Z):
        if key in adata.obs:
            found = as_numbers(obs_column(adata, key).iloc[rows], f"obs[{key!r}] of {name}")
            found = found[np.isfinite(found)]
            values = np.unique(found)
            if 1 < len(values) <= min(MOST_PLANES, len(found) / PLANE):
                raise ValueError(
                    f"obs[{key!r}] of {name} holds {len(values)} values of z ({values[0]:g} to {values[-1]:g}), each "
                    "of many spots; a section has one: name the column that parts the sections with library_key="
                    f"{key!r}; if they are planes of one section, give their mean: adata.obs['z_um'] = …"
                )
            if len(values) > 1:
                _logging.warning(
                    f"obs[{key!r}] of {name} differs from spot to spot ({values[0]:g} to {values[-1]:g}); the median, "
                    f"{np.median(found):g}, is taken for the z of the section"
                )
            return float(np.median(found)) if len(found) else None
    if xy.shape[1] > 2 and np.isfinite(xy[:, 2]).all() and np.ptp(xy[:, 2]) == 0:
        return float(xy[0, 2])
    return None


def array_of(adata: AnnData, rows: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """(n, 2) row and column of each spot on its array, by 10x's convention; None where they are not told."""
    if not set(ARRAY) <= set(adata.obs):
        return None
    columns = [obs_column(adata, key).iloc[rows] for key in ARRAY]
    if not all(pd.api.types.is_numeric_dtype(column) for column in columns):
        return None
    return np.column_stack([as_numbers(column, key) for key, column in zip(ARRAY, columns, strict=True)])


def layout_of(xy: FloatArray, name: str) -> tuple[Layout, float]:
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
