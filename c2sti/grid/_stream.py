"""Arrays → a store on disk, piece by piece: a result whose dense layers never exist in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys
from c2sti._tasks import each
from c2sti._types import FloatArray, Section, SlicePair
from c2sti.grid._blocks import Answer, Block, Told, blocks, chunks_of, settled, write_block
from c2sti.grid._lattice import Rows
from c2sti.grid._memory import Plan
from c2sti.grid._store import codec
from c2sti.ops import nearest

SPARSE_CHUNK = 2**20
MEASURED_ROWS = 2048  # rows of a measured section that are read and written together
READ_AT_ONCE = 256  # spots between two wanted ones that are read along rather than skipped
# Of libraries to their own developers, at every write.
OF_NO_USE = (".*autosharding will be the default", "Consolidated metadata is currently not part")
ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}  # anndata's mark of a dense array


def stream_layers(
    store: Path,
    frame: AnnData,
    answer: Answer,
    pair: SlicePair,
    rows: Rows,
    *,
    plan: Plan,
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
    plan
        How much is worked on at a time.
    progress
        Is told each share of the work that has been done.
    """
    import zarr  # noqa: PLC0415 - heavy, and only a streamed result needs it
    from anndata.io import write_elem  # noqa: PLC0415

    with warnings.catch_warnings():
        for text in OF_NO_USE:
            warnings.filterwarnings("ignore", text)
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
        told = write_blocks(store, answer, plan, progress=progress)
        if answer.std:
            _fill_confidence(frame, answer, told)
            write_elem(group, "obs", frame.obs)
        zarr.consolidate_metadata(group.store)


# ---- the inserted sections


def write_blocks(store: Path, answer: Answer, plan: Plan, *, progress: Callable[[float], object]) -> list[Told]:
    """Write all blocks of the inserted layers, by threads or by the caller's cluster, and give back what each tells."""
    answer, wanted = settled(answer), blocks(answer.shape)
    told: list[Told | None] = [None] * len(wanted)
    rows_at_once = plan.rows_at_once

    def task(place: int) -> tuple[Block, int]:
        return wanted[place], rows_at_once  # as many as fitted into memory so far

    done = each(_write, (str(store.absolute()), answer), len(wanted), task, n_threads=plan.tasks)
    with closing(done):  # whatever happens here, nobody writes on once we are gone
        for place, block in done:
            told[place] = block
            progress(1 / len(wanted))
            if block.rows_at_once < rows_at_once:
                text = f"out of memory with {rows_at_once} rows at once; going on with {block.rows_at_once}"
                warnings.warn(text, stacklevel=2)
                rows_at_once = block.rows_at_once
    return [block for block in told if block is not None]


def _write(to: tuple[str, Answer], task: tuple[Block, int]) -> Told:
    return write_block(*to, *task)


# ---- confidence, see spread.confidence: what is asked of whole sections, from what blocks tell


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

    found = nearest(section.xy, points)
    n_genes = section.expression.shape[1]
    # Of no rows, so that all chunks are of one size, and 64 bits for as many values as there may be.
    none = sp.csr_matrix((0, n_genes), dtype=np.float32)
    how = {"chunks": (SPARSE_CHUNK,), "compressors": codec(), "indptr_dtype": np.dtype("int64")}
    write_elem(layers, name, none, dataset_kwargs=how)
    written = sparse_dataset(layers[name])
    for first in range(0, len(points), MEASURED_ROWS):
        block = slice(first, first + MEASURED_ROWS)
        inside = tissue[block]
        values = spots(section.expression, found[block][inside])
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
