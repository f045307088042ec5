"""Expression that stays on disk, a backed file or a lazy array, and is read as CSR in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, overload

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

BLOCK = 2**23  # entries of a block, unless one row has more
READ_AT_ONCE = 256  # rows between two wanted ones that are read along rather than skipped


@dataclass(frozen=True)
class Moments:
    """Of each of the N genes: mean, mean square, and share of the spots above zero, (N,) float64."""

    mean: NDArray[np.floating]
    square: NDArray[np.floating]
    seen: NDArray[np.floating]


@dataclass(frozen=True)
class Stored:
    """(n, N) matrix of which only blocks of rows are in memory; it stands in for a CSR matrix that is too large.

    `source` is a sparse dataset of a backed AnnData, a dask, zarr or h5py array: ``source[first:last]`` reads rows.
    """

    source: Any
    entries: int  # about how many are not zero, which sets the rows of a block
    rows: NDArray[np.intp] | None = None  # of the source, increasing; None for all
    genes: NDArray[np.intp] | None = None  # columns of the source; None for all
    factor: NDArray[np.floating] | None = None  # (n,) of each spot's values before log1p; None for values as they are
    name: str = "stored expression"  # in error messages

    @property
    def shape(self) -> tuple[int, int]:
        """(n, N)."""
        n, n_genes = self.source.shape
        return n if self.rows is None else len(self.rows), n_genes if self.genes is None else len(self.genes)

    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> sp.csr_array: ...

    @overload
    def __getitem__(self, index: tuple[slice, Any]) -> Stored: ...

    def __getitem__(self, index: slice | NDArray[Any] | tuple[slice, Any]) -> sp.csr_array | Stored:
        """Rows (a slice, or increasing or other indices) as CSR float32; or ``[:, genes]``, which reads nothing yet."""
        if isinstance(index, tuple):
            rows, genes = index
            if rows != slice(None):
                raise TypeError("rows and genes of stored expression are chosen one after the other")
            every = np.arange(self.source.shape[1]) if self.genes is None else self.genes
            return replace(self, genes=every[genes])
        if isinstance(index, slice):
            first, last, step = index.indices(self.shape[0])
            return self._read(first, max(first, last)) if step == 1 else self._rows(np.arange(first, last, step))
        index = np.asarray(index)
        return self._rows(np.flatnonzero(index) if index.dtype == bool else index)

    def log1p(self, factor: NDArray[np.floating]) -> Stored:
        """log1p of the values times a factor of each spot."""
        return replace(self, factor=factor)

    def __matmul__(self, right: NDArray[np.floating]) -> NDArray[np.floating]:
        """(n, K) product with a dense (N, K)."""
        return per_row(self, lambda block: block @ right)

    def tocsr(self) -> sp.csr_array:
        """All of it, in memory."""
        return sp.vstack([block for _, block in blocks(self)], format="csr")

    def _read(self, first: int, last: int) -> sp.csr_array:
        rows = self._of_source(first, last)
        if self.genes is not None:
            rows = rows[:, self.genes]
            rows.sort_indices()
        if self.factor is None:
            return rows
        data = np.log1p(rows.data * np.repeat(self.factor[first:last], np.diff(rows.indptr))).astype(np.float32)
        return sp.csr_array((data, rows.indices, rows.indptr), shape=rows.shape)

    def _of_source(self, first: int, last: int) -> sp.csr_array:
        """Rows with all genes of the source. Rows between scattered ones are read and dropped."""
        wanted = None if self.rows is None else self.rows[first:last]
        if wanted is not None and len(wanted):
            first, last = int(wanted[0]), int(wanted[-1]) + 1
        found = self.source[first:last]
        rows = as_csr(found.compute() if hasattr(found, "compute") else found, self.name)
        return rows if wanted is None or len(wanted) == rows.shape[0] else rows[wanted - first]

    def _rows(self, index: NDArray[np.intp]) -> sp.csr_array:
        """Rows in any order; those that lie close together are read at once, and no more than a block."""
        wanted, place = np.unique(index, return_inverse=True)
        if len(wanted) == 0:
            return sp.csr_array((0, self.shape[1]), dtype=np.float32)
        apart = (np.diff(wanted) > READ_AT_ONCE) | (np.diff(wanted // _step(self.shape[0], self.entries)) > 0)
        runs = np.split(wanted, np.flatnonzero(apart) + 1)
        found = [self._read(run[0], run[-1] + 1)[run - run[0]] for run in runs]
        return sp.vstack(found, format="csr")[place.ravel()]


Expression: TypeAlias = sp.csr_array | Stored


def some_genes(expression: Expression, genes: NDArray[np.intp]) -> Expression:
    """(n, m) columns of a matrix in that order; in memory with sorted indices (scipy would sort shared ones)."""
    chosen = expression[:, genes]
    if not isinstance(chosen, Stored):
        chosen.sort_indices()
    return chosen


def as_csr(x: Any, name: str) -> sp.csr_array:
    """A dense or sparse matrix as CSR float32 with sorted, unique indices and no stored zeros.

    It is copied before indices are sorted: they may be shared with the user's matrix. ValueError if it is damaged.
    """
    if not sp.issparse(x):
        return sp.csr_array(np.asarray(x), dtype=np.float32)
    _check_indices(x, name)
    rows = sp.csr_array(x, dtype=np.float32)
    if not rows.has_canonical_format or not rows.data.all():
        rows = rows.copy()
        rows.sum_duplicates()
        rows.eliminate_zeros()
    return rows


def _check_indices(x: Any, name: str) -> None:
    """Refuse a CSR or CSC matrix whose indices point outside of it: scipy's code would crash the process."""
    if x.format not in ("csr", "csc"):
        return
    n_lines, n_places = x.shape if x.format == "csr" else x.shape[::-1]
    start, index = x.indptr, x.indices
    room = min(len(index), len(x.data))
    if len(start) != n_lines + 1 or start[0] != 0 or start[-1] > room or (np.diff(start) < 0).any():
        found = "its indptr does not lead through its values"
    elif start[-1] == 0 or (0 <= index.min() and index.max() < n_places):
        return
    else:
        found = f"it has an index of {index.min() if index.min() < 0 else index.max()} among {n_places}"
    raise ValueError(f"{name} is a damaged {x.format.upper()} matrix ({found}); read or make it anew")


