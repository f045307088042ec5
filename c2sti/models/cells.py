"""Cells of a section that was never measured: which cells of its two neighbours stand in it, and where.

Every cell of both sections is moved to where its tissue lies, and kept or left out. Kept are those that minimise

    Σ |density kept − density interpolated|² over places and types
        + PAIRS · Σ (pairs kept − pairs interpolated)² / pairs interpolated, over types of two cells and their distance
        + COUNTS · Σ (cells kept − cells interpolated)² / cells interpolated, over types,

so that density and composition are right at every place, and neighbourhoods are those of the two sections. A cell is
kept or not, nothing is an average of types; a type that one section alone has fades with the position. Then cells are
moved a little along the line to their nearest neighbour, by which these distances become those of the two sections.

Densities are sums of Gaussians around cells. Each round changes cells that do not see each other, each of which lowers
the sum most among those that it sees: the work grows with the number of cells, not with its square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti._types import FloatArray

WIDTHS = (1.0, 2.0)  # of the Gaussians of a density, in cell spacings
REACH = 3.0  # of the widest of them, beyond which cells do not see each other
SHELLS = (0.5, 1.6)  # outer ends of the classes of distance of two cells, in cell spacings
PAIRS, COUNTS = 3.0, 10.0  # weights of pairs and of numbers of cells beside densities
FEW = 5.0  # added to an interpolated number, by whose share a kept one is judged
ROUNDS = 150
ACTIVE = 0.5  # share of the cells that may change in a round, lest pairs of types far apart overshoot together
N_SPACED, STEP = 20, 0.5  # steps in which distances are corrected, and how far each goes


@dataclass(frozen=True)
class Candidates:
    """Cells of both sections, those of the first one before those of the second, at one position between them.

    Parameters
    ----------
    xy
        (n, 2) where the tissue of each cell lies at that position.
    second
        (n,) whether a cell is of the second section.
    types
        (n,) whole numbers from 0.
    share
        (n,) of the cells like this one that are kept: 1 − p of the first section and p of the second; 1 where the other
        section has no tissue, and 0 outside of the outline.
    nearest
        (n,) distance to the nearest cell of the same section, where both were measured: tissue that is bent by a
        registration bends no cell.
    """

    xy: FloatArray
    second: NDArray[np.bool_]
    types: NDArray[np.intp]
    share: FloatArray
    nearest: FloatArray

    @property
    def sections(self) -> list[NDArray[np.intp]]:
        """Indices of the cells of each section that may be kept."""
        return [np.flatnonzero((self.second == second) & (self.share > 0)) for second in (False, True)]


def spacing(xy: FloatArray) -> float:
    """Distance of neighbours in a square array as dense as cells are, by the median distance of the sixth neighbour."""
    sixth = KDTree(xy).query(xy, k=[min(7, len(xy))])[0]
    return float(np.sqrt(np.pi / 6) * np.median(sixth))


def nearest_cell(xy: FloatArray) -> FloatArray:
    """(n,) distance to the nearest other cell."""
    return KDTree(xy).query(xy, k=[2])[0][:, 0]


def chosen(candidates: Candidates, rng: np.random.Generator) -> tuple[NDArray[np.intp], FloatArray]:
    """Indices (m,) of the cells that are kept, and where (m, 2) they lie."""
    kept = np.flatnonzero(_kept(candidates, rng))
    return kept, _spaced(candidates.xy[kept], candidates.nearest, candidates.share, rng)


# ---- which cells


def _kept(cells: Candidates, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(n,) whether a cell is kept."""
    n, n_types, share, types = len(cells.xy), int(cells.types.max()) + 1, cells.share, cells.types
    unit = float(np.mean([spacing(cells.xy[own]) for own in cells.sections if len(own)]))
    alike = _alike(cells, unit)
    i, j, kind = _pairs(cells.xy, types, n_types, unit)
    wanted = _pairs_wanted(cells, n_types, unit)
    cells_wanted = np.bincount(types, share, n_types)
    ends = np.searchsorted(i, np.arange(n + 1))
    kept = (rng.random(n) < share).astype(np.float64)
    density = alike @ (kept - share)
    for _ in range(ROUNDS):
        pairs = _surplus(np.bincount(kind, kept[i] * kept[j], len(wanted)), wanted)
        beside = sp.csr_array((pairs[kind], j, ends), shape=(n, n)) @ kept
        counted = _surplus(np.bincount(types, kept, n_types), cells_wanted)[types]
        change = 1 - 2 * kept
        cost = 2 * change * (density + PAIRS * beside + COUNTS * counted) + 1
        free = np.flatnonzero((cost < 0) & (share > 0) & (rng.random(n) < ACTIVE))
        best = free[_lowest(alike[free][:, free], cost[free])]
        step = np.zeros(n)
        step[best] = change[best]
        kept += step
        density += alike @ step
    return kept > 0


def _alike(cells: Candidates, unit: float) -> sp.csr_array:
    """(n, n) overlap of the Gaussians around two cells, twice as much for one type; 1 of a cell with itself."""
    i, j, distance = _near(cells.xy, REACH * max(WIDTHS) * unit)
    overlap = sum(np.exp(-((distance / (2 * w * unit)) ** 2)) / w**2 for w in WIDTHS)
    weight = overlap * (1 + (cells.types[i] == cells.types[j])) / (2 * sum(1 / w**2 for w in WIDTHS))
    return sp.csr_array((weight, (i, j)), shape=(len(cells.xy), len(cells.xy)))


