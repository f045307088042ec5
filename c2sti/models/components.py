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

The same is done whatever the size. What changes with it is how finely tissue is summed:

- components are sought in `PATCHES` patches of tissue; up to that many spots a patch is one spot;
- the length scale of the maps is learnt in a few windows of single spots; up to `WHOLE` spots from all;
- maps are solved on cells of tissue, `PER_LENGTH` to a length scale; up to `PATCHES` spots a cell is one spot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import ceil

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial import KDTree
from threadpoolctl import threadpool_limits

from c2sti._backed import BLOCK, blocks
from c2sti._types import TARGET_SUM, FloatArray, Noise, Section, SlicePair
from c2sti.field import (
    MOST,
    NEARLY_SAME,
    Field,
    Kernel,
    Observed,
    best_length,
    best_sharing,
    log_evidence,
    windows_of,
)
from c2sti.models.registration import Registration, register
from c2sti.ops import mean_operator, partition, signs
from c2sti.thinning import split

PATCHES = 1500  # of all sections together
CHUNK = 4096  # genes whose inner products are summed in single precision
DOUBLE = 2**22  # values of a section up to which they are kept in double precision: it costs nothing there
N_LEADING = 8  # components by which the covariance that all share is chosen
WHOLE, WINDOW = 800, 500  # spots that a length scale is learnt from: all, or those of each window where there are more
NARROW = 300  # spots of a window in which two sections are compared before and after they are registered
DETAIL = 2000  # spots of a window in which sections are asked for detail that they share
NEAR = 1.4  # spacings within which spots lie beside each other
PER_LENGTH = 1.6  # cells per length scale, either way

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


@dataclass(frozen=True)
class Description:
    """Sections as D sets of K components each, of which predictions are averaged.

    Parameters
    ----------
    loadings
        (D, K, N) on log expression.
    field
        Maps of all sets, side by side, D·K.
    shares
        (D,) of each set in the average.
    spacing
        Of the spots, unit of the frame: the unit of places in the field.
    origin, unit
        Position p lies at z = (p − origin) / unit of the field.
    registration
        Displacements of the sections, where there are any; the field is that of the moved sections.
    """

    loadings: FloatArray
    field: Field
    shares: FloatArray
    spacing: float
    origin: float = 0.0
    unit: float = 1.0
    registration: Registration | None = None

    def at(
        self,
        points: FloatArray,
        positions: Sequence[float],
        progress: Callable[[float], object] = lambda share: None,
    ) -> FloatArray:
        """(S, M, D·K) maps at (M, 2) points of the frame and S positions, float32."""
        return _stacked(self.field.at_each(self._sets(points, positions), progress))

    def _sets(self, points: FloatArray, positions: Sequence[float]) -> list[tuple[FloatArray, list[float]]]:
        """Places of the field, and z there, that are points of the frame at positions: one set, or one a position."""
        places, zs = points / self.spacing, self._z(positions)
        if self.registration is None:
            return [(places, zs)]
        return [(self.registration.at_home(places, z), [z]) for z in zs]

    def with_ends(
        self,
        halfway: FloatArray,
        points: FloatArray,
        positions: Sequence[float],
        progress: Callable[[float], object] = lambda share: None,
    ) -> tuple[FloatArray, FloatArray]:
        """(2, H·W, D·K) maps of both sections of a pair at places halfway between them, and those of :meth:`at`."""
        places = halfway / self.spacing
        if self.registration is not None:
            places = self.registration.from_halfway(places, self._gap())
        sets = [(places, self._z([0.0, 1.0])), *self._sets(points, positions)]
        ends, *found = self.field.at_each(sets, progress)
        return ends, _stacked(found)

    def halfway(self, points: FloatArray, position: float) -> FloatArray:
        """(M, 2) where halfway between the sections of a pair the tissue lies that is at the points at a position."""
        if self.registration is None:
            return points
        (z,) = self._z([position])
        y = self.registration.halfway(points / self.spacing, z)
        return self.registration.across(y, self.registration.gap(z)[0], self._gap()) * self.spacing

    def at_section(self, points: FloatArray, position: float) -> FloatArray:
        """(M, 2) where in a section the tissue lies that is at the points halfway between the sections of a pair."""
        if self.registration is None:
            return points
        return self.registration.at_section(points / self.spacing, self._gap(), *self._z([position])) * self.spacing

    def displacement(self, points: FloatArray, position: float) -> FloatArray:
        """(M, 2) displacement at points of a section between two, see :func:`c2sti.io.source_places`."""
        if self.registration is None:
            return np.zeros_like(points)
        return self.registration.displacement(points / self.spacing, *self._z([position])) * self.spacing

    def _gap(self) -> int:
        assert self.registration is not None
        return self.registration.gap(*self._z([0.5]))[0]

    @property
    def basis(self) -> FloatArray:
        """(D·K, N) loadings that give, times the maps, the average over the sets."""
        return (self.loadings * self.shares[:, None, None]).reshape(-1, self.loadings.shape[2])

    def noise(self, points: FloatArray, positions: Sequence[float]) -> Noise:
        """Variance of the average over the sets: the average of their variances, for they err alike."""
        return Noise(
            lambda: _stacked([self.field.variance_at(*one) for one in self._sets(points, positions)]),
            lambda: (np.square(self.loadings) * self.shares[:, None, None]).reshape(-1, self.loadings.shape[2]),
        )

    def keeping(self) -> Description:
        """The same for many gaps: what is solved for one serves the others."""
        return replace(self, field=self.field.keeping())

    def between(self, first: float, second: float) -> Description:
        """The same for positions on the scale of a pair that lies at these two positions of this one's."""
        step = second - first
        return replace(self, origin=(self.origin - first) / step, unit=self.unit / step)

    def _z(self, positions: Sequence[float]) -> list[float]:
        return [(p - self.origin) / self.unit for p in positions]


