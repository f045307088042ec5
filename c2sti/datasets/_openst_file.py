"""One h5ad as the openst pipeline writes it: where its points are, what they express, and a picture that fits.

Read piece by piece with h5py: such a file also carries the full H&E, masks and barcodes, which need not enter memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, sparse_dataset
from numpy.typing import NDArray
from scipy import sparse

from c2sti import _log
from c2sti._types import FloatArray

BARCODES = ("spatial_manual_fine", "spatial_pairwise_aligned_fine", "spatial_pairwise_aligned_coarse")  # best first
CENTROIDS = "spatial"  # of segmented cells; of barcodes it is where the sequencer saw them, not on the picture
STACKED = "spatial_3d_aligned"
CELL, SECTION = "cell_ID_mask", "n_section"
# Coordinates of older pipelines are those of the picture that was turned, which then stands beside the raw one.
PICTURES = ("spatial_pairwise_aligned/staining_image_transformed", "spatial/staining_image")
BAND = 256  # rows of pixels that are reduced at a time


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file to read from.

    Raises
    ------
    ValueError
        It is none that HDF5 wrote, or was damaged.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an h5ad ({error}); copy or download it again") from error
    with file:
        yield file


def is_stack(file: h5py.File) -> bool:
    """Whether the file holds a series of registered sections."""
    return SECTION in file["obs"]


def section_numbers(file: h5py.File) -> NDArray[np.intp]:
    """(n,) number of the section that each row of a stack belongs to.

    Raises
    ------
    ValueError
        They are no whole numbers.
    """
    found = pd.Series(np.asarray(read_elem(file["obs"][SECTION]))).astype(str)
    number = pd.to_numeric(found, errors="coerce")
    if number.isna().any() or (number != number.round()).any():
        odd = found[number.isna() | (number != number.round())].iloc[0]
        raise ValueError(f"obs[{SECTION!r}] of {file.filename} holds {odd!r}; numbers that count sections are needed")
    return number.to_numpy(dtype=np.intp)


def assigned(file: h5py.File) -> NDArray[np.bool_]:
    """(n,) rows that are cells: what no cell was found for is pooled by openst in one row, cell 0 at (0, 0)."""
    columns = file["obs"]
    if CELL in columns:
        return np.asarray(read_elem(columns[CELL])) != 0
    index = columns.attrs.get("_index", "_index")
    return np.ones(columns[index].shape[0], dtype=bool)


def positions(file: h5py.File, key: str | None, name: str) -> FloatArray:
    """(n, 2) x and y in pixels of the H&E.

    openst keeps (row, column), as its own look-up of segmented cells does: columns are swapped here.

    Raises
    ------
    KeyError
        There are none, or barcodes were not aligned with the H&E.
    """
    there = sorted(file.get("obsm", {}))
    usual = (STACKED,) if is_stack(file) else (CENTROIDS,) if CELL in file["obs"] else BARCODES
    wanted = (key,) if key is not None else usual
    found = next((k for k in wanted if k in there), None)
    if found is None:
        mend = ""
        if key is None and CENTROIDS in there:
            mend = (
                f"; {CENTROIDS!r} of barcodes is not on the H&E: run `openst pairwise_aligner`, or name the "
                f"coordinates to take with spatial_key= and their unit with um_per_px="
            )
        raise KeyError(
            f"{name} has no spatial coordinates: looked for obsm {', '.join(map(repr, wanted))}, there is {there}{mend}"
        )
    values = read_elem(file["obsm"][found])
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return np.ascontiguousarray(values[:, 1::-1], dtype=np.float64)


def observations(file: h5py.File) -> pd.DataFrame:
    """The columns of `obs`, (n, …)."""
    return read_elem(file["obs"])


def counts(file: h5py.File, rows: NDArray[np.bool_], genes: list[str] | None, name: str) -> tuple[Any, pd.Index]:
    """Counts of some rows, CSR float32, and the names of the genes; rows of one gene name are added up.

    A layer ``"raw"``, which the published stack has, goes before `X`.

    Raises
    ------
    KeyError
        A gene is not there.
    """
    where = file["layers"]["raw"] if "raw" in file.get("layers", {}) else file["X"]
    names = pd.Index(read_elem(file["var"]).index.astype(str))
    codes, unique = pd.factorize(names)
    unique = pd.Index(unique)
    values = _rows(where, np.flatnonzero(rows))
    if len(unique) < len(names):
        _log.info(f"{name}: {len(names) - len(unique)} columns of the same gene names are added up")
        values = values @ sparse.csr_matrix((np.ones(len(codes), dtype=np.float32), (np.arange(len(codes)), codes)))
    if genes is not None:
        missing = [gene for gene in genes if gene not in unique]
        if missing:
            raise KeyError(f"{name} lacks {len(missing)} of {len(genes)} genes= (first: {missing[0]!r})")
        values, unique = values[:, unique.get_indexer(genes)], pd.Index(genes)
    return sparse.csr_matrix(values, dtype=np.float32), unique


def _rows(where: h5py.Group | h5py.Dataset, rows: NDArray[np.intp]) -> sparse.csr_matrix:
    """Rows of a matrix on disk; where they lie together, as the sections of a stack do, only these are read."""
    if len(rows) == 0:
        return sparse.csr_matrix((0, read_elem(where).shape[1]), dtype=np.float32)
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    if isinstance(where, h5py.Dataset):
        return sparse.csr_matrix(where[span])[rows - span.start]
    if where.attrs["encoding-type"] == "csr_matrix":
        return sparse.csr_matrix(sparse_dataset(where)[span])[rows - span.start]
    return sparse.csr_matrix(read_elem(where))[rows]


def picture(file: h5py.File, longest: int, name: str) -> tuple[NDArray[np.uint8], int] | None:
    """H&E with at most `longest` pixels a side, (h, w, 3), and how many pixels of the file make one; None without.

    A mean over square blocks of pixels, read in bands.
    """
    if "uns" not in file:
        return None
    found = next((file["uns"][key] for key in PICTURES if key in file["uns"]), None)
    if found is None:
        return None
    if found.ndim != 3 or found.shape[2] < 3 or found.dtype != np.uint8:
        _log.warning(f"{name}: the image of shape {found.shape} and type {found.dtype} is no H&E, it is passed over")
        return None
    factor = -(-max(found.shape[:2]) // longest)
    band = max(BAND // factor, 1) * factor
    bands = [_block_means(found[first : first + band, :, :3], factor) for first in range(0, found.shape[0], band)]
    return np.concatenate(bands), factor


def _block_means(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Means of blocks of `factor` pixels; the last block of a row or column may hold fewer."""
    if factor == 1:
        return pixels
    total = pixels.astype(np.float32)
    for axis in (0, 1):
        starts = np.arange(0, pixels.shape[axis], factor)
        size = np.diff(np.append(starts, pixels.shape[axis]))
        total = np.add.reduceat(total, starts, axis=axis) / np.expand_dims(size, (1, 2) if axis == 0 else (0, 2))
    return np.rint(total).astype(np.uint8)