def _near(xy: FloatArray, reach: float) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """All pairs (i, j) of cells within reach, both ways and each with itself, in order of i; and their distances."""
    tree = KDTree(xy)
    found = tree.sparse_distance_matrix(tree, reach, output_type="ndarray")
    found = found[np.lexsort((found["j"], found["i"]))]
    return found["i"], found["j"], found["v"]


def _pairs(
    xy: FloatArray, types: NDArray[np.intp], n_types: int, unit: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (i, j) of cells that lie beside each other, and the kind of each: both types, and class of distance."""
    i, j, distance = _near(xy, SHELLS[-1] * unit)
    two = i != j
    i, j, shell = i[two], j[two], np.searchsorted(np.array(SHELLS) * unit, distance[two])
    return i, j, (np.minimum(shell, len(SHELLS) - 1) * n_types + types[i]) * n_types + types[j]


def _pairs_wanted(cells: Candidates, n_types: int, unit: float) -> FloatArray:
    """Number of pairs of each kind: of both sections, each as far as its cells are kept."""
    total = np.zeros(len(SHELLS) * n_types**2)
    for own in cells.sections:
        if len(own) > 0:
            i, j, kind = _pairs(cells.xy[own], cells.types[own], n_types, unit)
            total += np.bincount(kind, np.minimum(cells.share[own[i]], cells.share[own[j]]), len(total))
    return total


def _surplus(found: NDArray[np.number], wanted: NDArray[np.number]) -> FloatArray:
    """By which share there are too many of each kind, from −1 to 1."""
    return np.clip((found - wanted) / (wanted + FEW), -1, 1)


def _lowest(sees: sp.csr_array, cost: FloatArray) -> NDArray[np.bool_]:
    """(m,) whether a cell has the lowest cost of all that it sees; of equal ones the first."""
    rank = np.empty(len(cost), dtype=np.intp)
    rank[np.argsort(cost, kind="stable")] = np.arange(len(cost))
    if len(cost) == 0:
        return rank == 0
    return np.minimum.reduceat(rank[sees.indices], sees.indptr[:-1]) == rank  # no row is empty: a cell sees itself


# ---- where they lie


def _spaced(xy: FloatArray, distances: FloatArray, share: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(m, 2) cells whose distances to their nearest neighbours have the quantiles of those given, by their shares."""
    order = np.argsort(distances)
    level = np.cumsum(share[order]) - share[order] / 2
    wanted = np.interp((np.arange(len(xy)) + 0.5) / len(xy), level / share.sum(), distances[order])
    xy, rank, aside = xy.copy(), np.empty(len(xy), dtype=np.intp), rng.normal(size=xy.shape)
    for _ in range(N_SPACED):
        found, nearest = KDTree(xy).query(xy, k=2)
        distance, other = found[:, 1], nearest[:, 1]
        rank[np.argsort(distance, kind="stable")] = np.arange(len(xy))
        way = np.where(distance[:, None] > 0, xy - xy[other], aside)  # two cells at one place part at random
        way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), np.finfo(float).tiny)
        xy += STEP / 2 * (wanted[rank] - distance)[:, None] * way
    return xy


# ---- what they express


def moved_counts(counts: sp.csr_array, change: FloatArray, rng: np.random.Generator) -> sp.csr_array:
    """Counts of cells that are brought to other places.

    Where less is expected there, each molecule is kept by the ratio of the two expectations; where more is expected, as
    many are drawn on top (Poisson) as the cell has too few. Counts stay whole, a gene that a cell lacks stays away, and
    a cell has as many molecules as before, but for the draws.

    Parameters
    ----------
    counts
        (m, N) of the cells.
    change
        (m, N) of log1p expression that is expected, from the own place of a cell to the other one.
    rng
        Draws.

    Returns
    -------
    (m, N) whole numbers, CSR float32.
    """
    molecules, ratio = counts.data.astype(np.int64), np.exp(_held(change, counts).astype(np.float64))
    cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    before, after = (np.bincount(cell, weights, counts.shape[0]) for weights in (molecules, molecules * ratio))
    ratio *= before[cell] / after[cell]
    drawn = rng.poisson(molecules * np.maximum(ratio - 1, 0))
    return _with_values(counts, rng.binomial(molecules, np.minimum(ratio, 1)) + drawn)


def moved_expression(expression: sp.csr_array, change: FloatArray) -> sp.csr_array:
    """(m, N) log1p expression of cells at other places, by the change that is expected there; zeros stay zero."""
    return _with_values(expression, np.maximum(expression.data + _held(change, expression), 0))


def _held(values: FloatArray, where: sp.csr_array) -> FloatArray:
    """Of (m, N) values those where a sparse matrix holds any, in its order."""
    return values[np.repeat(np.arange(where.shape[0]), np.diff(where.indptr)), where.indices]


def _with_values(where: sp.csr_array, values: NDArray[np.number]) -> sp.csr_array:
    found = sp.csr_array((values.astype(np.float32), where.indices.copy(), where.indptr.copy()), shape=where.shape)
    found.eliminate_zeros()
    return found
