"""A stack of sections as a volume on disk: an OME-Zarr image that napari, Fiji and others open in µm."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _result, _validators, io
from c2sti._atomic import atomic_write
from c2sti._docs import documented
from c2sti._types import Lattice
from c2sti.tl._describe import describe
from c2sti.tl._to_slices import stack_of

RECORDED = ("sections", "inserted", "synthetic", "model", "expression")  # of the record, in the image's attributes
UNEVEN = 1e-3  # of the distance between sections: z are even up to this
OFF_CENTRE = 1e-3  # of a bin: rows lie on the lattice up to this
CHUNK = 256  # voxels along y and x that are read at once
ZARR_FILES = ("zarr.json", ".zgroup", ".zattrs")  # one of them is in every zarr
COLOURS = ("FFFFFF", "00FFFF", "FF00FF", "FFFF00", "00FF00", "FF8000", "8080FF")  # of channels, hexadecimal


@documented
def to_volume(
    adata: AnnData,
    path: str | Path,
    *,
    genes: str | Sequence[str],
    key: str = "c2sti",
    gap: float | None = None,
    um_per_unit: float = 1.0,
    fill: float = float("nan"),
    overwrite: bool = False,
) -> Path:
    """Write some genes of a stack of sections as an OME-Zarr image, one channel a gene.

    Any reader of OME-Zarr opens it, with µm along all axes: ``napari --plugin napari-ome-zarr genes.zarr``.

    Parameters
    ----------
    adata
        Result of :func:`interpolate_series`, :func:`interpolate` or :func:`to_slices`, evenly spaced in z.
    path
        Folder to write, by custom ending in ``.zarr``.
    genes
        Names of the genes, or what a text column of `var` calls them, one channel each.
    %(shared)s
    fill
        Value outside of a section's tissue: NaN, which differs from expression of zero; 0 for viewers that cannot draw
        NaN.
    overwrite
        Whether to replace a zarr that is there.

    Returns
    -------
    The path. There lies one array (c, z, y, x), float32 log1p expression, with scale and position in µm. The attributes
    "c2sti" say which sections were interpolated, and how (:func:`describe`).

    Raises
    ------
    KeyError
        There is no such gene, or `adata` is no such result.
    ValueError
        The sections are uneven, or carry no z, or lie on no lattice; or `path` exists and is no zarr.
    FileExistsError
        `path` exists, and `overwrite` is not set.

    Examples
    --------
    >>> import c2sti, tempfile
    >>> series = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 100.0, 250.0])
    >>> stack = c2sti.tl.interpolate_series(series, spacing=50.0, model="linear", show_progress_bar=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     c2sti.tl.to_volume(stack, f"{folder}/genes.zarr", genes=["gene_001", "gene_002"]).name
    'genes.zarr'
    """
    path = _validators.path(path, "path")
    um_per_unit = _validators.number(um_per_unit, "um_per_unit", above=0)
    if not (isinstance(fill, float) and np.isnan(fill)):
        _validators.number(fill, "fill")
    _check_free(path, overwrite)
    channels = list(dict.fromkeys(_validators.names(genes, "genes")))
    stack = _stack(adata, channels, key, None if gap is None else _validators.number(gap, "gap", above=0))
    record = stack.uns[key]
    lattice = _result.lattice_of(record, key)
    z = stack.obs.groupby(_keys.SECTION, observed=True)[_keys.Z].first().sort_values()
    sections, inserted = [str(name) for name in z.index], {str(name) for name in record["inserted"]}
    pitch = lattice.pitch * um_per_unit
    scale = [1.0, _step(z), pitch, pitch]
    translation = [0.0, float(z.iloc[0]), *(c * um_per_unit for c in reversed(lattice.origin))]
    volume = _volume(stack, lattice, sections, fill)
    attributes = {
        "synthetic": bool(record["synthetic"]),
        "sections": sections,
        "inserted": [name in inserted for name in sections],
        "model": str(record["model"]["name"]),
        "expression": str(record["expression"]),
        "description": describe(stack, key=key),
    }
    with atomic_write(path) as part:
        _write(part, volume, channels, scale, translation, path.stem, attributes)
    return path


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse a path without a folder, or at which there is something that may not be replaced."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; name another one, or replace it with overwrite=True")
    if path.exists() and not any((path / file).is_file() for file in ZARR_FILES):
        raise ValueError(f"{path} is no zarr, and is not overwritten; name another path")


def _stack(adata: AnnData, genes: Sequence[str], key: str, gap: float | None) -> AnnData:
    """The genes wanted, one row per section and bin."""
    record = _result.record_of(adata, key, RECORDED)
    some = adata[:, _result.genes_of(genes, adata.var_names, adata.var)]
    if _keys.SECTION in adata.obs:
        _result.check_stack(adata)
        return some
    if gap is None and "positions" in record and "z" not in record:
        raise ValueError("the sections carry no z; give the distance from slice_a to slice_b in µm with gap=")
    return stack_of(some, key, gap)


def _step(z: pd.Series) -> float:
    """Distance between the sections, which has to be the same everywhere."""
    steps = np.diff(z.to_numpy())
    if len(steps) == 0:
        raise ValueError("the stack holds one section; a volume needs two or more")
    if np.ptp(steps) > UNEVEN * steps.mean():
        raise ValueError(
            f"the sections are {steps.min():g} to {steps.max():g} apart; a volume needs them even: "
            "c2sti.tl.interpolate_series(slices, spacing=…)"
        )
    return float(steps.mean())


def _volume(stack: AnnData, lattice: Lattice, sections: Sequence[str], fill: float) -> NDArray[np.float32]:
    """(c, z, y, x) expression; of a measured section each voxel is the mean of the spots that stand for it."""
    section, inserted = stack.obs[_keys.SECTION].to_numpy(), stack.obs[_keys.INSERTED].to_numpy(dtype=bool)
    volume = np.full((stack.n_vars, len(sections), lattice.shape[0] * lattice.shape[1]), fill, dtype=np.float32)
    for plane, name in enumerate(sections):
        rows = np.flatnonzero(section == name)
        xy, values = np.asarray(stack.obsm[_keys.SPATIAL])[rows], stack.X[rows]
        values = values.toarray() if sp.issparse(values) else np.asarray(values)
        bins = lattice.bins(xy)
        on_lattice = (bins >= 0).all() and np.abs(lattice.centres[bins] - xy).max() <= OFF_CENTRE * lattice.pitch
        if not on_lattice and inserted[rows].any():
            raise ValueError("the rows are points given by at=, not bins of a lattice; make the sections without at=")
        if not on_lattice:
            together = io.on_bins(xy, lattice.centres, lattice)
            n = together.sum(axis=1)
            bins = np.flatnonzero(n)
            values = (together[bins] @ values) / n[bins, None]
        volume[:, plane, bins] = values.T
    return volume.reshape(stack.n_vars, len(sections), *lattice.shape)


def _write(
    path: Path,
    volume: NDArray[np.float32],
    genes: Sequence[str],
    scale: list[float],
    translation: list[float],
    name: str,
    attributes: dict[str, Any],
) -> None:
    import zarr  # noqa: PLC0415 - heavy, and ome_zarr brings all of dask
    from ome_zarr.format import CurrentFormat  # noqa: PLC0415

    with warnings.catch_warnings():  # of its own deprecations, at its first import
        warnings.simplefilter("ignore", DeprecationWarning)
        from ome_zarr.writer import write_multiscale  # noqa: PLC0415

    form = CurrentFormat()
    group = zarr.open_group(str(path), mode="w-", zarr_format=form.zarr_format)
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    write_multiscale(
        [volume],
        group,
        fmt=form,
        axes=[{"name": "c", "type": "channel"}, *space],
        coordinate_transformations=[
            [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
        ],
        storage_options={"chunks": (1, volume.shape[1], *(min(n, CHUNK) for n in volume.shape[2:]))},
        name=name,
        metadata={"omero": {"channels": _channels(volume, genes)}},
    )
    group.attrs[_keys.RESULT] = attributes


def _channels(volume: NDArray[np.float32], genes: Sequence[str]) -> list[dict[str, Any]]:
    """How viewers show each gene: its name, its colour, and the range of its values."""
    tops = [max(float(np.nanmax(values)), 1e-6) for values in volume]
    return [
        {"label": gene, "color": colour, "active": True, "window": {"min": 0.0, "max": top, "start": 0.0, "end": top}}
        for gene, colour, top in zip(genes, cycle(COLOURS), tops, strict=False)
    ]