def blocks(expression: Expression) -> Iterator[tuple[slice, sp.csr_array]]:
    """Rows of a matrix on disk or in memory, block by block, with their place."""
    n = expression.shape[0]
    step = _step(n, expression.entries if isinstance(expression, Stored) else expression.nnz)
    for first in range(0, n, step):
        rows = slice(first, min(first + step, n))
        yield rows, expression if sp.issparse(expression) and step >= n else expression[rows]


def _step(n: int, entries: int) -> int:
    """Rows of a block."""
    return max(1, int(BLOCK * n / max(entries, 1)))


def moments(expression: Expression) -> Moments:
    """Mean, mean square and share of spots above zero of each gene."""
    n, n_genes = expression.shape
    sums = np.zeros((3, n_genes))
    for _, block in blocks(expression):
        data = block.data.astype(np.float64)
        for total, weights in zip(sums, (data, np.square(data), data > 0), strict=True):
            total += np.bincount(block.indices, weights=weights, minlength=n_genes)
    return Moments(*(sums / max(n, 1)))


def in_memory(expression: Expression) -> sp.csr_array:
    """The matrix as CSR."""
    return expression.tocsr() if isinstance(expression, Stored) else expression


def per_row(expression: Expression, of: Callable[[sp.csr_array], NDArray[Any]]) -> NDArray[Any]:
    """(n, …) values of a function of blocks of rows."""
    return np.concatenate([of(block) for _, block in blocks(expression)])
