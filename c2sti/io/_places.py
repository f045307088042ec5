"""Which rows of a container are a section, and where they lie: coordinates, layout and z."""

from __future__ import annotations

import re
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray

if TYPE_CHECKING:
    from spatialdata import SpatialData

OUTSIDE = frozenset({"0", "0.0", "false", "no"})  # how text says that a spot is not in tissue
LEAST_SPOTS = 20
MOST_PLANES, PLANE = 100, 4  # different values of z that are sections, not cells of a thick one; spots of each at least
NEIGHBOURS = 6  # of a spot, that tell the layout
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


# ---- containers


def is_spatialdata(slice_: Any) -> TypeGuard[SpatialData]:
    """Whether a section is a SpatialData; does not import that library, which the owner of one has imported."""
    return "spatialdata" in sys.modules and isinstance(slice_, sys.modules["spatialdata"].SpatialData)


def check_writable(container: AnnData | SpatialData, name: str) -> None:
    """Refuse a view of a backed AnnData, into which nothing can be written."""
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


def obs_column(adata: AnnData, key: str) -> pd.Series:
    """A column of `obs` in memory; ``anndata.experimental.read_lazy`` leaves it on disk."""
    return adata.obs[key] if isinstance(adata.obs, pd.DataFrame) else adata.obs[[key]].to_memory()[key]


def as_numbers(column: pd.Series, where: str) -> NDArray[np.float64]:
    """(n,) a column as float64, NaN where it is missing; TypeError where it holds something other than numbers."""
    known = column.notna().to_numpy()
    numbers = np.full(len(column), np.nan)
    numbers[known] = _validators.reals(column[known].to_numpy(), where)
    return numbers


# ---- rows


def library_names(adata: AnnData, library_key: str, name: str) -> list[str]:
    """Names of the sections that one object holds, in order of z where every section has one, else of the categories.

    `name` is what errors call the object. A warning says where the order is that of text, "s10" before "s2".
    """
    if _validators.text(library_key, "library_key") not in adata.obs:
        raise KeyError(
            f"{name} has no obs[{library_key!r}] (library_key=); its columns are {sorted(map(str, adata.obs))}"
        )
    column = obs_column(adata, library_key)
    if column.isna().any():
        raise ValueError(
            f"obs[{library_key!r}] of {name} is missing for {int(column.isna().sum())} of {len(column)} rows; name the "
            "section of each row, or drop them"
        )
    is_categorical = isinstance(column.dtype, pd.CategoricalDtype)
    found = column.cat.remove_unused_categories().cat.categories if is_categorical else column.unique()
    names = [str(value) for value in found]
    if not names:
        raise ValueError(f"{name} has no rows")
    z = [np.unique(_known_z(adata, library_rows(adata, library_key, one), name)[1]) for one in names]
    if all(len(values) == 1 for values in z) and len({float(values[0]) for values in z}) == len(names):
        names = [names[i] for i in np.argsort(np.concatenate(z))]
        _logging.info(f"sections of {name} in order of z: {', '.join(names)}")
        return names
    natural = sorted(names, key=_natural)
    if names == sorted(names) and names != natural:
        where = f"adata.obs[{library_key!r}]"
        warnings.warn(
            f"the sections of {name} are taken in the order of text, {', '.join(names)}; if {', '.join(natural)} is "
            f"the order of the series, say so: {where} = {where}.astype('category').cat.reorder_categories("
            f"{natural}), or give each section its z in obs['z_um']",
            UserWarning,
            stacklevel=5,
        )
    _logging.info(f"sections of {name} in order of obs[{library_key!r}]: {', '.join(names)}")
    return names


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which "s2" comes before "s10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def library_rows(adata: AnnData, library_key: str | None, library: str | None) -> NDArray[np.intp]:
    """(n,) rows that belong to one section, all where it has no name."""
    if library_key is None or library is None:
        return np.arange(adata.n_obs)
    return np.flatnonzero((obs_column(adata, library_key).astype(str) == library).to_numpy())


def tissue_rows(adata: AnnData, rows: NDArray[np.intp], name: str) -> NDArray[np.intp]:
    """The rows less those that ``obs["in_tissue"]`` puts outside of the tissue; a missing value leaves a row in."""
    if _keys.IN_TISSUE not in adata.obs:
        return rows
    codes, values = pd.factorize(obs_column(adata, _keys.IN_TISSUE).iloc[rows])  # -1 where a value is missing
    outside = np.array([*(str(value).strip().lower() in OUTSIDE for value in values), False])[codes]
    if outside.all():
        raise ValueError(
            f"obs[{_keys.IN_TISSUE!r}] of {name} says that none of its {len(rows)} rows lies in tissue; correct the "
            "column, or delete it"
        )
    if outside.any():
        _logging.info(f"{name}: {int(outside.sum())} of {len(rows)} rows lie outside of the tissue (obs['in_tissue'])")
    return rows[~outside]


# ---- coordinates


def coordinates(adata: AnnData, name: str, spatial_key: str) -> FloatArray:
    """(n_obs, 2) or (n_obs, 3) coordinates of an AnnData; KeyError, TypeError or ValueError where there are none."""
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"{name} has no coordinates in obsm[{spatial_key!r}]; it has {sorted(adata.obsm)}. Put an (n, 2) array "
            "there, or name another one with spatial_key="
        )
    xy = _validators.reals(named_axes(adata.obsm[spatial_key]), f"obsm[{spatial_key!r}] of {name}")
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


def array_of(adata: AnnData, rows: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """(n, 2) row and column of each spot on its array, by 10x's convention; None where `obs` has no such numbers."""
    if not set(ARRAY) <= set(adata.obs):
        return None
    columns = [obs_column(adata, key).iloc[rows] for key in ARRAY]
    if not all(pd.api.types.is_numeric_dtype(column) for column in columns):
        return None
    return np.column_stack([as_numbers(column, key) for key, column in zip(ARRAY, columns, strict=True)])


def layout_of(xy: FloatArray, name: str) -> tuple[Layout, float]:
    """Layout of the points and their pitch.

    In an array the distance to the nearest neighbour hardly varies (in random points its standard deviation is half its
    mean), and four or six neighbours are about as near as the nearest. The pitch is the median over all of these:
    printed spots scatter, which makes the nearest of them lie 6 % too near on real arrays.
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


# ---- z


def z_of(adata: AnnData, rows: NDArray[np.intp], xy: FloatArray, name: str) -> float | None:
    """The z of a section: of its ``obs["z_um"]`` or ``obs["z"]``, or of a third coordinate that does not vary.

    Where each cell has a z of its own, as in thick sections, it is their median. ValueError where `obs` holds a few
    values, each of many spots: several sections in one object.
    """
    key, found = _known_z(adata, rows, name)
    if not key:
        is_flat = xy.shape[1] > 2 and np.isfinite(xy[:, 2]).all() and np.ptp(xy[:, 2]) == 0
        return float(xy[0, 2]) if is_flat else None
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


def _known_z(adata: AnnData, rows: NDArray[np.intp], name: str) -> tuple[str, NDArray[np.float64]]:
    """The column of `obs` that holds z, and what it holds of some rows; empty where there is none."""
    for key in (_keys.Z_UM, _keys.Z):
        if key in adata.obs:
            found = as_numbers(obs_column(adata, key).iloc[rows], f"obs[{key!r}] of {name}")
            return key, found[np.isfinite(found)]
    return "", np.empty(0)
