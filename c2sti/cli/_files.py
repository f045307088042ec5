"""Sections from files and results into files: never over an input, never half-written."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import anndata as ad
import h5py
import numpy as np
from anndata import AnnData
from anndata.experimental import write_dispatched
from numpy.typing import NDArray

from c2sti import _atomic, _validators
from c2sti.io import completed, is_spatialdata

if TYPE_CHECKING:
    from spatialdata import SpatialData

Section: TypeAlias = Union[AnnData, "SpatialData"]

KINDS = (".h5ad", ".zarr")
ZARR_MARKS = ("zarr.json", ".zgroup")  # what every zarr group holds, by format
ELEMENTS = {"images", "labels", "points", "shapes", "table", "tables"}  # groups of a SpatialData
GZIP = 1  # level: 4 writes a fifth longer and saves a hundredth
CHECKPOINT = {"config.json", "model.safetensors"}  # what C2STi.save writes


def read(path: Path) -> Section:
    """A section from its file; an error names the file."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if path.suffix not in KINDS:
        raise ValueError(f"{path} ends neither in {' nor in '.join(KINDS)}; sections are AnnData or SpatialData files")
    try:
        found = ad.read_h5ad(path) if path.suffix == ".h5ad" else _read_zarr(path)
        return completed(found) if isinstance(found, AnnData) else found
    except Exception as error:  # damaged bytes make libraries raise anything, some of it without a public name
        raise ValueError(f"{path} cannot be read as a section: {error}") from error


def _read_zarr(path: Path) -> Section:
    import zarr  # noqa: PLC0415 - only a zarr needs it

    group = zarr.open_group(path, mode="r")
    attributes, held = dict(group.attrs), {*group.group_keys(), *group.array_keys()}
    # Stores of older versions say what they are by what they hold.
    if attributes.get("encoding-type") == "anndata" or {"obs", "var"} <= held:
        return ad.read_zarr(path)
    if "spatialdata_attrs" in attributes or ELEMENTS & held:
        import spatialdata as sd  # noqa: PLC0415 - slow to import

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as at every write
            return sd.read_zarr(path)
    raise ValueError("it is a zarr, but neither an AnnData nor a SpatialData")


def write(section: Section, path: Path) -> None:
    """A section or result into a file, whole or not at all; an OSError names the file."""
    try:
        with replaced(path) as part, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries to their own developers, on formats and shards
            if is_spatialdata(section):
                section.write(part)
            elif path.suffix == ".zarr":
                section.write_zarr(part)
            else:
                # Of a file that the disk has no room for, HDF5 complains by the page.
                needed, free = section.__sizeof__(), shutil.disk_usage(part.parent).free
                if needed > free:
                    raise OSError(f"it needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
                write_compact(section, part)
    except (OSError, RuntimeError) as error:
        if not _reason(error):
            raise
        raise OSError(f"{path} could not be written ({_reason(error)}); nothing of it was kept") from error


def write_compact(adata: AnnData, path: Path) -> None:
    """Write a small .h5ad without loss; any reader of .h5ad opens it.

    Dense arrays that are equal, such as the `X` of a result and the layer that it shows, or the H&E of a section that
    an alignment left where it was, are one array with two names in the file (hard links).
    """
    written: dict[tuple[Any, ...], list[tuple[NDArray[Any], str]]] = {}

    def once(put: Any, group: h5py.Group, name: str, value: Any, *, dataset_kwargs: Any, iospec: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim > 1 and value.dtype.kind in "biuf":
            alike = written.setdefault((value.shape, value.dtype.str), [])
            exact = {"equal_nan": value.dtype.kind == "f"}
            twin = next((path for one, path in alike if one is value or np.array_equal(one, value, **exact)), None)
            if twin is not None:
                group[name] = group.file[twin]
                return
            put(group, name, value, dataset_kwargs=dataset_kwargs)
            alike.append((value, group[name].name))  # and no open array: HDF5 crashes where it cannot be written
        elif name.strip("/") != "raw" or value is not None:  # older readers know no empty one
            put(group, name, value, dataset_kwargs=dataset_kwargs)

    adata.strings_to_categoricals()  # as AnnData.write_h5ad does
    with h5py.File(path, "w") as file:
        write_dispatched(file, "/", adata, once, dataset_kwargs={"compression": "gzip", "compression_opts": GZIP})


def _reason(error: Exception) -> str:
    """What the system says of a failed write, without what libraries have put around it; empty if it is no such."""
    found = re.search(r"errno = (\d+)", str(error))  # HDF5's, which comes as an OSError or as a RuntimeError
    number = getattr(error, "errno", None) or (found and int(found[1]))
    return os.strerror(number) if number else str(error) if isinstance(error, OSError) else ""


def check_free(outputs: Sequence[Path], inputs: Sequence[Path], *, force: bool) -> None:
    """Refuse outputs that would overwrite an input, a folder, or without `force` anything, before any work is done."""
    for path in outputs:
        _validators.folder(path.parent, "the output's folder")
        if any(path.resolve() == given.resolve() for given in inputs):
            raise FileExistsError(f"{path} is read by this command and would be overwritten; write elsewhere")
        if path.exists() and not force:
            raise FileExistsError(f"{path} is there already; write elsewhere, or replace it with --force")
        if path.is_dir() and not any((path / mark).exists() for mark in ZARR_MARKS):
            raise FileExistsError(f"{path} is a folder and no zarr; it will not be replaced, write elsewhere")


def check_free_folder(folder: Path, *, force: bool) -> None:
    """The same for the folder of a checkpoint, which is replaced as a whole: it may hold nothing else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder")
    held = {path.name for path in folder.iterdir()}
    if held and not force:
        raise FileExistsError(f"{folder} is there already; write elsewhere, or replace it with --force")
    if held - CHECKPOINT:
        raise FileExistsError(
            f"{folder} holds {min(held - CHECKPOINT)!r}, which is no part of a model; write elsewhere"
        )


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of an output when all has been written; its folder is made."""
    _validators.new_folder(path.parent, "the output's folder")
    with _atomic.atomic_write(path) as part:
        yield part
