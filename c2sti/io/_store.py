"""A result as a zarr store: whole at its place or not there at all; small parts, measured sections, and the others.

The measured sections are CSR, the others factors, or dense layers that are compressed and rounded.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil, log2
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _validators
from c2sti._atomic import aside
from c2sti._types import FloatArray, Section, SlicePair
from c2sti.io._factors import Layers, put, spots, store
from c2sti.io._rasterize import Rows
from c2sti.ops import nearest

MANTISSA = 23  # bits of a float32
MOST_DIGITS = 7  # that a float32 holds
LEVEL = 5
SPARSE_CHUNK = 2**20
MEASURED_ROWS = 2048  # rows of a measured section that are read and written together
# Of libraries to their own developers, at every write.
OF_NO_USE = (".*autosharding will be the default", "Consolidated metadata is currently not part")
ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}  # anndata's mark of a dense array


@contextmanager
def new_store(path: str | Path) -> Iterator[Path]:
    """A folder to write a store into, beside its place, where it is moved when the block ends.

    If the block fails, or is interrupted, the folder is removed and nothing is left. A process that was killed leaves
    it behind, hidden; the next call for the same place removes it.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError, ValueError
        Before anything is done: there is something at the path, or no folder to write it into, or that may not be
        written into, or the name is none of a zarr.
    OSError
        The disk is full.
    """
    path = _validators.path(path, "out")
    _check_free(path)
    try:
        with aside(path) as part:
            yield part
            _check_free(path)  # somebody else may have been quicker
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            full = f"no space is left in {path.parent} for {path.name}; what was written of it has been removed again"
            raise OSError(error.errno, full) from error
        raise


def _check_free(path: Path) -> None:
    if path.suffix != ".zarr":
        raise ValueError(f"out={str(path)!r} must end in .zarr: results that are streamed are zarr stores")
    if path.is_symlink() or path.exists():
        raise FileExistsError(f"{path} exists; name another one with out=, or remove it first")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into; make it first")


# ---- what is in it


def write_store(
    folder: Path,
    frame: AnnData,
    layers: Layers,
    pair: SlicePair,
    rows: Rows,
    *,
    key: str,
    dense: bool,
    digits: int | None,
    n_threads: int,
    progress: Callable[[float], object] = lambda share: None,
) -> None:
    """Write a whole result.

    Parameters
    ----------
    folder
        To write, not there yet.
    frame
        Made by :func:`c2sti.io.frame_slices`, without layers.
    layers
        The interpolated sections.
    pair, rows
        The measured sections, and the M points.
    key
        The `key_added` of the result.
    dense, digits
        Whether layers are written as they are, with that many significant decimal digits, and not as factors.
    n_threads
        How many blocks are worked on side by side.
    progress
        Is told each share of the work that has been done.
    """
    if not dense:
        put(frame, layers, key)
    with new_group(folder, frame) as group:
        on_disk = group.require_group("layers")
        for name, section, p in ((_keys.SLICE_A, pair.a, 0.0), (_keys.SLICE_B, pair.b, 1.0)):
            append_rows(on_disk, name, _measured(section, rows.points, rows.inside(p)), frame.shape)
        if not dense:
            progress(1.0)
            return
        wanted = {name: da.map_blocks(rounded, made, digits) for name, made in layers.lazily().items()}
        targets = [
            on_disk.create_array(
                name,
                shape=made.shape,
                chunks=made.chunksize,
                dtype="float32",
                compressors=codec(),
                attributes=ARRAY,
                config={"write_empty_chunks": True},
            )
            for name, made in wanted.items()
        ]
        store(list(wanted.values()), targets, n_threads=n_threads, progress=progress)
        _check_written(folder, targets)


@contextmanager
def new_group(folder: Path, frame: AnnData) -> Iterator[Any]:
    """A store with all of a result but its layers; the block is given it to write these into."""
    import zarr  # noqa: PLC0415 - heavy, and only a stored result needs it
    from anndata.io import write_elem  # noqa: PLC0415

    with warnings.catch_warnings():
        for text in OF_NO_USE:
            warnings.filterwarnings("ignore", text)
        group = zarr.open_group(str(folder), mode="w-", zarr_format=3)
        frame.strings_to_categoricals()
        write_elem(group, "/", frame)
        group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        yield group
        zarr.consolidate_metadata(group.store)


def append_rows(layers: Any, name: str, parts: Iterable[sp.csr_array | sp.csr_matrix], shape: tuple[int, int]) -> None:
    """Write a CSR layer, some rows after the other."""
    from anndata.io import sparse_dataset, write_elem  # noqa: PLC0415 - anndata loads zarr with it

    # Of no rows, so that all chunks are of one size; 64 bits where there may be so many values.
    none = sp.csr_matrix((0, shape[1]), dtype=np.float32)
    bits = np.dtype("int64" if shape[0] * shape[1] > np.iinfo(np.int32).max else "int32")
    how = {"chunks": (SPARSE_CHUNK,), "compressors": codec(), "indptr_dtype": bits}
    write_elem(layers, name, none, dataset_kwargs=how)
    written = sparse_dataset(layers[name])
    for rows in parts:
        written.append(sp.csr_matrix(rows, dtype=np.float32))


def _measured(section: Section, points: FloatArray, tissue: NDArray[np.bool_]) -> Iterator[sp.csr_matrix]:
    """The nearest spot's expression, block of rows after block of rows; nothing outside of the tissue."""
    found = nearest(section.xy, points)
    for first in range(0, len(points), MEASURED_ROWS):
        block = slice(first, first + MEASURED_ROWS)
        inside = tissue[block]
        values = spots(section.expression, found[block][inside])
        length = np.zeros(len(inside), dtype=np.int64)
        length[inside] = np.diff(values.indptr)
        start = np.concatenate([[0], np.cumsum(length)])
        yield sp.csr_matrix((values.data, values.indices, start), shape=(len(inside), values.shape[1]))


def _check_written(folder: Path, arrays: Sequence[Any]) -> None:
    """Refuse what was written where we do not see it."""
    lost = sum(array.nchunks - array.nchunks_initialized for array in arrays)
    if lost:
        raise FileNotFoundError(
            f"{lost} blocks are not in {folder}: workers of the cluster have to see the file system of out="
        )


# ---- how it is kept


def codec() -> Any:
    """Compression of all arrays: bits of equal weight side by side, then a fast general one.

    Of those tried (zstd 1 and 3, lz4 1 and 5, by bytes and by bits) the smallest or nearly so, and among the fastest.
    """
    from zarr.codecs import BloscCodec  # noqa: PLC0415 - heavy, and only a streamed result needs it

    return BloscCodec(cname="lz4", clevel=LEVEL, shuffle="bitshuffle")


def check_digits(digits: int | None) -> None:
    """Refuse a number of digits that a float32 cannot have."""
    if digits is not None:
        _validators.whole(digits, "digits", most=MOST_DIGITS)


def rounded(values: NDArray[np.float32], digits: int | None) -> NDArray[np.float32]:
    """The values to that many significant decimal digits: the mantissa to the nearest of ⌈digits · log₂ 10⌉ bits.

    The relative error is at most half a unit of the last digit kept. Bits that are all zero take no room once
    compressed. NaN and infinite values stay as they are.
    """
    dropped = 0 if digits is None else MANTISSA - ceil(digits * log2(10))
    if dropped <= 0:
        return values
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    last = (bits >> np.uint32(dropped)) & np.uint32(1)  # ties go to the even neighbour
    near = (bits + np.uint32((1 << (dropped - 1)) - 1) + last) & np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    return np.where(np.isfinite(values), near.view(np.float32), values)
