"""The standard deviation of interpolated values, and the call that asks a method for everything at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti._types import FloatArray, InterpolatedSection, Interpolator, Prediction, Section, SlicePair
from c2sti.factors import compressed, on_one_basis, with_rows_of
from c2sti.uncertainty._detail import with_detail
from c2sti.uncertainty._intervals import Calibration

N_GENES = 1024  # that are looked at together
MOST_CALIBRATED = 1000  # spots of a section on which intervals are calibrated
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
        whole = with_detail(whole, pair, at, [*positions, BESIDE, 1 - BESIDE], seed)
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
    chosen = np.sort(order[:MOST_CALIBRATED])
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
