"""Arrays → a store on disk, piece by piece: a result whose dense layers never exist in memory.

An answer is small, ``max(weights @ basis + offset, 0)``, until it is made dense. Each task makes one block of rows and
genes of all layers from these factors and writes it as one whole chunk an array, so that tasks never meet in a file
and may be done in any order, anywhere, and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree
from threadpoolctl import threadpool_limits

from c2sti import _keys
from c2sti._types import FloatArray, InsertedSection, Noise, Prediction, Section, SlicePair
from c2sti.grid._lattice import Rows
from c2sti.grid._store import codec, rounded
from c2sti.spread import Spread

CHUNK_ROWS = 8192
CHUNK_VALUES = 2**20  # 4 MB
LEAST_GENES = 64
SPARSE_CHUNK = 2**20
READ_AT_ONCE = 256  # spots between two wanted ones that are read along rather than skipped
ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}  # anndata's mark of a dense array
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Answer:
    """What every dense layer is computed from, and nothing else: it travels to where the work is done.

    Parameters
    ----------
    names
        S names of the inserted sections.
    slices
        S sections.
    inside
        (S, M) rows inside the outline of each.
    spread
        How sure they are, where that is asked for.
    std, level
        Whether standard deviations are wanted, and the level of intervals.
    digits
        Significant decimal digits to keep.
    """

    names: Sequence[str]
    slices: tuple[InsertedSection, ...]
    inside: NDArray[np.bool_]
    spread: Spread | None = None
    std: bool = False
    level: float | None = None
    digits: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and genes, (M, N)."""
        return self.slices[0].weights.shape[0], len(self.slices[0].offset)

    def kinds(self) -> list[str]:
        """What is written of each section beside its values."""
        bounds = [_keys.LOWER, _keys.UPPER] if self.level is not None else []
        return [_keys.STD] * self.std + bounds

    def layers(self) -> list[str]:
        """Names of all layers."""
        doubts = [_keys.doubt(name, kind) for name in self.names for kind in self.kinds()]
        return [*self.names, *doubts]

    def values(self, i: int, rows: slice, genes: slice) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Layers of section i, by name: (m, n) of some rows and genes."""
        name = self.names[i]
        made = self.slices[i].rows(rows).expression(genes)
        yield name, made
        if self.spread is not None and self.std:
            yield _keys.doubt(name, _keys.STD), self.spread.std(i, genes, rows)
        if self.spread is not None and self.spread.calibration is not None and self.level is not None:
            lower, upper = self.spread.calibration.bounds(made, self.level, genes)
            yield _keys.doubt(name, _keys.LOWER), lower
            yield _keys.doubt(name, _keys.UPPER), upper


@dataclass(frozen=True)
class Told:
    """What a task has found out about its block beside the values, for the confidence of each bin.

    Parameters
    ----------
    rows
        Rows of the block.
    doubt
        (S, m) std² summed over the block's genes.
    moments
        (S, 3, n) number of rows inside the section's outline, mean of the values there, and sum of squares around it.
    rows_at_once
        As many rows as fitted into memory together.
    """

    rows: slice
    doubt: FloatArray
    moments: FloatArray
    rows_at_once: int


def chunks_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and genes of a chunk: tall, because one gene of all rows is what is looked at; 4 MB."""
    rows = max(min(shape[0], CHUNK_ROWS), 1)
    return rows, max(min(shape[1], max(CHUNK_VALUES // rows, LEAST_GENES)), 1)


def stream_layers(
    store: Path,
    frame: AnnData,
    answer: Answer,
    pair: SlicePair,
    rows: Rows,
    *,
    progress: Callable[[float], object] = lambda share: None,
) -> None:
    """Write a whole result: the frame, the measured sections as CSR, the inserted ones block by block.

    Parameters
    ----------
    store
        Folder to write, which is not there yet.
    frame
        Made by :func:`c2sti.grid.frame_slices` without layers. Confidences in `obs` are filled in here.
    answer
        What the inserted layers are computed from.
    pair, rows
        The measured sections, and the M points.
    progress
        Is told each share of the work that has been done.
    """
    import zarr  # noqa: PLC0415 - heavy, and only a streamed result needs it
    from anndata.io import write_elem  # noqa: PLC0415

    group = zarr.open_group(str(store), mode="w-", zarr_format=3)
    frame.strings_to_categoricals()
    write_elem(group, "/", frame)
    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    layers = group.require_group("layers")
    for name, section, p in ((_keys.SLICE_A, pair.a, 0.0), (_keys.SLICE_B, pair.b, 1.0)):
        _write_measured(layers, name, section, rows.points, rows.inside(p))
    for name in answer.layers():
        layers.create_array(
            name,
            shape=answer.shape,
            chunks=chunks_of(answer.shape),
            dtype="float32",
            compressors=codec(),
            attributes=ARRAY,
        )
    told = write_blocks(store, answer, progress=progress)
    if answer.std:
        _fill_confidence(frame, answer, told)
        write_elem(group, "obs", frame.obs)
    zarr.consolidate_metadata(group.store)


# ---- the inserted sections


def blocks(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and genes of every chunk, gene blocks first."""
    m, n = chunks_of(shape)
    return [
        (slice(row, min(row + m, shape[0])), slice(gene, min(gene + n, shape[1])))
        for gene in range(0, shape[1], n)
        for row in range(0, shape[0], m)
    ]


def write_blocks(
    store: Path, answer: Answer, *, progress: Callable[[float], object] = lambda share: None
) -> list[Told]:
    """Write all blocks of the inserted layers, by as many threads as torch has, and give back what each tells."""
    answer = settled(answer)
    wanted = blocks(answer.shape)
    work = partial(write_block, str(store), answer)
    told: list[Told | None] = [None] * len(wanted)
    pool = ThreadPoolExecutor(max_workers=torch.get_num_threads())
    try:
        with threadpool_limits(1, user_api="blas"):  # threads of ours, not threads of theirs in each of ours
            jobs: dict[Future[Told], int] = {pool.submit(work, block): i for i, block in enumerate(wanted)}
            for job in as_completed(jobs):
                told[jobs[job]] = job.result()
                progress(1 / len(wanted))
    finally:
        pool.shutdown(cancel_futures=True)
    return [t for t in told if t is not None]


def settled(answer: Answer) -> Answer:
    """The same with all that is computed once computed, and what is sparse stored by genes: blocks take few of them."""
    stored: dict[int, FloatArray | sp.csc_array] = {}

    def by_genes(section: InsertedSection) -> InsertedSection:
        key = id(section.basis)  # shared by sections, and to stay so
        if key not in stored:
            stored[key] = sp.csc_array(section.basis) if sp.issparse(section.basis) else section.basis
        return replace(section, basis=stored[key])

    slices = tuple(map(by_genes, answer.slices))
    spread = answer.spread
    if spread is not None:
        noise, calibration = spread.prediction.noise, spread.calibration
        if noise is not None:
            noise = Noise(partial(np.asarray, noise.weights()), partial(np.asarray, noise.basis()))
        if calibration is not None:
            first, second = calibration.predicted
            calibration = replace(calibration, predicted=(by_genes(first), by_genes(second)))
        from_a, from_b = map(by_genes, spread.ends)
        prediction = Prediction(slices, noise=noise)
        spread = replace(spread, prediction=prediction, ends=(from_a, from_b), calibration=calibration)
    return replace(answer, slices=slices, spread=spread)


def write_block(store: str, answer: Answer, block: tuple[slice, slice], rows_at_once: int = CHUNK_ROWS) -> Told:
    """Compute one block of all inserted layers and write it, a whole chunk an array."""
    rows, genes = block
    arrays = _arrays(store)
    s, m, n = len(answer.slices), rows.stop - rows.start, genes.stop - genes.start
    doubt, moments = np.zeros((s, m)), np.zeros((s, 3, n))
    for i, name in enumerate(answer.names):
        made, rows_at_once = _computed(answer, i, rows, genes, rows_at_once)
        for layer, values in made.items():
            arrays[layer][rows, genes] = rounded(values, answer.digits)
        if answer.std:
            doubt[i] = np.square(made[_keys.doubt(name, _keys.STD)], dtype=np.float64).sum(axis=1)
            moments[i] = _moments(made[name][answer.inside[i, rows]])
    return Told(rows, doubt, moments, rows_at_once)


def _computed(
    answer: Answer, i: int, rows: slice, genes: slice, at_once: int
) -> tuple[dict[str, NDArray[np.float32]], int]:
    """Layers of one section in one block, (m, n), and the number of rows that were computed together."""
    shape = (rows.stop - rows.start, genes.stop - genes.start)
    made: dict[str, NDArray[np.float32]] = {}
    start, at_once = 0, min(at_once, shape[0])
    while start < shape[0]:
        stop = min(start + at_once, shape[0])
        try:
            for name, values in answer.values(i, slice(rows.start + start, rows.start + stop), genes):
                made.setdefault(name, np.empty(shape, dtype=np.float32))[start:stop] = values
        except OUT_OF_MEMORY:
            if at_once == 1:
                raise
            at_once = max(at_once // 2, 1)
            continue
        start = stop
    return made, at_once


@lru_cache(maxsize=2)
def _arrays(store: str) -> dict[str, Any]:
    """Inserted layers of a store, opened once a process."""
    import zarr  # noqa: PLC0415 - see above

    layers: Any = zarr.open_group(store, mode="r+")["layers"]
    return dict(layers.arrays())


# ---- confidence, see spread.confidence: what is asked of whole sections, from what blocks tell


def _moments(values: NDArray[np.float32]) -> FloatArray:
    """(3, n) number, mean and sum of squares around it, of (m, n) values."""
    if len(values) == 0:
        return np.zeros((3, values.shape[1]))
    mean = values.mean(axis=0, dtype=np.float64)
    return np.stack([np.full(len(mean), float(len(values))), mean, np.square(values - mean).sum(axis=0)])


def _together(first: FloatArray, second: FloatArray) -> FloatArray:
    """(S, 3, n) moments of two sets of rows as one (Chan, Golub and LeVeque 1983)."""
    n = np.maximum(first[:, 0] + second[:, 0], 1)
    step = second[:, 1] - first[:, 1]
    mean = first[:, 1] + step * second[:, 0] / n
    around = first[:, 2] + second[:, 2] + np.square(step) * first[:, 0] * second[:, 0] / n
    return np.stack([first[:, 0] + second[:, 0], mean, around], axis=1)


def _fill_confidence(frame: AnnData, answer: Answer, told: Sequence[Told]) -> None:
    doubt = np.zeros((len(answer.names), answer.shape[0]))
    known = np.zeros(len(answer.names))
    per_genes = -(-answer.shape[0] // chunks_of(answer.shape)[0])
    for first in range(0, len(told), per_genes):
        column = told[first : first + per_genes]
        moments = column[0].moments
        for block in column[1:]:
            moments = _together(moments, block.moments)
        known += (moments[:, 2] / np.maximum(moments[:, 0], 1)).sum(axis=1)
        for block in column:
            doubt[:, block.rows] += block.doubt
    for i, name in enumerate(answer.names):
        frame.obs[_keys.confidence(name)] = known[i] / np.maximum(known[i] + doubt[i], np.finfo(np.float64).tiny)


# ---- the measured sections


def _write_measured(layers: Any, name: str, section: Section, points: FloatArray, tissue: NDArray[np.bool_]) -> None:
    """The nearest spot's expression as CSR, block of rows after block of rows; nothing outside of the tissue."""
    from anndata.io import sparse_dataset, write_elem  # noqa: PLC0415 - anndata loads zarr with it

    nearest = KDTree(section.xy).query(points)[1]
    n_genes = section.expression.shape[1]
    # Of no rows, so that all chunks are of one size, and 64 bits for as many values as there may be.
    none = sp.csr_matrix((0, n_genes), dtype=np.float32)
    how = {"chunks": (SPARSE_CHUNK,), "compressors": codec(), "indptr_dtype": np.dtype("int64")}
    write_elem(layers, name, none, dataset_kwargs=how)
    written = sparse_dataset(layers[name])
    for first in range(0, len(points), CHUNK_ROWS):
        block = slice(first, first + CHUNK_ROWS)
        inside = tissue[block]
        values = spots(section.expression, nearest[block][inside])
        length = np.zeros(len(inside), dtype=np.int64)
        length[inside] = np.diff(values.indptr)
        start = np.concatenate([[0], np.cumsum(length)])
        written.append(sp.csr_matrix((values.data, values.indices, start), shape=(len(inside), n_genes)))


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
