"""Are two sections of normalised expression on one scale? Their correlation does not see it.

Spots that were normalised have one total, once the logarithm is undone: that tells both. Where totals differ, as after
a panel was cut, the expression of the genes that both sections have is compared instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from c2sti.grid._genes import values_of_both
from c2sti.grid._read import SliceGrid
from c2sti.pair_check import LEAST_GENES, sampled, seen_genes

LOGARITHMS = {
    math.e: "natural logarithm",
    2.0: "logarithm to base 2",
    10.0: "logarithm to base 10",
    1.0: "no logarithm",
}
MOST_LOG = 20.0  # logarithm of a million to base 2: larger values are not logarithms
MOST_SHARE = 100.0  # total of shares in per cent, which need no logarithm
CONSTANT = 0.01  # of the total of a spot: totals that vary by less were normalised
DISTINCT = 4.0  # times as constant as by any other logarithm, totals tell the logarithm
ALIKE = 1.25  # factor by which genes of neighbours differ (median): 1.15 at most on real ones, 1.34 among 100 genes


@dataclass(frozen=True)
class Scale:
    """How expression was normalised, as far as its values tell.

    Parameters
    ----------
    base
        Of the logarithm, 1 for none, NaN where it is not known.
    total
        Of a spot before the logarithm, NaN where it is not known.
    most
        Largest value.
    """

    base: float
    total: float
    most: float

    @property
    def is_raw(self) -> bool:
        """Whether there is no logarithm where one is expected: shares and percentages may come without."""
        return self.most > MOST_LOG or (self.base == 1 and self.total > (1 + CONSTANT) * MOST_SHARE)

    def __str__(self) -> str:
        if np.isnan(self.base):
            return f"values up to {self.most:.4g}, no logarithm" if self.is_raw else "totals of spots differ"
        total = f"{self.total:,.0f}" if self.total >= MOST_SHARE else f"{self.total:.4g}"
        return f"normalised to {total} a spot, {LOGARITHMS[self.base]}"


def level(a: SliceGrid, b: SliceGrid) -> tuple[float, str]:
    """Ratio of the scales of two sections, in [0, 1], and the scales in words.

    Where the values tell both scales: the ratio of the totals, times that of the logarithms' units. 0 where one has a
    logarithm and the other has none, or neither has. Else the median over genes of the ratio of mean expression, as if
    the logarithm were natural; as neighbours differ, too, a factor of `ALIKE` is taken off. NaN for counts, which are
    normalised by c2sti, and where too few genes are seen in both.
    """
    if a.counts or b.counts:
        return float("nan"), "counts"
    first, second = (sampled(values) for values in values_of_both(a, b))
    one, other = scale_of(first), scale_of(second)
    words = f"{a.name}: {one}; {b.name}: {other}"
    logarithms = {one.base, other.base} & {math.e, 2.0, 10.0}
    if one.is_raw or other.is_raw or (1.0 in (one.base, other.base) and logarithms):
        return 0.0, words
    if np.isfinite([one.base, other.base]).all():
        units = 1.0 if one.base == other.base else _ratio(np.log(one.base), np.log(other.base))
        return units * _ratio(one.total, other.total), words
    factor, n_genes = _factor(first, second)
    words = f"over {n_genes} genes, expression of {b.name} is {factor:.3g} times that of {a.name} (median)"
    return float(np.minimum(ALIKE * _ratio(factor, 1.0), 1.0)), words


def scale_of(expression: sp.csr_array) -> Scale:
    """The scale of some spots: (n, N) normalised expression."""
    most = float(expression.data.max(initial=0))
    bases = [base for base in LOGARITHMS if base == 1 or most <= MOST_LOG]
    totals = {base: _total(expression, base) for base in bases}
    (varies, base), *others = sorted((varies, base) for base, (_, varies) in totals.items())
    if varies > CONSTANT or (others and others[0][0] <= DISTINCT * varies):
        return Scale(float("nan"), float("nan"), most)
    return Scale(base, totals[base][0], most)


def _total(expression: sp.csr_array, base: float) -> tuple[float, float]:
    """Median total of the spots that have any, and by how much of it nine of ten differ."""
    values = expression.astype(np.float64)
    totals = (values if base == 1 else (values * np.log(base)).expm1()).sum(axis=1)
    if not (totals > 0).any():
        return float("nan"), float("inf")
    low, middle, high = np.quantile(totals[totals > 0], [0.05, 0.5, 0.95])
    return float(middle), float((high - low) / middle)


def _factor(first: sp.csr_array, second: sp.csr_array) -> tuple[float, int]:
    """Median ratio of mean expression, second over first, and over how many genes: those that are seen in both."""
    seen = seen_genes(first) & seen_genes(second)
    if seen.sum() < LEAST_GENES:
        return float("nan"), int(seen.sum())
    means = [np.asarray(x[:, seen].astype(np.float64).expm1().mean(axis=0)).ravel() for x in (first, second)]
    return float(np.median(means[1] / means[0])), int(seen.sum())


def _ratio(one: float, other: float) -> float:
    """The smaller of two numbers over the larger."""
    return float(np.minimum(one, other) / np.maximum(one, other))
