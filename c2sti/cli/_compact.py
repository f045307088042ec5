"""AnnData into a small .h5ad: compressed, and what it holds twice written once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

GZIP = 1  # level: 4 writes a fifth longer and saves a hundredth


def write_compact(adata: AnnData, path: Path) -> None:
    """Write a section or result without loss; any reader of .h5ad opens it.

    Dense arrays that are equal, such as the `X` of a result and the layer that it shows, or the H&E of a section that
    an alignment left where it was, are one array with two names in the file (hard links).
    """
    links = _twins(adata)
    lean = adata if not links else _without(adata, links)
    lean.write_h5ad(path, compression="gzip", compression_opts=GZIP)
    if links:
        with h5py.File(path, "r+") as file:
            for twin, first in links.items():
                if twin in file:  # `X` where it is None
                    del file[twin]
                file[twin] = file[first]


def _arrays(held: Mapping[str, Any], path: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays of two dimensions or more in nested dicts, by their path in the file."""
    for key, value in held.items():
        if isinstance(value, Mapping):
            yield from _arrays(value, f"{path}/{key}")
        elif isinstance(value, np.ndarray) and value.ndim > 1 and value.dtype.kind in "biuf":
            yield f"{path}/{key}", value


def _twins(adata: AnnData) -> dict[str, str]:
    """Path of the first of each array that is there more than once, by the paths of the others."""
    arrays = dict(_arrays(adata.layers, "layers")) | dict(_arrays(adata.uns, "uns"))
    if isinstance(adata.X, np.ndarray):
        arrays["X"] = adata.X
    firsts: dict[tuple[Any, ...], list[str]] = {}
    links = {}
    for path, array in arrays.items():
        alike = firsts.setdefault((array.shape, array.dtype.str), [])
        first = next((one for one in alike if _equal(arrays[one], array)), None)
        if first is None:
            alike.append(path)
        else:
            links[path] = first
    return links


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a is b or np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _without(adata: AnnData, paths: Mapping[str, str]) -> AnnData:
    """The object without these arrays; the others are shared, not copied."""
    slots = {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "obsp", "varp")}
    return AnnData(
        X=None if "X" in paths else adata.X,
        obs=adata.obs,
        var=adata.var,
        layers={key: layer for key, layer in adata.layers.items() if f"layers/{key}" not in paths},
        uns=_pruned(adata.uns, "uns", paths),
        raw=None if adata.raw is None else {"X": adata.raw.X, "var": adata.raw.var, "varm": dict(adata.raw.varm)},
        **slots,
    )


def _pruned(held: Mapping[str, Any], path: str, paths: Mapping[str, str]) -> dict[str, Any]:
    return {
        key: _pruned(value, f"{path}/{key}", paths) if isinstance(value, Mapping) else value
        for key, value in held.items()
        if f"{path}/{key}" not in paths
    }
