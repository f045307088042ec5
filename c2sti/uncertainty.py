"""How uncertain an interpolated value is: the noise of the measured spots in it, and what its neighbours disagree on.

The answer at position p is a mixture: with probability 1 − p it is what the section on the side of a says, with p what
the one on the side of b says. The variance of a mixture is that of its parts and that between them,

    std² = noise + p (1 − p) (from b − from a)²,

where `noise` is what the spots' noise becomes on its way through the method (:class:`c2sti._types.Noise`), and "from a"
is the method's own answer right beside section a, at the same place.

Where a section has no tissue, what a method says "from" it comes from spots farther off, and says little of how far the
two would disagree there. With b unknown, and d² the mean square of what they disagree on where both are seen, the
mixture is that of a and of something d away from it, of variance p d². In bins that only a covers the second term is
therefore at least p d², in bins that only b covers (1 − p) d², in those that neither covers d², gene by gene: more than
the p (1 − p) d² of the others. The rise of the noise towards places without spots, which Gaussian fields tell, is kept.

Where a section could not be measured, because its capture window ends there, the method's answer from it is worth
nothing. There every section is what the method says of a section right beside the other one, noise included. Its
standard deviation is that of bins that only one section covers.

That is the doubt about a mean. A measured value scatters around its mean by far more, in a way that no formula of ours
has to know: every measured spot of either section is predicted from the other one, and how the measured values lie
around those predictions, gene by gene, gives intervals for what would be measured elsewhere (split-conformal
prediction; nothing is learnt from other tissue).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti._types import FloatArray, InterpolatedSection, Interpolator, Prediction, Section, SlicePair
from c2sti.factors import compressed, on_one_basis, with_rows_of

PART = 60  # spots from which the ends of an interval are told
MOST_PARTS = 10
N_GENES = 1024  # that are looked at together
MOST_SPOTS = 1000  # of a section on which intervals are calibrated
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
    """The answer of a method, and how uncertain it is unless that is not asked for.

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
