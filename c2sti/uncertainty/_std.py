"""The standard deviation of interpolated values, intervals for measured ones, and the call that asks for both."""

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
from c2sti.uncertainty._detail import with_detail

N_GENES = 1024  # that are looked at together
PART, MOST_PARTS = 60, 10  # spots from which the ends of an interval are told, and how often at most
MOST_CALIBRATED = 1000  # spots of a section on which intervals are calibrated
MOST_SEEN = 1000  # bins in both tissues by which the disagreement of the sections is told
BESIDE = 1e-3  # position of a section right beside a measured one, and none of its spots is in it


@dataclass(frozen=True)
class Spread:
    """How uncertain the S sections of a prediction are."""

    prediction: Prediction
    positions: Sequence[float]
    # What the method says of a section right beside a, and of one right beside b, at the same points.
    ends: tuple[InterpolatedSection, InterpolatedSection]
    calibration: Calibration | None = None  # what intervals are made of, where they were asked for
    # (2, M) whether each point lies in the tissue of a, and of b; None where that makes no difference.
    covered: NDArray[np.bool_] | None = None
    apart: FloatArray | None = None  # (N,) the disagreement, where it has been computed

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

    def std(self, section: int, genes: slice = slice(None), points: slice = slice(None)) -> NDArray[np.float32]:
        """(m, n) standard deviation of interpolated values as estimates of a mean, log1p expression."""
        p = self.positions[section]
        from_a, from_b = (end.block(points, genes) for end in self.ends)
        variance = p * (1 - p) * np.square(from_b - from_a)
        if self.covered is not None and not self.covered[:, points].all():
            in_a, in_b = self.covered[:, points]
            unknown = (1 - p) * ~in_a + p * ~in_b
            variance = np.maximum(variance, unknown[:, None] * self.disagreement[genes])
        if self.noise is not None:
            weights, basis = self.noise
            variance += weights[section, points] @ basis[:, genes]
        return np.sqrt(variance).astype(np.float32)


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
    """The prediction of a method, and its uncertainty where `std` (standard deviations) or `intervals` are wanted.

    The method is asked once for everything: the sections wanted and, where they are needed, one right beside either
    end, at the points wanted and, for intervals, at some of the measured spots. `covered` is as in :class:`Spread`.
    `blind`, (2, M), says whether a, and b, could not be measured at each point where the other has tissue; `seen`,
    which spots of a lie where b could be measured, and the reverse: intervals are calibrated on these, by default on
    all.
    """
    how: dict[str, Any] = {"device": device, "seed": seed, "progress": progress}
    uncertain, partly_blind = std or intervals, blind is not None and bool(blind.any())
    if not (uncertain or partly_blind):
        return compressed(method(pair, points, positions, **how)), None
    s, m = len(positions), len(points)
    spots = []
    if intervals:
        spots = [_some(one, seed, of) for one, of in zip((pair.a, pair.b), seen or (None, None), strict=True)]
    at, asked = np.concatenate([points, *(xy for xy, _ in spots)]), [*positions, BESIDE, 1 - BESIDE]
    whole = method(pair, at, asked, **how)
    if std:
        whole = with_detail(whole, pair, at, asked, seed)
    if blind is not None and partly_blind:
        whole = _from_the_other(whole, np.pad(blind, ((0, 0), (0, len(at) - m))))
    prediction = compressed(whole.part(slice(s), slice(m)))
    if not uncertain:
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
    chosen = np.sort(order[:MOST_CALIBRATED])
    return section.xy[chosen], section.expression[chosen]


def _from_the_other(whole: Prediction, blind: NDArray[np.bool_]) -> Prediction:
    """A prediction in which, where one section is blind, every section is as the one right beside the other section.

    The last two sections of `whole` lie right beside a and right beside b. `blind`, (2, M), says whether a, and b,
    could not be measured at each point; never both.
    """
    in_a, in_b = blind
    weights, basis = on_one_basis(whole.slices)
    taken = [with_rows_of(own, (in_a, weights[-1]), (in_b, weights[-2])) for own in weights]
    slices = tuple(InterpolatedSection(w, basis, np.zeros(basis.shape[1])) for w in taken)
    noise = whole.noise
    if noise is not None:
        before = noise.weights

        def of_noise() -> FloatArray:
            own = before()
            return np.stack([with_rows_of(one, (in_a, own[-1]), (in_b, own[-2])) for one in own])

        noise = replace(noise, weights=of_noise)
    return replace(whole, slices=slices, noise=noise)


# ---- intervals for a measured value: quantiles of measured spots around predictions from the other section


@dataclass(frozen=True)
class Calibration:
    """Measured spots, and what the method says of them from the other section."""

    # Of the spots of a, as if they lay right beside b; and of those of b, as if they lay right beside a.
    predicted: tuple[InterpolatedSection, InterpolatedSection]
    measured: tuple[sp.csr_array, sp.csr_array]  # (n_i, N) log1p expression of the same spots

    def subset(self, genes: NDArray[np.intp]) -> Calibration:
        """The same of some of the genes, by index."""
        first, second = (section.subset(genes) for section in self.predicted)
        return Calibration((first, second), (self.measured[0][:, genes], self.measured[1][:, genes]))

    def intervals(self, level: float) -> Intervals:
        """What holds a measured value with that probability.

        The spots are parted by what was predicted for them, gene by gene, and each part has quantiles of its own. What
        the lower tail does not use, because zeros cannot be undercut, is left to the upper one.
        """
        found = []
        for start in range(0, len(self.predicted[0].offset), N_GENES):
            some = slice(start, start + N_GENES)
            predicted = np.concatenate([section.expression(some) for section in self.predicted])
            measured = np.concatenate([y[:, some].toarray() for y in self.measured])
            order = np.argsort(predicted, axis=0)
            parts = np.array_split(order, np.clip(len(order) // PART, 1, MOST_PARTS))
            ends = np.stack([quantiles(np.take_along_axis(measured, part, axis=0), level) for part in parts])
            centres = np.stack([np.take_along_axis(predicted, part, axis=0).mean(axis=0) for part in parts])
            found.append(np.concatenate([centres[:, None], ends], axis=1))
        return Intervals(np.concatenate(found, axis=2).astype(np.float32))


@dataclass(frozen=True)
class Intervals:
    """Between which ends a measured value lies, by what was predicted for it."""

    # (T, 3, N) of T predictions, increasing: the prediction, and the lower and the upper end there. Between them the
    # ends are linear, beyond them they are level.
    knots: NDArray[np.float32]

    def bounds(self, values: FloatArray, genes: slice = slice(None)) -> NDArray[np.float32]:
        """(2, M, n) ends around (M, n) predicted values of some genes."""
        centres, ends = self.knots[:, 0, genes], self.knots[:, 1:, genes]
        found = np.repeat(ends[0][:, None], len(values), axis=1)
        for t in range(len(centres) - 1):
            step = np.maximum(centres[t + 1] - centres[t], 1e-6)  # predictions that are all alike
            found += np.clip((values - centres[t]) / step, 0, 1) * (ends[t + 1] - ends[t])[:, None]
        return found.astype(np.float32)


def quantiles(measured: FloatArray, level: float) -> FloatArray:
    """(2, n) ends between which the next value lies with that probability, of (m, n) values."""
    ordered, m = np.sort(measured, axis=0), len(measured)

    def quantile(share: float) -> FloatArray:
        return ordered[min(ceil(share * (m + 1)), m) - 1]

    tail = (1 - level) / 2
    lower = quantile(tail)
    return np.stack([lower, np.where(lower > 0, quantile(1 - tail), quantile(level))])
