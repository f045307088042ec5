"""The same section in other containers: number formats and sparse ones, backed, dask, zarr, SpatialData."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import scipy.sparse as sp

FORMS: list[Callable[[np.ndarray], Any]] = [
    np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array,
]  # fmt: skip
CONTAINERS = ("backed", "dask", "zarr", "spatialdata")


def stored(values: np.ndarray, rng: np.random.Generator) -> Any:
    """The values in some array or sparse matrix, and a number format that holds them."""
    whole = np.isfinite(values).all() and (values == np.rint(values)).all() and values.min(initial=0) >= 0
    kinds = ["f4", "f8", "i4", "i8", "u4"] if whole else ["f4", "f8"]
    kinds += ["u1", "i2", "u2"] if whole and values.max(initial=0) < 128 else []
    made = FORMS[int(rng.integers(len(FORMS)))](values.astype(rng.choice(kinds)))
    if sp.issparse(made) and rng.random() < 0.2:
        made = _unordered(made, rng)
    return made


def _unordered(matrix: Any, rng: np.random.Generator) -> Any:
    """The same sparse matrix with its indices out of order, and zeros that are stored."""
    if matrix.nnz:
        matrix.data[rng.integers(matrix.nnz)] = 0
    for first, last in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        order = first + rng.permutation(last - first)
        matrix.indices[first:last], matrix.data[first:last] = matrix.indices[order], matrix.data[order]
    matrix.has_sorted_indices = False
    return matrix


def handed(section: ad.AnnData, kind: str, path: Path, rng: np.random.Generator) -> Any:
    """The section as another container; what needs a file or folder has the path for it."""
    match kind:
        case "backed":
            section.write_h5ad(path.with_suffix(".h5ad"))
            return ad.read_h5ad(path.with_suffix(".h5ad"), backed="r")
        case "zarr":
            section.write_zarr(path.with_suffix(".zarr"))
            return ad.experimental.read_lazy(path.with_suffix(".zarr"))
        case "dask":
            made, x = section.copy(), section.X
            x = sp.csr_array(x) if sp.issparse(x) else x
            made.X = da.from_array(x, chunks=(int(rng.integers(1, 12)), x.shape[1]), asarray=False)
            return made
        case _:
            return spatialdata(section)


def spatialdata(section: ad.AnnData) -> Any:
    """Circles and the table that annotates them."""
    import spatialdata as sd  # noqa: PLC0415 - seconds to import
    from spatialdata.models import ShapesModel, TableModel  # noqa: PLC0415

    table = section.copy()
    table.obs["region"], table.obs["instance"] = "spots", np.arange(table.n_obs)
    table.obs["region"] = table.obs["region"].astype("category")
    xy = np.asarray(table.obsm["spatial"], dtype=float)
    circles = ShapesModel.parse(xy, geometry=0, radius=1.0, index=table.obs["instance"].to_numpy())
    parsed = TableModel.parse(table, region="spots", region_key="region", instance_key="instance")
    return sd.SpatialData(shapes={"spots": circles}, tables={"table": parsed})
