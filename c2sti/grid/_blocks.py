"""One block of rows and genes of all inserted layers, from the factors of the answer into whole chunks of a store.

An answer is small, ``max(weights @ basis + offset, 0)``, until it is made dense. A task makes one block of it and
writes that as one whole chunk an array, so that tasks never meet in a file and may be done in any order, anywhere, and
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from socket import gethostname
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from c2sti import _keys
from c2sti._types import FloatArray, InsertedSection, Noise, Prediction
from c2sti.grid._store import rounded
from c2sti.spread import Spread

CHUNK_ROWS = 8192
CHUNK_VALUES = 2**20  # 4 MB
LEAST_GENES = 64
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)

Block = tuple[slice, slice]  # rows and genes


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

    @property
    def n_components(self) -> int:
        """K of dense weights; of sparse ones what takes as much room, a number and a place for each spot looked at."""
        weights: Any = self.slices[0].weights
        return -(-3 * weights.nnz // (2 * weights.shape[0])) if sp.issparse(weights) else weights.shape[1]

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
        made = self.slices[i].block(rows, genes)
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
        The number of rows to compute together, or fewer if they did not fit into memory.
    """

    rows: slice
    doubt: FloatArray
    moments: FloatArray
    rows_at_once: int


def chunks_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and genes of a chunk: tall, because one gene of all rows is what is looked at; 4 MB."""
    rows = max(min(shape[0], CHUNK_ROWS), 1)
    return rows, max(min(shape[1], max(CHUNK_VALUES // rows, LEAST_GENES)), 1)


def blocks(shape: tuple[int, int]) -> list[Block]:
    """Rows and genes of every chunk, gene blocks first."""
    m, n = chunks_of(shape)
    return [
        (slice(row, min(row + m, shape[0])), slice(gene, min(gene + n, shape[1])))
        for gene in range(0, shape[1], n)
        for row in range(0, shape[0], m)
    ]


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


def write_block(store: str, answer: Answer, block: Block, rows_at_once: int) -> Told:
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
    """Layers of one section in one block, (m, n), and the number of rows that may be computed together."""
    shape = (rows.stop - rows.start, genes.stop - genes.start)
    made: dict[str, NDArray[np.float32]] = {}
    start = 0
    while start < shape[0]:
        stop = min(start + at_once, shape[0])
        try:
            for name, values in answer.values(i, slice(rows.start + start, rows.start + stop), genes):
                made.setdefault(name, np.empty(shape, dtype=np.float32))[start:stop] = values
        except OUT_OF_MEMORY:
            if stop - start == 1:
                raise
            at_once = (stop - start) // 2  # of what was tried: the last rows may be fewer
            continue
        start = stop
    return made, at_once


@lru_cache(maxsize=2)
def _arrays(store: str) -> dict[str, Any]:
    """Inserted layers of a store, opened once a process."""
    if not Path(store).is_dir():
        raise FileNotFoundError(f"{gethostname()} does not see {store}; workers need the file system of out=")
    import zarr  # noqa: PLC0415 - see above

    layers: Any = zarr.open_group(store, mode="r+")["layers"]
    return dict(layers.arrays())


def _moments(values: NDArray[np.float32]) -> FloatArray:
    """(3, n) number, mean and sum of squares around it, of (m, n) values."""
    if len(values) == 0:
        return np.zeros((3, values.shape[1]))
    mean = values.mean(axis=0, dtype=np.float64)
    return np.stack([np.full(len(mean), float(len(values))), mean, np.square(values - mean).sum(axis=0)])
