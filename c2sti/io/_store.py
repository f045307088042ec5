"""A result as a zarr store: small parts, measured sections as CSR, interpolated ones as factors or as dense layers."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from math import ceil, log2
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _validators
from c2sti._atomic import atomic_write
from c2sti._backed import Expression, blocks
from c2sti._types import SlicePair
from c2sti.factors import TOLERANCE
from c2sti.io._anndata import add_confidence
from c2sti.io._factors import (
    CHUNK_ROWS,
    FACTORS,
    VERSION,
    Layers,
    StackPart,
    add_stack_confidence,
    put,
    put_loadings,
    spot_of_each,
    store,
    values_lazily,
    weights_of,
)

MANTISSA = 23  # bits of a float32
MOST_DIGITS = 7  # that a float32 holds
LEVEL = 5
SPARSE_CHUNK = 2**20
MEASURED_ROWS = 2048  # rows of a measured section that are read and written together
MEASURED = "measured"  # layer of a stored stack: the spots of measured sections
# Warnings of libraries for their own developers, at every write.
OF_NO_USE = (".*autosharding will be the default", "Consolidated metadata is currently not part")
ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}  # anndata's mark of a dense array


@contextmanager
def new_store(path: str | Path) -> Iterator[Path]:
    """A folder to write a store into, which is moved to its place when the block ends; see :mod:`c2sti._atomic`.

    The place is checked before and after the block. If the block fails, or is interrupted, nothing is left.
    """
    path = _validators.path(path, "out")
    _check_free(path)
    try:
        with atomic_write(path) as part:
            yield part
            _check_free(path)  # another process may have been quicker
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            full = f"no space is left in {path.parent} for {path.name}; what was written of it has been removed again"
            raise OSError(error.errno, full) from error
        raise


def _check_free(path: Path) -> None:
    if path.suffix != ".zarr":
        raise ValueError(f"out={str(path)!r} must end in .zarr: results are written as zarr stores")
    if path.is_symlink() or path.exists():
        raise FileExistsError(f"{path} exists; name another one with out=, or remove it first")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into; make it first")


# ---- a pair, and a stack


def write_store(
    folder: Path,
    frame: AnnData,
    layers: Layers,
    pair: SlicePair,
    *,
    key: str,
    dense: bool,
    digits: int | None,
    n_threads: int,
    progress: Callable[[float], object] = lambda share: None,
) -> None:
    """Write the result of a pair into a new folder: `frame`, its measured sections, and factors or dense layers."""
    lazy = layers.lazily()
    add_confidence(frame, layers, lazy, n_threads)
    if not dense:
        put(frame, layers, key)
    with new_group(folder, frame) as group:
        on_disk = group.require_group("layers")
        for name, section in ((_keys.SLICE_A, pair.a), (_keys.SLICE_B, pair.b)):
            rows = _rows_of(section.expression, spot_of_each(section, frame, name))
            append_rows(on_disk, name, rows, frame.shape)
        if not dense:
            progress(1.0)
            return
        wanted = {name: da.map_blocks(rounded, values, digits) for name, values in lazy.items()}
        targets = [
            on_disk.create_array(
                name,
                shape=values.shape,
                chunks=values.chunksize,
                dtype="float32",
                compressors=codec(),
                attributes=ARRAY,
                config={"write_empty_chunks": True},
            )
            for name, values in wanted.items()
        ]
        store(list(wanted.values()), targets, n_threads=n_threads, progress=progress)
        lost = sum(array.nchunks - array.nchunks_initialized for array in targets)
        if lost:
            raise FileNotFoundError(
                f"{lost} blocks are not in {folder}: workers of the cluster have to see the file system of out="
            )


def _rows_of(expression: Expression, spot: NDArray[np.intp]) -> Iterator[sp.csr_array]:
    """Rows of a matrix by their number, block after block; empty where that is -1."""
    nothing = sp.csr_array((1, expression.shape[1]), dtype=np.float32)
    for first in range(0, len(spot), MEASURED_ROWS):
        here = spot[first : first + MEASURED_ROWS]
        held = here >= 0
        rows = sp.vstack([expression[here[held]], nothing], format="csr")
        yield rows[np.where(held, np.cumsum(held) - 1, held.sum())]


def write_stack(
    folder: Path, frame: AnnData, stack: Sequence[StackPart], kinds: Sequence[str], key: str, n_threads: int
) -> None:
    """Write a stack, whose record names the gap of each interpolated section, with spots as CSR and factors."""
    if _keys.STD in kinds:
        add_stack_confidence(frame, stack, values_lazily(stack, frame.n_vars, kinds), n_threads)
    lengths = [part.shape[0] for part in stack]
    dense = _put_stack(frame, stack, lengths, key)
    with new_group(folder, frame) as group:
        for name, weights in dense.items():
            _write_rows(group["obsm"], name, weights, lengths)
        spots = chain.from_iterable(_spots(part, frame.n_vars) for part in stack)
        append_rows(group.require_group("layers"), MEASURED, spots, frame.shape)


def _put_stack(
    frame: AnnData, stack: Sequence[StackPart], lengths: Sequence[int], key: str
) -> dict[str, list[NDArray[np.float32] | None]]:
    """Put the loadings of each gap, and sparse factors, into a stack; returns the dense ones, which may be large."""
    record = frame.uns[key]
    gap_of = record["neighbours"]["a"].to_dict()
    gaps: dict[str, dict[str, Any]] = {}
    loadings, weights = [], []
    for part in stack:
        found = None
        if isinstance(part, Layers):
            gap = str(gap_of[part.names[0]])
            if gap not in gaps:
                gaps[gap] = put_loadings(frame, part, key, suffix=f"_{gap}")
            found = gaps[gap]["loadings"]
        loadings.append(found)
        weights.append(weights_of(part, 0) if isinstance(part, Layers) else {})
    dense = {}
    for kind in dict.fromkeys(chain.from_iterable(weights)):
        of_each = [own.get(kind) for own in weights]
        if any(map(sp.issparse, of_each)):
            frame.obsm[f"{key}_{kind}"] = _one_below_the_other(of_each, lengths)
        else:
            dense[f"{key}_{kind}"] = of_each
    frame.obs[f"{key}_{FACTORS}"] = pd.Categorical(np.repeat(np.array(loadings, dtype=object), lengths))
    record[FACTORS] = {"version": VERSION, "tolerance": TOLERANCE, "gaps": gaps}
    return dense


def _one_below_the_other(parts: Sequence[sp.csr_matrix | None], lengths: Sequence[int]) -> sp.csr_matrix:
    """Sparse matrices one below the other, as wide as the widest; empty where there is none."""
    width = max(part.shape[1] for part in parts if part is not None)
    wide = [
        sp.csr_matrix((n, width), dtype=np.float32)
        if part is None
        else sp.csr_matrix((part.data.astype(np.float32), part.indices, part.indptr), shape=(n, width))
        for part, n in zip(parts, lengths, strict=True)
    ]
    return sp.vstack(wide, format="csr")


def _write_rows(obsm: Any, name: str, parts: Sequence[NDArray[np.float32] | None], lengths: Sequence[int]) -> None:
    """Write dense matrices one below the other, as wide as the widest, zero where there is none."""
    width = max(part.shape[1] for part in parts if part is not None)
    chunks = (max(min(CHUNK_ROWS, sum(lengths)), 1), width)
    how = {"dtype": "float32", "compressors": codec(), "attributes": ARRAY, "fill_value": 0}
    written = obsm.create_array(name, shape=(sum(lengths), width), chunks=chunks, **how)
    for part, stop, n in zip(parts, np.cumsum(lengths).tolist(), lengths, strict=True):
        if part is not None:
            written[stop - n : stop, : part.shape[1]] = part


def _spots(part: StackPart, n_genes: int) -> Iterator[sp.csr_array]:
    """Spots of a section; empty rows of an interpolated one."""
    if isinstance(part, Layers):
        yield sp.csr_array((part.shape[0], n_genes), dtype=np.float32)
    else:
        yield from (rows for _, rows in blocks(part))


# ---- arrays and their compression


@contextmanager
def new_group(folder: Path, frame: AnnData) -> Iterator[Any]:
    """A new store with all of a result but its layers, which the block writes."""
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
    """Write a CSR layer, block of rows after block of rows."""
    from anndata.io import sparse_dataset, write_elem  # noqa: PLC0415 - anndata loads zarr with it

    # Of no rows, so that all chunks are of one size; 64 bits where there may be so many values.
    none = sp.csr_matrix((0, shape[1]), dtype=np.float32)
    bits = np.dtype("int64" if shape[0] * shape[1] > np.iinfo(np.int32).max else "int32")
    how = {"chunks": (SPARSE_CHUNK,), "compressors": codec(), "indptr_dtype": bits}
    write_elem(layers, name, none, dataset_kwargs=how)
    written = sparse_dataset(layers[name])
    for rows in parts:
        written.append(sp.csr_matrix(rows, dtype=np.float32))


def codec() -> Any:
    """Compression of all arrays: of zstd 1 and 3, lz4 1 and 5, by bytes and by bits, a small one among the fastest."""
    from zarr.codecs import BloscCodec  # noqa: PLC0415 - heavy, and only a stored result needs it

    return BloscCodec(cname="lz4", clevel=LEVEL, shuffle="bitshuffle")


def check_digits(digits: int | None) -> None:
    """Refuse a number of digits that a float32 cannot have."""
    if digits is not None:
        _validators.whole(digits, "digits", most=MOST_DIGITS)


def rounded(values: NDArray[np.float32], digits: int | None) -> NDArray[np.float32]:
    """The values to that many significant decimal digits: the mantissa to the nearest of ⌈digits · log₂ 10⌉ bits.

    The rest of the mantissa is zero, which compresses well. NaN and infinite values stay as they are.
    """
    dropped = 0 if digits is None else MANTISSA - ceil(digits * log2(10))
    if dropped <= 0:
        return values
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    last = (bits >> np.uint32(dropped)) & np.uint32(1)  # ties go to the even neighbour
    near = (bits + np.uint32((1 << (dropped - 1)) - 1) + last) & np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    return np.where(np.isfinite(values), near.view(np.float32), values)
