"""A result as a zarr store: whole at its place or not there at all, and opened again without reading it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, log2
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _check, _keys
from c2sti._aside import aside

MANTISSA = 23  # bits of a float32
MOST_DIGITS = 7  # that a float32 holds
LEVEL = 5


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
    path = _check.path(path, "out")
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


def codec() -> Any:
    """Compression of all arrays: bits of equal weight side by side, then a fast general one.

    Of those tried (zstd 1 and 3, lz4 1 and 5, by bytes and by bits) the smallest or nearly so, and among the fastest.
    """
    from zarr.codecs import BloscCodec  # noqa: PLC0415 - heavy, and only a streamed result needs it

    return BloscCodec(cname="lz4", clevel=LEVEL, shuffle="bitshuffle")


def check_digits(digits: int | None) -> None:
    """Refuse a number of digits that a float32 cannot have."""
    if digits is not None:
        _check.whole(digits, "digits", most=MOST_DIGITS)


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


# ---- opened again


def open_store(path: str | Path, key_added: str = _keys.RESULT) -> AnnData:
    """A streamed result with its layers left on disk, as arrays of dask.

    What is small (`obs`, `var`, `obsm`, `varp`, `uns`) is in memory, so that squidpy and scanpy take it as any other.
    The measured layers look as those of a result in memory do: dense, NaN outside of their tissue.
    """
    import zarr  # noqa: PLC0415 - see above
    from anndata.experimental import read_elem_lazy  # noqa: PLC0415
    from anndata.io import read_elem  # noqa: PLC0415

    store = zarr.open_group(str(path), mode="r")
    parts = {name: read_elem(store[name]) for name in ("obs", "var", "obsm", "varp", "uns")}
    on_disk: Any = store["layers"]
    sections = [str(name) for name in parts["uns"][key_added]["sections"]]
    layers = {}
    for name in [*sections, *sorted(set(on_disk) - set(sections))]:
        layers[name] = read_elem_lazy(on_disk[name])
        if isinstance(on_disk[name], zarr.Group):
            layers[name] = _measured(layers[name], parts["obs"][_keys.tissue(name)].to_numpy())
    return ad.AnnData(layers=layers, **parts)


def _measured(sparse: Any, tissue: NDArray[np.bool_]) -> Any:
    """(M, N) dense, lazily: rows of a CSR matrix, NaN where there is no tissue."""
    import dask.array as da  # noqa: PLC0415 - what anndata reads lazily with

    inside = da.from_array(tissue[:, None], chunks=(sparse.chunks[0], 1))
    dense = sparse.map_blocks(lambda block: block.toarray(), dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return da.where(inside, dense, np.float32(np.nan))
