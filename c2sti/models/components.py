"""Sections as components: groups of genes that vary together, each with a map over the tissue.

The paper's graph A (eq. 2) says which genes vary together; its leading directions are components, principal axes of log
expression, and a gene belongs to each by a loading. `gp` takes them as they are, with maps that are smooth without end.
Four things make them better without any training, the last two about counts, which are what was measured:

- **Matérn maps** have one derivative; tissue has borders;
- **length scales** of its own for each map: it is a mean over a few, by their evidence;
- **variance**: spots of small library size are noisier and count for less, for the components and for their maps;
- **count splitting**: a component found in the very counts that are then projected on it carries their noise twice. So
  counts are also split into two independent parts: one gives the loadings, the other the maps, and the reverse. The
  prediction is a mean of what all counts and what the two parts say; the parts count for more the more genes there
  are for each spot, because components carry more noise then, see :func:`_shares`.

The same is done whatever the size. What changes with it is how finely tissue is summed, see :mod:`c2sti.models.block`.

Counts, which are sparse, are split and summed on the processor; what is dense is computed on the device asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, reduce

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor

from c2sti._backed import BLOCK, blocks
from c2sti._tasks import one_thread
from c2sti._types import TARGET_SUM, FloatArray, Section, SlicePair
from c2sti.field import (
    MOST,
    NEARLY_SAME,
    Field,
    Kernel,
    Observed,
    best_length,
    best_sharing,
    dot,
    log_evidence,
)
from c2sti.models.block import PATCHES, Block, windows_in
from c2sti.models.description import Description
from c2sti.models.registration import Registration, register
from c2sti.ops import mean_operator, signs
from c2sti.thinning import split

CHUNK = 4096  # genes whose inner products are summed in single precision
DOUBLE = 2**22  # values of a section up to which they are kept in double precision: it costs nothing there
N_LEADING = 8  # components by which the covariance that all share is chosen
NARROW = 300  # spots of a window in which two sections are compared before and after they are registered
DETAIL = 2000  # spots of a window in which sections are asked for detail that they share

Turn = tuple[int, ...]  # seeds of a count splitting; none for all counts


@dataclass(frozen=True)
class Settings:
    """How sections are described.

    Parameters
    ----------
    n_components
        K of each description.
    n_splits
        Times that counts are split, two descriptions each.
    counts
        Whether counts are looked at where they are known: spots are weighted, and counts are split.
    matern
        Whether maps are Matérn fields; Gaussian ones if not.
    own_lengths
        Whether each map has length scales of its own.
    registered
        Whether sections are registered before maps are made of them, as far as that explains how they differ.
    detail
        Whether detail below the length scales is predicted from one section to the next, as far as they share it.
    """

    n_components: int = 60
    n_splits: int = 1
    counts: bool = True
    matern: bool = True
    own_lengths: bool = True
    registered: bool = True
    detail: bool = True


def describe(
    sections: Sequence[Section],
    spacing: float,
    gene_keys: NDArray[np.uint64],
    settings: Settings,
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> Description:
    """Describe sections of one block, with the same genes.

    Parameters
    ----------
    sections
        Two or more, at positions on one scale.
    spacing
        Between neighbouring spots, unit of the frame.
    gene_keys
        (N,) numbers by which counts of a gene are split, see :func:`c2sti.thinning.split`.
    settings
        How.
    device
        Where components are found and maps are solved.
    seed
        Of the splits, and of the windows to learn from.
    progress
        Called with each share of the work that has been done, 1 in all.
    """
    block = Block(sections, spacing, use_counts=settings.counts)
    with one_thread() if block.is_small else nullcontext():
        windows = block.windows(seed)
        variance = block.variance(np.unique(np.concatenate(windows)))
        n_splits = settings.n_splits if block.counted else 0
        turns: list[Turn] = [(), *((seed, turn) for turn in range(n_splits))]
        loadings, scores, n_genes = [], [], []
        for turn in turns:
            axes, found, effective = _components(block, gene_keys, variance, settings.n_components, turn, device)
            loadings += axes
            scores += found
            n_genes.append(effective)
            progress(0.6 / len(turns))
        leading = scores[0][:, : min(N_LEADING, len(loadings[0]))]  # of all counts

        def learnt(noise: FloatArray) -> list[Observed]:
            return [Observed.of(block.x[w], block.z[w], leading[w], noise[w], "cpu") for w in windows]

        def shared_kernel() -> Kernel:
            # How a map varies over the tissue is not a matter of library sizes: all spots are alike for it.
            kernel = best_length(learnt(np.ones_like(variance)), gaussian=not settings.matern)
            return best_sharing(kernel, learnt(variance))

        def sharing(own: FloatArray, spots: NDArray[np.intp], one: Registration | None) -> tuple[float, float]:
            seen = []
            for w in windows_in(block.x[spots], block.z[spots], seed, NARROW):
                i = spots[w]
                x = block.x[i] if one is None else one.spots_at_home(block.x[i], block.z[i])
                z = (block.z[i] > block.z[spots].min()).astype(np.float64)  # one apart, whatever the gap
                seen.append(Observed.of(x, z, own[i, : leading.shape[1]], variance[i], "cpu"))
            found = best_sharing(kernel, seen, NEARLY_SAME)
            return found.correlation, log_evidence(found, seen)

        kernel, registration = shared_kernel(), None
        if settings.registered:
            registration = register(block.x, block.z, scores[1:] or scores, sharing)
        if registration is not None:
            block.x = registration.spots_at_home(block.x, block.z)
            windows = block.windows(seed)
            kernel = shared_kernel()
        progress(0.2)

        def cells(length: float) -> Observed:
            cell = block.cells(length)
            mean, z = mean_operator(cell, 1 / variance), block.z[np.unique(cell, return_index=True)[1]]
            values = np.concatenate([mean @ own for own in scores], axis=1)
            return Observed.of(mean @ block.x, z, values, mean.power(2) @ variance, device)

        def spots(index: NDArray[np.intp] | slice) -> Observed:
            values = np.concatenate([own[index] for own in scores], axis=1)
            return Observed.of(block.x[index], block.z[index], values, variance[index], device)

        field = Field.learn(
            cells(kernel.length),
            kernel,
            seed,
            own_lengths=settings.own_lengths,
            coarser=cells,
            spots=spots if settings.detail else None,
            windows_of_spots=windows_in(block.x, block.z, seed, DETAIL),
        )
        progress(0.2)
    shares = _shares(n_splits, len(block.x), n_genes[0])
    stacked = np.stack(loadings).astype(np.float32)
    return Description(stacked, field, shares, spacing, unit=block.unit, registration=registration)


def _shares(n_splits: int, n_spots: int, n_genes: float) -> NDArray[np.float32]:
    """(D,) shares of all counts, n / (n + N) for n spots and N genes, and of the parts of each split.

    The noise of n spots of N genes lies along a component that was found in it in proportion to N / n.
    """
    whole = n_spots / (n_spots + n_genes) if n_splits else 1.0
    parts = np.full(2 * n_splits, (1 - whole) / max(2 * n_splits, 1))
    return np.concatenate([[whole], parts]).astype(np.float32)


# ---- components, and their values in spots


def _components(
    block: Block,
    gene_keys: NDArray[np.uint64],
    variance: FloatArray,
    n_components: int,
    turn: Turn,
    device: str = "cpu",
) -> tuple[list[FloatArray], list[FloatArray], float]:
    """(K, N) axes, the (n, K) scores on them, and about how many genes vary.

    Of all counts; or of each part of a split, with the scores of the other part.
    """
    parts = zip(block.sections, block.rows(), block.patches(), strict=True)

    def halves(i: int) -> Iterator[tuple[slice, list[sp.csr_array]]]:
        return _split_expression(block.sections[i], block.libraries[i], gene_keys, turn)

    split_once = cache(lambda i: list(halves(i)))

    def values(i: int) -> Iterable[tuple[slice, list[sp.csr_array]]]:
        section = block.sections[i]
        if not turn:
            return ((rows, [values]) for rows, values in blocks(section.expression))
        # Of what is one block the parts are kept; larger sections are split each time that they are looked at.
        return split_once(i) if getattr(section.counts, "nnz", BLOCK) < BLOCK else halves(i)

    found = [
        _patch_rows(values(i), variance[rows], patch, section.expression.shape[1])
        for i, (section, rows, patch) in enumerate(parts)
    ]
    rows, means = zip(*found, strict=True)
    axes = [_axes(list(part), n_components, device) for part in zip(*rows, strict=True)]
    scores = [_scores(values(i), n, mean, axes) for i, (n, mean) in enumerate(zip(block.lengths, means, strict=True))]
    varies = sum(np.square(first).sum(axis=0, dtype=np.float64) for first, *_ in rows)
    n_effective = float(varies.sum() ** 2 / max(np.square(varies).sum(), np.finfo(float).tiny))
    return axes, [np.concatenate(part) for part in zip(*scores, strict=True)], n_effective


def _split_expression(
    section: Section, library: FloatArray, gene_keys: NDArray[np.uint64], turn: Turn
) -> Iterator[tuple[slice, list[sp.csr_array]]]:
    """Rows, and the log expression of the two parts that their counts are split into, block by block."""
    assert section.counts is not None, "only counts can be split"
    for rows, counts in blocks(section.counts):
        first = split(counts, gene_keys, *turn)
        factor = np.repeat((2 * TARGET_SUM / library[rows]).astype(np.float32), np.diff(counts.indptr))
        parts = []
        for part in (first, counts.data - first):
            logs = sp.csr_array((np.log1p(part * factor), counts.indices, counts.indptr), counts.shape).copy()
            logs.eliminate_zeros()  # in place, hence the copy
            parts.append(logs)
        yield rows, parts


def _patch_rows(
    values: Iterable[tuple[slice, list[sp.csr_array]]], variance: FloatArray, patch: NDArray[np.intp], n_genes: int
) -> tuple[list[FloatArray], list[FloatArray]]:
    """(P, N) profiles of the patches of a section, centred, in units of their noise; and (N,) means over all spots.

    One of each, or one for each part of a split. A patch counts by the sum of the precisions of its spots.
    """
    n, precision = len(patch), np.bincount(patch, 1 / variance)
    every, one_more = np.arange(n), np.full(n, len(precision))
    weight = np.concatenate([1 / variance, np.full(n, 1 / n)])
    member = sp.csr_array((weight, (np.concatenate([patch, one_more]), np.tile(every, 2))))
    member = member.astype(np.float64 if n * n_genes <= DOUBLE else np.float32)
    totals: list[FloatArray] = []
    for rows, parts in values:
        sums = [(member[:, rows] @ part).toarray() for part in parts]
        totals = [total + more for total, more in zip(totals, sums, strict=True)] if totals else sums
    for total in totals:
        total[:-1] -= precision[:, None].astype(total.dtype) * total[-1]
        total[:-1] /= np.sqrt(precision)[:, None].astype(total.dtype)
    return [total[:-1] for total in totals], [total[-1] for total in totals]


def _axes(rows: Sequence[FloatArray], n_components: int, device: str) -> FloatArray:
    """(K, N) principal axes, strongest first, of the patches of all sections; those that do not vary are zero."""
    there = [torch.as_tensor(r, device=device) for r in rows]
    n, n_genes = sum(map(len, there)), there[0].shape[1]
    gram = torch.zeros(n, n, dtype=torch.float64, device=device)
    for first in range(0, n_genes, CHUNK):
        chunk = torch.cat([r[:, first : first + CHUNK] for r in there])
        gram += dot(chunk, chunk.T)
    power, vectors = _leading(gram, max(min(n_components, n - len(rows), n_genes), 1))
    strength = power.clamp_min(0).sqrt()
    # An axis without variance is zero, not rounding over rounding.
    present = strength > (1e-4 if there[0].dtype == torch.float32 else 1e-7) * strength[0]
    weights = torch.where(present, vectors / torch.where(present, strength, 1), 0).to(there[0].dtype)
    parts = zip(weights.split([len(r) for r in there]), there, strict=True)
    axes = reduce(torch.add, (dot(w.T, r) for w, r in parts)).cpu().numpy()
    return axes * signs(axes)[:, None]


def _leading(gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(K,) largest eigenvalues of a symmetric matrix, largest first, and its (n, K) vectors."""
    if gram.is_cuda:
        power, vectors = torch.linalg.eigh(gram)
    else:  # by the library that finds some of them only
        n = len(gram)
        power, vectors = map(torch.from_numpy, eigh(gram.numpy(), subset_by_index=(n - rank, n - 1)))
    return power[-rank:].flip(0), vectors[:, -rank:].flip(1)


