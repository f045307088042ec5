"""A zarr store: whole at its place or not there at all, its arrays compressed and rounded."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2sti import _check
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