def _stacked(found: Sequence[FloatArray]) -> FloatArray:
    """(S, M, K) of all sets; what is one already is not copied."""
    return found[0] if len(found) == 1 else np.concatenate(found)


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
        Where maps are solved.
    seed
        Of the splits, and of the windows to learn from.
    progress
        Called with each share of the work that has been done, 1 in all.
    """
    block = Block(sections, spacing, use_counts=settings.counts)
    # Sums come out in one order, and the same bytes, whatever the number of threads. They would gain little here.
    with threadpool_limits(1 if len(block.x) <= PATCHES else None):
        windows = block.windows(seed)
        variance = block.variance(np.unique(np.concatenate(windows)))
        n_splits = settings.n_splits if block.counted else 0
        turns: list[Turn] = [(), *((seed, turn) for turn in range(n_splits))]
        loadings, scores, n_genes = [], [], []
        for turn in turns:
            axes, found, effective = _components(block, gene_keys, variance, settings.n_components, turn)
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
            for w in _windows(block.x[spots], block.z[spots], seed, NARROW):
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
            windows_of_spots=_windows(block.x, block.z, seed, DETAIL),
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


# ---- the sections side by side, and how finely they are looked at


class Block:
    """Sections side by side, n spots in all.

    Parameters
    ----------
    sections
        The sections.
    spacing
        Of the spots, unit of the frame.
    use_counts
        Whether counts are looked at where those of all sections are known.
    """

    def __init__(self, sections: Sequence[Section], spacing: float, *, use_counts: bool) -> None:
        positions = [section.position for section in sections]
        libraries = [known_library(section) for section in sections if use_counts]
        self.sections = sections
        self.libraries = [library for library in libraries if library is not None]
        self.counted = len(self.libraries) == len(sections)
        self.lengths = [len(section.xy) for section in sections]
        self.x: FloatArray = np.concatenate([section.xy for section in sections]) / spacing
        self.unit = float(np.diff(np.sort(positions)).max())  # the widest gap, so that a pair's is 1
        self.z = np.repeat(np.array(positions) / self.unit, self.lengths)

    def rows(self) -> list[slice]:
        """Spots of each section."""
        return [slice(first, last) for first, last in pairwise(np.cumsum([0, *self.lengths]).tolist())]

    def parts(self, n: int) -> list[NDArray[np.intp]]:
        """(n_i,) number of the part of tissue that each spot of a section lies in; about n parts of all sections."""
        return [partition(self.x[rows], round(n * (rows.stop - rows.start) / len(self.x))) for rows in self.rows()]

    def cells(self, length: float) -> NDArray[np.intp]:
        """(n,) number of the cell that each spot lies in: small enough for maps of a length scale."""
        fine = ceil(len(self.x) * (PER_LENGTH / length) ** 2)  # spots lie 1 apart
        parts = self.parts(min(len(self.x), max(PATCHES, fine)))
        first = np.cumsum([0, *(part.max() + 1 for part in parts)])
        return np.concatenate([part + start for part, start in zip(parts, first, strict=False)])

    def windows(self, seed: int) -> list[NDArray[np.intp]]:
        """Spots to learn from: all, or those of some windows of the tissue."""
        return _windows(self.x, self.z, seed, WINDOW)

    def variance(self, chosen: NDArray[np.intp]) -> FloatArray:
        """(n,) how noisy a spot is for its library size, 1 on average (geometric); 1 where counts are not known.

        A parabola over the logarithm of the library size, one for all sections, through the squared difference of the
        chosen spots and the mean of those around them, in which what varies slowly cancels.
        """
        if not self.counted:
            return np.ones(len(self.x))
        sizes, noises = [], []
        for section, library, rows in zip(self.sections, self.libraries, self.rows(), strict=True):
            own = chosen[(rows.start <= chosen) & (chosen < rows.stop)] - rows.start
            own, around = _around(self.x[rows], own)
            if len(own):
                power = around.power(2)
                total = 1 + power.sum(axis=1)
                sizes.append((np.log(library[own]) + power @ np.log(library)) / total)
                noises.append(_squared_distances(section, own, around) / total)
        return noise_by_size(np.concatenate(sizes), np.concatenate(noises), np.log(np.concatenate(self.libraries)))


def _windows(x: FloatArray, z: FloatArray, seed: int, size: int) -> list[NDArray[np.intp]]:
    if len(x) <= WHOLE:
        return [np.arange(len(x))]
    return windows_of(np.column_stack([x, z]), seed, size)


def _around(x: FloatArray, own: NDArray[np.intp]) -> tuple[NDArray[np.intp], sp.csr_array]:
    """Those of some spots that have others within `NEAR`, and (m, n) weights of these, which add up to 1.

    Weights fall to zero at that distance, so that none of equally near spots is singled out.
    """
    pairs = KDTree(x[own]).sparse_distance_matrix(KDTree(x), NEAR, output_type="ndarray")
    pairs = pairs[own[pairs["i"]] != pairs["j"]]
    weight = (1 - (pairs["v"] / NEAR) ** 2) ** 2
    weights = sp.csr_array((weight, (pairs["i"], pairs["j"])), shape=(len(own), len(x)))
    total = weights.sum(axis=1)
    some = total > 0
    return own[some], sp.csr_array(weights[some].multiply(1 / total[some][:, None]))


def known_library(section: Section) -> FloatArray | None:
    """(n,) library sizes; a spot without a count has the least. None where counts are not known, or there are none."""
    if section.counts is None or section.library is None or not np.any(section.library > 0):
        return None
    library = np.asarray(section.library, dtype=np.float64)
    return np.where(library > 0, library, library[library > 0].min())


def _squared_distances(section: Section, own: NDArray[np.intp], around: sp.csr_array) -> FloatArray:
    """(m,) squared distances of the log expression of spots from that of those around them."""
    rows = np.unique(np.concatenate([own, around.indices]))
    values = section.expression[rows]
    change = values[np.searchsorted(rows, own)] - around[:, rows].astype(np.float32) @ values
    return np.asarray(change.power(2).sum(axis=1), dtype=np.float64).ravel()


def noise_by_size(size: FloatArray, noise: FloatArray, wanted: FloatArray) -> FloatArray:
    """(n,) noise at log library sizes, 1 on average, by a parabola through the noise of (m,) others."""
    degree = min(2, len(np.unique(size.round(9))) - 1)  # a line through two sizes, a level at one
    curve = np.polynomial.Polynomial.fit(size, np.log(np.maximum(noise, 1e-9)), degree)
    fitted = curve(np.clip(wanted, size.min(), size.max()))  # a parabola says nothing beyond its points
    return np.exp(fitted - fitted.mean())


# ---- components, and their values in spots


def _components(
    block: Block, gene_keys: NDArray[np.uint64], variance: FloatArray, n_components: int, turn: Turn
) -> tuple[list[FloatArray], list[FloatArray], float]:
    """(K, N) axes, the (n, K) scores on them, and about how many genes vary.

    Of all counts; or of each part of a split, with the scores of the other part.
    """
    parts = zip(block.sections, block.rows(), block.parts(PATCHES), strict=True)

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
    axes = [_axes(list(part), n_components) for part in zip(*rows, strict=True)]
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
        logs = [np.log1p(part * factor) for part in (first, counts.data - first)]
        yield rows, [_without_zeros(sp.csr_array((x, counts.indices, counts.indptr), counts.shape)) for x in logs]


def _without_zeros(values: sp.csr_array) -> sp.csr_array:
    kept = values.copy()
    kept.eliminate_zeros()  # in place, hence the copy
    return kept


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


def _axes(rows: Sequence[FloatArray], n_components: int) -> FloatArray:
    """(K, N) principal axes, strongest first, of the patches of all sections; those that do not vary are zero."""
    n, n_genes = sum(map(len, rows)), rows[0].shape[1]
    gram = np.zeros((n, n))
    for first in range(0, n_genes, CHUNK):
        chunk = np.concatenate([r[:, first : first + CHUNK] for r in rows])
        gram += chunk @ chunk.T
    rank = max(min(n_components, n - len(rows), n_genes), 1)
    power, vectors = eigh(gram, subset_by_index=(n - rank, n - 1))
    strength, vectors = np.sqrt(np.maximum(power[::-1], 0)), vectors[:, ::-1]
    # An axis without variance is zero, not rounding over rounding.
    present = strength > (1e-4 if rows[0].dtype == np.float32 else 1e-7) * strength[0]
    weights = (vectors * np.where(present, 1 / np.where(present, strength, 1), 0)).astype(rows[0].dtype)
    ends = np.cumsum([len(r) for r in rows])[:-1]
    axes = np.add.reduce([w.T @ r for w, r in zip(np.split(weights, ends), rows, strict=True)])
    return axes * signs(axes)[:, None]


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
