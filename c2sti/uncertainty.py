"""How far an interpolated value lies from the expectation of a spot at its place: a standard deviation.

The answer at position p is a mixture: with probability 1 − p it is what the section on the side of a says, with p what
the one on the side of b says. The variance of a mixture is that of its parts and that between them,

    std² = noise + detail + p (1 − p) (from b − from a)²,

where `noise` is what the spots' noise becomes on its way through the method (:class:`c2sti._types.Noise`), and "from a"
is the method's own answer right beside section a, at the same place.

`detail` is what the expectation of a spot has beyond that of the spots around it, which no neighbouring section tells.
Counts of measured spots are split into two independent parts; with r' and r" what a spot has in either part beyond the
Gaussian mean of the spots around it, which leaves the spot itself out, r' r" is free of count noise in expectation. Its
mean over spots tells genes apart, and its mean over genes tells places apart: `detail` is their product, see
:class:`Detail`. Where counts are not known it is 0.

Where a section has no tissue, what a method says "from" it comes from spots farther off, and says little of how far the
two would disagree there. With b unknown, and d² the mean square of what they disagree on where both are seen, the
mixture is that of a and of something d away from it, of variance p d². In bins that only a covers the second term is
therefore at least p d², in bins that only b covers (1 − p) d², in those that neither covers d², gene by gene: more than
the p (1 − p) d² of the others. The rise of the noise towards places without spots, which Gaussian fields tell, is kept.

Where a section could not be measured, because its capture window ends there, the method's answer from it is worth
nothing. There every section is what the method says of a section right beside the other one, noise included. Its
standard deviation is that of bins that only one section covers.

That is the uncertainty of an expectation. A measured value scatters around its own by far more, in a way that needs
no formula: every measured spot of either section is predicted from the other one, and how the measured values
lie around those predictions, gene by gene, gives intervals for what would be measured elsewhere (split-conformal
prediction; nothing is learnt from other tissue).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import ceil
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti._types import FloatArray, InterpolatedSection, Interpolator, Noise, Prediction, Section, SlicePair
from c2sti.factors import compressed, on_one_basis, with_rows_of
from c2sti.ops import gaussian_operator
from c2sti.thinning import split

PART = 60  # spots from which the ends of an interval are told
MOST_PARTS = 10
N_GENES = 1024  # that are looked at together
MOST_SPOTS = 1000  # of a section on which intervals are calibrated, and whose detail is looked at
TARGET_SUM = 1e4  # log expression is log1p of counts scaled to this
TURN = 1  # of the count splitting; components take 0
AROUND = 0.6  # of the Gaussian over the spots around one, in spot spacings
AWAY = 1.5  # of the Gaussian by which places take part in the detail of spots, in spot spacings
SLIGHT = 0.01  # share of the surroundings up to which a spot is left out of them
LEAST_PLACE = 0.1  # of the mean detail
MOST_SEEN = 1000  # bins in both tissues by which the disagreement of the sections is told
BESIDE = 1e-3  # position of a section right beside a measured one, and none of its spots is in it


@dataclass(frozen=True)
class Spread:
    """How uncertain the S sections of a prediction are.

    Parameters
    ----------
    prediction
        The sections.
    positions
        (S,) of them.
    ends
        What the method says of a section right beside a, and of one right beside b, at the same points.
    calibration
        What intervals are made of, where they were asked for.
    covered
        (2, M) whether each point lies in the tissue of a, and of b; None where that makes no difference.
    apart
        (N,) mean square of what the two sections disagree on, where it has been computed.
    """

    prediction: Prediction
    positions: Sequence[float]
    ends: tuple[InterpolatedSection, InterpolatedSection]
    calibration: Calibration | None = None
    covered: NDArray[np.bool_] | None = None
    apart: FloatArray | None = None

    @cached_property
    def noise(self) -> tuple[FloatArray, FloatArray] | None:
        """(S, M, R) weights and (R, N) variances."""
        noise = self.prediction.noise
        return None if noise is None else (noise.weights(), noise.basis())

    @cached_property
    def disagreement(self) -> FloatArray:
        """(N,) mean square of what the two sections disagree on, over points that both cover; 0 if there are none."""
        if self.apart is not None:
            return self.apart
        total = np.zeros(len(self.ends[0].offset))
        both = np.flatnonzero([] if self.covered is None else self.covered.all(axis=0))
        if len(both) == 0:
            return total
        some = np.unique(np.linspace(0, len(both) - 1, MOST_SEEN).astype(int))
        first, second = (end.rows(both[some]) for end in self.ends)
        for start in range(0, len(total), N_GENES):
            genes = slice(start, start + N_GENES)
            total[genes] = np.square(second.expression(genes) - first.expression(genes)).mean(axis=0, dtype=np.float64)
        return total

    def subset(self, genes: NDArray[np.intp]) -> Spread:
        """The same of some of the genes, by index."""
        first, second = (end.subset(genes) for end in self.ends)
        calibration = None if self.calibration is None else self.calibration.subset(genes)
        apart = None if self.apart is None else self.apart[genes]
        changed = {"prediction": self.prediction.subset(genes), "calibration": calibration, "apart": apart}
        return replace(self, ends=(first, second), **changed)  # type: ignore[arg-type]

    def section(self, i: int, rows: NDArray[np.intp]) -> Spread:
        """The same of one section, at some of its points."""
        first, second = (end.rows(rows) for end in self.ends)
        covered = None if self.covered is None else self.covered[:, rows]
        prediction, position = self.prediction.part(slice(i, i + 1), rows), [self.positions[i]]
        return Spread(prediction, position, (first, second), None, covered, self.disagreement)

    def std(self, section: int, genes: slice = slice(None), points: slice | None = None) -> NDArray[np.float32]:
        """(m, n) standard deviation of interpolated values as estimates of a mean, log1p expression."""
        p = self.positions[section]
        from_a, from_b = (end.expression(genes) if points is None else end.block(points, genes) for end in self.ends)
        variance = p * (1 - p) * np.square(from_b - from_a)
        where = slice(None) if points is None else points
        if self.covered is not None and not self.covered[:, where].all():
            in_a, in_b = self.covered[:, where]
            unknown = (1 - p) * ~in_a + p * ~in_b
            variance = np.maximum(variance, unknown[:, None] * self.disagreement[genes])
        if self.noise is not None:
            weights, basis = self.noise
            variance += weights[section, where] @ basis[:, genes]
        return np.sqrt(variance).astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """Measured spots, and what the method says of them from the other section.

    Parameters
    ----------
    predicted
        Of the spots of a, as if they lay right beside b; and of those of b, as if they lay right beside a.
    measured
        (n_i, N) log1p expression of the same spots.
    """

    predicted: tuple[InterpolatedSection, InterpolatedSection]
    measured: tuple[sp.csr_array, sp.csr_array]

    def subset(self, genes: NDArray[np.intp]) -> Calibration:
        """The same of some of the genes, by index."""
        first, second = (section.subset(genes) for section in self.predicted)
        return Calibration((first, second), (self.measured[0][:, genes], self.measured[1][:, genes]))

    def intervals(self, level: float, genes: slice = slice(None)) -> Intervals:
        """What holds a measured value with that probability, for some of the genes.

        The spots are parted by what was predicted for them, gene by gene, and each part has quantiles of its own. What
        the lower tail does not use, because zeros cannot be undercut, is left to the upper one.
        """
        n_genes, found = len(self.predicted[0].offset), []
        first, last, _ = genes.indices(n_genes)
        for start in range(first, last, N_GENES):
            some = slice(start, min(start + N_GENES, last))
            predicted = np.concatenate([section.expression(some) for section in self.predicted])
            measured = np.concatenate([y[:, some].toarray() for y in self.measured])
            order = np.argsort(predicted, axis=0)
            parts = np.array_split(order, np.clip(len(order) // PART, 1, MOST_PARTS))
            ends = np.stack([_quantiles(np.take_along_axis(measured, part, axis=0), level) for part in parts])
            centres = np.stack([np.take_along_axis(predicted, part, axis=0).mean(axis=0) for part in parts])
            found.append(np.concatenate([centres[:, None], ends], axis=1))
        return Intervals(np.concatenate(found, axis=2).astype(np.float32))

    def bounds(self, values: FloatArray, level: float, genes: slice = slice(None)) -> FloatArray:
        """(2, M, n) ends of the intervals that hold a measured value with that probability, around (M, n) values."""
        return self.intervals(level, genes).bounds(values)


@dataclass(frozen=True)
class Intervals:
    """Between which ends a measured value lies, by what was predicted for it.

    Parameters
    ----------
    knots
        (T, 3, N) of T predictions, increasing: the prediction, and the lower and the upper end there. Between them the
        ends are linear, beyond them they are level.
    """

    knots: NDArray[np.float32]

    def bounds(self, values: FloatArray, genes: slice = slice(None)) -> NDArray[np.float32]:
        """(2, M, n) ends around (M, n) predicted values of some genes."""
        centres, ends = self.knots[:, 0, genes], self.knots[:, 1:, genes]
        found = np.repeat(ends[0][:, None], len(values), axis=1)
        for t in range(len(centres) - 1):
            step = np.maximum(centres[t + 1] - centres[t], 1e-6)  # predictions that are all alike
            found += np.clip((values - centres[t]) / step, 0, 1) * (ends[t + 1] - ends[t])[:, None]
        return found.astype(np.float32)


def _quantiles(measured: FloatArray, level: float) -> FloatArray:
    """(2, n) ends between which the next value lies with that probability, of (m, n) values."""
    ordered, m = np.sort(measured, axis=0), len(measured)

    def quantile(share: float) -> FloatArray:
        return ordered[min(ceil(share * (m + 1)), m) - 1]

    tail = (1 - level) / 2
    lower = quantile(tail)
    return np.stack([lower, np.where(lower > 0, quantile(1 - tail), quantile(level))])


def ask(
    method: Interpolator,
    pair: SlicePair,
    points: FloatArray,
    positions: Sequence[float],
    *,
    device: str,
    seed: int,
    progress: Callable[[float], object] = lambda share: None,
    std: bool = True,
    intervals: bool = False,
    covered: NDArray[np.bool_] | None = None,
    blind: NDArray[np.bool_] | None = None,
    seen: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> tuple[Prediction, Spread | None]:
    """The prediction of a method, and its uncertainty where that is wanted.

    The method is asked once for everything: the sections wanted and, where they are needed, one right beside either
    end, at the points wanted and, for intervals, at some of the measured spots.

    Parameters
    ----------
    method, pair, points, positions, device, seed, progress
        As in :class:`c2sti._types.Interpolator`.
    std, intervals
        Whether standard deviations, or what intervals are made of, are wanted.
    covered
        As in :class:`Spread`.
    blind
        (2, M) whether a, and b, could not be measured at each point where the other has tissue; None for nowhere.
    seen
        Which spots of a lie where b could be measured, and the reverse; intervals are calibrated on these. None for
        all.

    Returns
    -------
    The prediction; and how uncertain it is, None where neither `std` nor `intervals` is wanted.
    """
    how: dict[str, Any] = {"device": device, "seed": seed, "progress": progress}
    doubted, partly_blind = std or intervals, blind is not None and bool(blind.any())
    if not (doubted or partly_blind):
        return compressed(method(pair, points, positions, **how)), None
    s, m = len(positions), len(points)
    first_seen, second_seen = (None, None) if seen is None else seen
    spots = [_some(pair.a, seed, first_seen), _some(pair.b, seed, second_seen)] if intervals else []
    at = np.concatenate([points, *(xy for xy, _ in spots)])
    whole = method(pair, at, [*positions, BESIDE, 1 - BESIDE], **how)
    if std:
        whole = _with_detail(whole, pair, at, [*positions, BESIDE, 1 - BESIDE], seed)
    if blind is not None and partly_blind:
        whole = _from_the_other(whole, np.pad(blind, ((0, 0), (0, len(at) - m))))
    prediction = compressed(whole.part(slice(s), slice(m)))
    if not doubted:
        return prediction, None
    # By themselves: what is asked about uncertainty changes nothing about the sections.
    beside_a, beside_b = compressed(whole.part(slice(s, None))).slices
    calibration = None
    if spots:
        (of_a, a), (_, b) = spots
        first, second = slice(m, m + len(of_a)), slice(m + len(of_a), None)
        calibration = Calibration((beside_b.rows(first), beside_a.rows(second)), (a, b))
    ends = (beside_a.rows(slice(m)), beside_b.rows(slice(m)))
    return prediction, Spread(prediction, positions, ends, calibration, covered)


def _some(section: Section, seed: int, seen: NDArray[np.bool_] | None) -> tuple[FloatArray, sp.csr_array]:
    """Places and expression of the spots to calibrate on: those that the other section could see, if there are any."""
    order = np.random.default_rng(seed).permutation(len(section.xy))
    if seen is not None and seen.any():
        order = order[seen[order]]
    chosen = np.sort(order[:MOST_SPOTS])
    return section.xy[chosen], section.expression[chosen]


# ---- what a spot has beyond the spots around it


@dataclass(frozen=True)
class Detail:
    """How far the expectations of a section's spots lie from those of their surroundings, squared.

    Parameters
    ----------
    genes, errors
        (N,) mean over the spots, and the variance of that mean.
    xy, spots
        (n, 2) spots, and their (n,) mean over genes.
    width
        Of the Gaussian by which other places take part in it, unit of the frame.
    """

    genes: FloatArray
    errors: FloatArray
    xy: FloatArray
    spots: FloatArray
    width: float

    @classmethod
    def of(cls, section: Section, keys: NDArray[np.uint64], spacing: float, seed: int) -> Detail | None:
        """Of at most `MOST_SPOTS` spots; None where counts are not known, or there are no spots around."""
        if section.counts is None or section.library is None:
            return None
        order = np.lexsort(section.xy.T)
        order = order[section.library[order] > 0]
        if len(order) < 3:
            return None
        xy, n = section.xy[order], len(order)
        own = np.sort(np.random.default_rng(seed).permutation(n)[:MOST_SPOTS])
        beyond, around = _beyond_surroundings(xy, own, AROUND * spacing)
        used = np.unique(beyond.indices)
        first_read = np.argsort(order[used])  # what is left on disk is read in its own order
        rows = order[used][first_read]
        beyond = sp.csr_array(beyond[:, used[first_read]])
        parts, ratio = _halves(section.counts[rows], section.library[rows], keys, seed)
        first, second = (sp.csc_array(beyond @ part) for part in parts)
        genes, errors, spots = np.zeros(len(keys)), np.zeros(len(keys)), np.zeros(len(own))
        for start in range(0, len(keys), N_GENES):
            some = slice(start, start + N_GENES)
            product = first[:, some].toarray() * second[:, some].toarray() * ratio[some] ** 2 / (1 + around[:, None])
            genes[some], errors[some] = product.mean(axis=0), product.var(axis=0) / len(own)
            spots += product.sum(axis=1) / len(keys)
        return cls(genes, errors, xy[own], spots, AWAY * spacing * float(np.sqrt(n / len(own))))

    def places(self, at: FloatArray) -> FloatArray:
        """(M,) detail at some points over the mean, as far as spots are like those around them.

        That is the slope of a line, 0 to 1, by which spots are predicted from the Gaussian mean that leaves them out.
        """
        level = self.spots.mean()
        if level <= 0:
            return np.ones(len(at))
        operator = gaussian_operator(self.xy, self.xy, self.width)
        own = operator.diagonal()
        without = (operator @ self.spots - own * self.spots) / np.maximum(1 - own, SLIGHT)
        power = without.var()
        slope = np.clip(((without - without.mean()) * (self.spots - level)).mean() / power, 0, 1) if power > 0 else 0.0
        found = gaussian_operator(self.xy, at, self.width) @ self.spots / level
        return np.maximum(1 + slope * (found - 1), LEAST_PLACE)


def _beyond_surroundings(xy: FloatArray, own: NDArray[np.intp], width: float) -> tuple[sp.csr_array, FloatArray]:
    """(m, n) operator that gives some of the spots less the mean of those around; and its (m,) gain for white noise."""
    weights = sp.coo_array(gaussian_operator(xy, xy[own], width))
    row, column = weights.coords
    other = own[row] != column
    row, column, share = row[other], column[other], weights.data[other]
    share = share / np.bincount(row, share, minlength=len(own))[row]
    near = share > SLIGHT
    row, column, share = row[near], column[near], share[near]
    share = share / np.bincount(row, share, minlength=len(own))[row]
    every = np.arange(len(own))
    entries = np.concatenate([np.ones(len(own)), -share])
    places = np.concatenate([every, row]), np.concatenate([own, column])
    gain = np.bincount(row, share**2, minlength=len(own)).astype(np.float64)
    return sp.csr_array((entries, places), shape=(len(own), len(xy))), gain


def _halves(
    counts: sp.csr_array, library: FloatArray, keys: NDArray[np.uint64], seed: int
) -> tuple[list[sp.csr_array], FloatArray]:
    """Log expression of the two parts of split counts; and of each gene that of all counts over theirs, means."""
    first = split(counts, keys, seed, TURN)
    factor = np.repeat(TARGET_SUM / library, np.diff(counts.indptr))
    logs = [np.log1p(2 * part * factor) for part in (first, counts.data - first)]
    parts = [sp.csr_array((x, counts.indices, counts.indptr), counts.shape) for x in logs]
    each = (logs[0] + logs[1]) / 2, np.log1p(counts.data * factor)
    of_parts, of_all = (np.bincount(counts.indices, x, counts.shape[1]).astype(np.float64) for x in each)
    return parts, of_all / np.maximum(of_parts, np.finfo(float).tiny)


def _with_detail(
    whole: Prediction, pair: SlicePair, at: FloatArray, positions: Sequence[float], seed: int
) -> Prediction:
    """A prediction whose noise has the detail of spots on top: one more column of its weights, and row of its basis."""

    @cache
    def found() -> tuple[Detail | None, Detail | None]:
        first, second = (Detail.of(section, pair.keys, pair.spacing, seed) for section in (pair.a, pair.b))
        return first, second

    def weights(own: FloatArray | None) -> FloatArray:
        of_a, of_b = (np.zeros(len(at)) if one is None else one.places(at) for one in found())
        column = np.stack([(1 - p) * of_a + p * of_b for p in positions])[:, :, None]
        return column if own is None else np.concatenate([own, column.astype(own.dtype)], axis=2)

    def basis(own: FloatArray | None) -> FloatArray:
        row = _between_genes([one for one in found() if one is not None], pair.n_genes)[None]
        return row if own is None else np.concatenate([own, row.astype(own.dtype)])

    noise = whole.noise
    if noise is None:
        return replace(whole, noise=Noise(lambda: weights(None), lambda: basis(None)))
    of_weights, of_basis = noise.weights, noise.basis
    return replace(whole, noise=Noise(lambda: weights(of_weights()), lambda: basis(of_basis())))


def _between_genes(found: Sequence[Detail], n_genes: int) -> FloatArray:
    """(N,) detail of each gene, ≥ 0: the mean of the sections, drawn to that of all genes as far as it is uncertain."""
    if len(found) == 0:
        return np.zeros(n_genes)
    own = np.mean([one.genes for one in found], axis=0)
    errors = np.sum([one.errors for one in found], axis=0) / len(found) ** 2
    level = own.mean()
    differ = max(float((np.square(own - level) - errors).mean()), 0.0)
    sure = differ / np.maximum(differ + errors, np.finfo(float).tiny)
    return np.maximum(level + sure * (own - level), 0)


# ---- where one section could not be measured


def _from_the_other(whole: Prediction, blind: NDArray[np.bool_]) -> Prediction:
    """A prediction in which, where one section is blind, every section is as the one right beside the other section.

    Parameters
    ----------
    whole
        Its last two sections lie right beside a and right beside b.
    blind
        (2, M) whether a, and b, could not be measured at each point; never both.
    """
    in_a, in_b = blind
    weights, basis = on_one_basis(whole.slices)
    taken = [with_rows_of(own, (in_a, weights[-1]), (in_b, weights[-2])) for own in weights]
    nothing = np.zeros(basis.shape[1])
    noise = whole.noise
    if noise is not None:
        before = noise.weights
        noise = replace(noise, weights=lambda: _noise_from(before(), in_a, in_b))
    return replace(whole, slices=tuple(InterpolatedSection(w, basis, nothing) for w in taken), noise=noise)


def _noise_from(weights: FloatArray, in_a: NDArray[np.bool_], in_b: NDArray[np.bool_]) -> FloatArray:
    """(S, M, R) weights of the noise, where one section is blind those of the section right beside the other one."""
    taken = weights.copy()
    taken[:, in_a], taken[:, in_b] = weights[-1, in_a], weights[-2, in_b]
    return taken
