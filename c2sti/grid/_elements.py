"""Elements of a SpatialData → arrays: levels of images, transformations, and where each instance lies.

Centroids are mapped by the affine. SpatialData's own gridding (`rasterize`, `rasterize_bins`, `bounding_box_query`) is
off by half a pixel up to its version 0.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from c2sti._types import FloatArray

if TYPE_CHECKING:  # half a second that a caller with AnnData should not pay
    from xarray import DataArray, DataTree

BLOCK = 2048  # pixels along a side of a label image that are held at a time


def levels_of(element: DataArray | DataTree) -> tuple[DataArray, ...]:
    """Fine to coarse."""
    from xarray import DataArray  # noqa: PLC0415

    if isinstance(element, DataArray):
        return (element,)
    return tuple(next(iter(scale.ds.data_vars.values())) for scale in element.children.values())


def frames_of(element: Any) -> dict[str, Any]:
    """Transformations of an element, by coordinate system."""
    from spatialdata.transformations import get_transformation  # noqa: PLC0415

    return dict(get_transformation(element, get_all=True))


def matrix_of(element: Any, frame: str) -> FloatArray:
    """(3, 3) from homogeneous (x, y, 1) of an element to the frame."""
    return np.asarray(frames_of(element)[frame].to_affine_matrix(("x", "y"), ("x", "y")), dtype=np.float64)


def places_of(element: Any, frame: str, instances: pd.Index, region: str, name: str) -> FloatArray:
    """(n, 2) where the instances that the rows of a table name lie in the frame.

    Text and numbers are matched as text. An instance that the element lists twice at one place is one.

    Raises
    ------
    ValueError
        The element lacks some, or holds one at several places.
    """
    centroids = _centroids(element, frame)
    if centroids.index.has_duplicates:
        centroids = centroids[~centroids.reset_index(names="instance").duplicated().to_numpy()]
    found, repeated = _match(centroids.index, instances)
    if repeated.any():
        raise ValueError(
            f"the index of region {region!r} of {name} is not unique: {int(repeated.sum())} of {len(instances)} rows "
            f"of the table name an instance that lies at several places (first: {instances[repeated][0]}); number them "
            f"anew in both, or keep the first of each: sdata[{region!r}] = sdata[{region!r}][~sdata[{region!r}].index."
            "duplicated()]"
        )
    lacking = found < 0
    if lacking.any():
        raise ValueError(
            f"{int(lacking.sum())} of {len(instances)} rows of the table of {name} are not in its region {region!r} "
            f"(first: instance {instances[lacking][0]}); {_fix(centroids.index, instances, lacking, region)}"
        )
    return centroids.to_numpy(dtype=np.float64)[found]


def _match(index: pd.Index, wanted: pd.Index) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(n,) place of each wanted value in an index, -1 where it is not there, and whether it is there more than once."""
    found, repeated = _find(index, wanted)
    if (found < 0).any():
        as_text = _find(_texts(index), _texts(wanted))
        if (as_text[0] >= 0).sum() > (found >= 0).sum():
            return as_text
    return found, repeated


def _find(index: pd.Index, wanted: pd.Index) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    first = np.flatnonzero(~index.duplicated())
    at = index[first].get_indexer(wanted)
    found = np.where(at >= 0, first[at], -1)
    return found, (found >= 0) & index.duplicated(keep=False)[found]


def _texts(values: pd.Index) -> pd.Index:
    """The same as text; whole numbers without a fraction."""
    if pd.api.types.is_float_dtype(values) and np.isfinite(values).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    return values.astype(str)


def _fix(index: pd.Index, instances: pd.Index, lacking: NDArray[np.bool_], region: str) -> str:
    if lacking.all() and len(index):
        return (
            f"the region holds {_kind(index)} such as {index[0]}, the table {_kind(instances)} such as "
            f"{instances[0]}: give both the same names"
        )
    return f"keep those that are: spatialdata.match_table_to_element(sdata, {region!r})"


def _kind(values: pd.Index) -> str:
    return "numbers" if pd.api.types.is_numeric_dtype(values) else "text"


def _centroids(element: Any, frame: str) -> pd.DataFrame:
    """(n, 2) x and y of each instance of an element, by instance; geometries in two dimensions or three."""
    from xarray import DataArray, DataTree  # noqa: PLC0415

    if isinstance(element, DataArray | DataTree):
        centres = _label_centroids(levels_of(element)[0])
    elif hasattr(element, "geometry"):
        middle = element.geometry.centroid
        centres = pd.DataFrame({"x": middle.x.to_numpy(), "y": middle.y.to_numpy()}, index=element.index)
    else:
        centres = element[["x", "y"]].compute()
    matrix = matrix_of(element, frame)
    moved = centres.to_numpy(dtype=np.float64) @ matrix[:2, :2].T + matrix[:2, 2]
    return pd.DataFrame(moved, index=centres.index, columns=["x", "y"])


def _label_centroids(labels: DataArray) -> pd.DataFrame:
    """Mean x and y, in pixels, of each label but 0; block by block, since a label image may be larger than memory."""
    parts = []
    for rows in _blocks(labels.sizes["y"]):
        for columns in _blocks(labels.sizes["x"]):
            block = np.asarray(labels.transpose("y", "x")[rows, columns].data)
            row, column = np.nonzero(block)
            found, index = np.unique(block[row, column], return_inverse=True)
            x = np.bincount(index, column, minlength=len(found))
            y = np.bincount(index, row, minlength=len(found))
            n = np.bincount(index, minlength=len(found))
            parts.append(
                pd.DataFrame({"x": x + n * (columns.start + 0.5), "y": y + n * (rows.start + 0.5), "n": n}, index=found)
            )
    total = pd.concat(parts).groupby(level=0).sum()
    return total[["x", "y"]].div(total["n"], axis=0)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK))