def _scores(
    values: Iterable[tuple[slice, list[sp.csr_array]]], n: int, means: Sequence[FloatArray], axes: Sequence[FloatArray]
) -> list[FloatArray]:
    """(n, K) centred spots of a section on each axes; of a split, those of the other part."""
    right = [np.ascontiguousarray(a.T) for a in axes]
    found = [np.empty((n, r.shape[1]), r.dtype) for r in right]
    for rows, parts in values:
        for score, part, r in zip(found, parts[::-1], right, strict=True):
            score[rows] = part @ r
    return [score - mean @ r for score, mean, r in zip(found, means[::-1], right, strict=True)]


PER_ENTRY = 72  # bytes for each entry of a block while it is split into two parts
PER_SCORE = 8  # for each spot and map: scores, and their copy while they are centred
PER_POINT = 8  # for each point, position and map: the posterior mean, and what it is compressed to
PER_PAIR = 120  # for each two cells of a tile: their covariance, its spectrum for each length scale
LEAST = 60_000_000  # whatever the size


def memory(pair: SlicePair, n_points: int, n_positions: int, settings: Settings) -> int:
    """Bytes at the peak of a description and of the maps made from it.

    Parameters
    ----------
    pair
        What is described.
    n_points, n_positions
        M and S of what is asked for.
    settings
        Of the description.
    """
    sections = pair.sections
    n_spots = sum(len(section.xy) for section in sections)
    entries = min(BLOCK, sum(getattr(section.expression, "nnz", BLOCK) for section in sections))
    parts = 2 if settings.counts and settings.n_splits else 1
    n_maps = settings.n_components * (1 + 2 * settings.n_splits * settings.counts)
    patches = 4 * parts * pair.n_genes * (min(PATCHES, n_spots) + 2 * len(sections))
    describing = patches + PER_ENTRY * entries + PER_SCORE * n_spots * n_maps
    mapping = PER_POINT * n_points * (n_positions + 1) * n_maps
    tile = PER_PAIR * min(n_spots, MOST) ** 2
    return LEAST + tile + max(describing, mapping)
