"""Layers of the interpolated sections from the factors of a prediction, block by block: lazily, or all of them.

A prediction is small until it is made dense. A block of rows and genes of one layer is made from the factors alone, by
dask: when somebody looks at it, or all of them into memory or a store, by threads or by the caller's cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti import _keys
from c2sti._stored import Expression
from c2sti._tasks import compute
from c2sti._types import FloatArray, InterpolatedSection, Section
from c2sti.ops import nearest
from c2sti.spread import Intervals, Spread

CHUNK_ROWS = 8192
CHUNK_VALUES = 2**20  # 4 MB
LEAST_GENES = 64
GENES = 2048  # of a sparse layer that are made dense together
READ_AT_ONCE = 256  # spots between two wanted ones that are read along rather than skipped


@dataclass(frozen=True)
class Layers:
    """What every layer of the interpolated sections is computed from, and nothing else.

    Parameters
    ----------
    names
        S names of the sections.
    slices
        S sections, on one basis.
    spread
        Uncertainty, where standard deviations are wanted.
    intervals
        Where the ends of intervals are wanted.
    """

    names: Sequence[str]
    slices: tuple[InterpolatedSection, ...]
    spread: Spread | None = None
    intervals: Intervals | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and genes, (M, N)."""
        return self.slices[0].weights.shape[0], len(self.slices[0].offset)

    @property
    def n_components(self) -> int:
        """K of dense weights; of sparse ones what takes as much room, a number and a place for each spot looked at."""
        weights: Any = self.slices[0].weights
        return -(-3 * weights.nnz // (2 * weights.shape[0])) if sp.issparse(weights) else weights.shape[1]

    def kinds(self) -> list[str]:
        """What there is of each section beside its values."""
        return [_keys.STD] * (self.spread is not None) + [_keys.LOWER, _keys.UPPER] * (self.intervals is not None)

    def block(self, i: int, kind: str | None, rows: slice, genes: slice) -> NDArray[np.float32]:
        """(m, n) values of section i, or what there is of that kind beside them."""
        if kind == _keys.STD and self.spread is not None:
            return self.spread.std(i, genes, rows)
        values = self.slices[i].block(rows, genes)
        if kind is None or self.intervals is None:
            return values
        return self.intervals.bounds(values, genes)[int(kind == _keys.UPPER)]

    def section(self, i: int, rows: NDArray[np.intp]) -> Layers:
        """One of the sections, at some of its rows."""
        spread = None if self.spread is None else self.spread.section(i, rows)
        return replace(self, names=[self.names[i]], slices=(self.slices[i].rows(rows),), spread=spread)

    def _by_genes(self) -> Layers:
        """The same with what is sparse stored by genes: blocks take few of them."""
        stored: dict[int, Any] = {}

        def changed(section: InterpolatedSection) -> InterpolatedSection:
            basis = section.basis  # shared by sections, and to stay so
            if id(basis) not in stored:
                stored[id(basis)] = sp.csc_array(basis) if sp.issparse(basis) else basis
            return replace(section, basis=stored[id(basis)])

        slices, spread = tuple(map(changed, self.slices)), self.spread
        if spread is not None:
            from_a, from_b = map(changed, spread.ends)
            spread = replace(spread, ends=(from_a, from_b), calibration=None)
        return replace(self, slices=slices, spread=spread)

    def lazily(self, *, by_rows: bool = False) -> dict[str, da.Array]:
        """All layers by name, (M, N) float32: the sections, then what is beside them.

        Chunks are tall, for looking at a gene; or some rows of all genes, as they lie side by side in memory.
        """
        # One task that gives the factors, and not a copy in each of the tasks that take them.
        shared = dask.delayed(self if by_rows else self._by_genes(), pure=False, traverse=False)
        chunks = da.core.normalize_chunks(rows_of(self.shape) if by_rows else chunks_of(self.shape), self.shape)
        made = {}
        for i, kind in product(range(len(self.names)), [None, *self.kinds()]):
            name = self.names[i] if kind is None else _keys.doubt(self.names[i], kind)
            how = {"chunks": chunks, "dtype": np.float32, "meta": np.empty((0, 0), np.float32)}
            made[name] = da.map_blocks(_block, shared, i, kind, name=f"{name}-{uuid4().hex}", **how)
        return made


def _block(layers: Layers, i: int, kind: str | None, block_info: Any = None) -> NDArray[np.float32]:
    (first, last), (start, stop) = block_info[None]["array-location"]
    return layers.block(i, kind, slice(first, last), slice(start, stop))


def chunks_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and genes of a chunk: tall, because one gene of all rows is what is looked at; 4 MB."""
    rows = max(min(shape[0], CHUNK_ROWS), 1)
    return rows, max(min(shape[1], max(CHUNK_VALUES // rows, LEAST_GENES)), 1)


def rows_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and genes of a chunk of some rows of all genes; 4 MB."""
    return max(CHUNK_VALUES // max(shape[1], 1), 1), shape[1]


# ---- the measured sections on the rows of a result


def measured_lazily(section: Section, points: FloatArray, tissue: NDArray[np.bool_]) -> da.Array:
    """(M, N) the nearest spot's expression, NaN outside of the section's tissue.

    Not smoothed: what was measured keeps its noise. Not zero outside: nothing was measured there.
    """
    return rows_lazily(section.expression, np.where(tissue, nearest(section.xy, points), -1))


def rows_lazily(expression: Expression, spot: NDArray[np.intp]) -> da.Array:
    """(M, N) dense rows of a matrix by their number, NaN where that is -1."""
    shape = (len(spot), expression.shape[1])
    shared = dask.delayed(expression, pure=False, traverse=False)
    return da.map_blocks(
        _measured_block,
        shared,
        spot,
        chunks=da.core.normalize_chunks(rows_of(shape), shape),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
        name=f"measured-{uuid4().hex}",
    )


def _measured_block(expression: Expression, spot: NDArray[np.intp], block_info: Any = None) -> NDArray[np.float32]:
    (first, last), (_, n_genes) = block_info[None]["array-location"]
    here = spot[first:last]
    found = np.full((len(here), n_genes), np.nan, dtype=np.float32)
    found[here >= 0] = spots(expression, here[here >= 0]).toarray()
    return found


def spots(expression: Any, wanted: NDArray[np.intp]) -> sp.csr_array:
    """(m, N) rows of an expression matrix, CSR float32; of one that is not in memory, asked for by slices."""
    if sp.issparse(expression):
        return sp.csr_array(expression[wanted], dtype=np.float32)
    needed, place = np.unique(wanted, return_inverse=True)
    if len(needed) == 0:
        return sp.csr_array((0, expression.shape[1]), dtype=np.float32)
    runs = np.split(needed, np.flatnonzero(np.diff(needed) > READ_AT_ONCE) + 1)
    parts = [sp.csr_array(expression[run[0] : run[-1] + 1])[run - run[0]] for run in runs]
    return sp.csr_array(sp.vstack(parts, format="csr"), dtype=np.float32)[place.ravel()]


def densely(sparse: da.Array) -> da.Array:
    """(M, N) values of a lazy array of sparse blocks of rows.

    By some genes at a time, so that whoever looks at one does not have all of them made dense.
    """
    parts = []
    for first in range(0, sparse.shape[1], GENES):
        genes = slice(first, min(first + GENES, sparse.shape[1]))
        chunks = (sparse.chunks[0], (genes.stop - genes.start,))
        how = {"chunks": chunks, "dtype": np.float32, "meta": np.empty((0, 0), np.float32)}
        parts.append(da.map_blocks(_dense, sparse, genes, **how))
    return da.concatenate(parts, axis=1)


def _dense(rows: sp.csr_array, genes: slice) -> NDArray[np.float32]:
    return rows[:, genes].toarray()


# ---- computed


def store(
    arrays: Sequence[da.Array],
    targets: Sequence[Any],
    *,
    n_threads: int,
    progress: Callable[[float], object] = lambda share: None,
) -> None:
    """Write arrays into others, numpy's or zarr's of the same chunks, by threads or on the caller's cluster."""
    writing = da.store(list(arrays), list(targets), lock=False, compute=False)
    compute([writing], n_threads=n_threads, progress=progress)


def confidence(values: da.Array, std: da.Array, inside: NDArray[np.bool_]) -> da.Array:
    """(M,) share of the variance between the bins of a section that is not uncertainty: V / (V + std² of the bin).

    V is the variance of the interpolated values over the section's bins; both are summed over genes. 1 where nothing
    is uncertain, ½ where a bin is as uncertain as bins differ; 0 where no bin differs from another.

    Parameters
    ----------
    values, std
        (M, N).
    inside
        (M,) rows of the section's tissue.
    """
    known = values[np.flatnonzero(inside)].astype(np.float64).var(axis=0).sum() if inside.any() else 0.0
    uncertain = (std.astype(np.float64) ** 2).sum(axis=1)
    return known / da.maximum(known + uncertain, np.finfo(np.float64).tiny)
