"""Between which ends a measured value lies: quantiles of measured spots around predictions from the other section."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti._types import FloatArray, InterpolatedSection

PART = 60  # spots from which the ends of an interval are told
MOST_PARTS = 10
N_GENES = 1024  # that are looked at together


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
            ends = np.stack([quantiles(np.take_along_axis(measured, part, axis=0), level) for part in parts])
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


def quantiles(measured: FloatArray, level: float) -> FloatArray:
    """(2, n) ends between which the next value lies with that probability, of (m, n) values."""
    ordered, m = np.sort(measured, axis=0), len(measured)

    def quantile(share: float) -> FloatArray:
        return ordered[min(ceil(share * (m + 1)), m) - 1]

    tail = (1 - level) / 2
    lower = quantile(tail)
    return np.stack([lower, np.where(lower > 0, quantile(1 - tail), quantile(level))])
