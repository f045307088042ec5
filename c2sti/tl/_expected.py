"""The PCC that each gene of an interpolated section is expected to reach with a measured one: which genes to believe.

A prediction ŷ that is a conditional mean of what would be measured, y, has cov(ŷ, y) = var(ŷ), so that

    PCC = sd(ŷ) / sd(y):

a gene of which little is known is predicted to vary little. The first is that of the predicted section, the second that
of the two measured ones.

What one section alone shows may be its own, by chance or by its preparation. Each section is therefore predicted from
the other one, too, by a Gaussian mean of its spots. Where a gene agrees less than the others do, by more than `ERRORS`
standard errors, its expected PCC is lowered in proportion.

The missing section has no part in any of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti._types import FloatArray, InterpolatedSection, Interpolator, Section, SlicePair
from c2sti.models.c2sti import C2STi
from c2sti.models.gp import Describing
from c2sti.ops import gaussian_operator

MOST = 1000  # rows of all sections, and spots of either measured one, that are looked at
LEAST = 20  # of them that are needed
N_GENES = 1024  # that are looked at together
WIDTH = 1.5  # of the Gaussian, in spot spacings
ERRORS = 3.0


def gives_means(method: Interpolator) -> bool:
    """Whether what a method predicts is a conditional mean, so that what is not known varies less.

    Copies and blends of spots have their noise, and a network that starts from zero any scale.
    """
    return isinstance(method, Describing) and not (isinstance(method, C2STi) and method.config.start == "zero")


def expected_pcc(
    sections: Sequence[InterpolatedSection],
    positions: Sequence[float],
    inside: Sequence[NDArray[np.bool_]],
    pair: SlicePair,
    seed: int,
) -> FloatArray:
    """(N,) expected PCC, mean over the sections; NaN of genes that do not vary, and where fewer than 20 rows are given.

    S sections were predicted at `positions` and M points, `inside` (M,) of which lie in the tissue of each. Where there
    are many rows or spots, some are looked at, by the seed.
    """
    rng = np.random.default_rng(seed)
    rows = [_some(np.flatnonzero(own), MOST // len(sections) + 1, rng) for own in inside]
    if sum(map(len, rows)) < LEAST:
        return np.full(pair.n_genes, np.nan)
    predicted = _deviation([section.rows(own) for section, own in zip(sections, rows, strict=True)])
    variances = [np.maximum(s.moments.square - np.square(s.moments.mean), 0) for s in (pair.a, pair.b)]
    p = float(np.mean(positions))
    measured = np.sqrt((1 - p) * variances[0] + p * variances[1])
    found = np.minimum(predicted / np.where(measured > 0, measured, np.inf), 1)
    return np.where(measured > 0, found * _agreement(found, pair, rng), np.nan)


def _some(of: NDArray[np.intp], n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return of if len(of) <= n else np.sort(rng.permutation(of)[:n])


def _deviation(sections: Sequence[InterpolatedSection]) -> FloatArray:
    """(N,) standard deviation over the rows of each section, of all together."""
    n_genes, square = len(sections[0].offset), []
    for first in range(0, n_genes, N_GENES):
        parts = [section.expression(slice(first, first + N_GENES)) for section in sections if section.weights.shape[0]]
        square.append(np.concatenate([part - part.mean(axis=0, dtype=np.float64) for part in parts]) ** 2)
    return np.sqrt(np.concatenate([block.mean(axis=0) for block in square]))


def _agreement(expected: FloatArray, pair: SlicePair, rng: np.random.Generator) -> FloatArray:
    """(N,) shares of the expected PCC that are left to genes on which the two sections agree too little."""
    scores, errors = [], []
    for one, other in ((pair.a, pair.b), (pair.b, pair.a)):
        near = np.flatnonzero(KDTree(one.xy).query(other.xy)[0] <= WIDTH * pair.spacing)
        if len(near) < LEAST:
            return np.ones_like(expected)
        spots = _some(near, MOST, rng)
        scores.append(_correlation(one, other, spots, WIDTH * pair.spacing))
        errors.append(1 / np.sqrt(len(spots)))
    found, error = np.mean(scores, axis=0), np.sqrt(np.square(errors).sum()) / 2
    usual = expected * max(float(found @ expected) / max(float(expected @ expected), 1e-9), 0)
    return np.clip((found + ERRORS * error) / np.maximum(usual, 1e-9), 0, 1)


def _correlation(one: Section, other: Section, spots: NDArray[np.intp], width: float) -> FloatArray:
    """(N,) of some spots of a section with Gaussian means of the spots of another."""
    operator = gaussian_operator(one.xy, other.xy[spots], width)
    seen = np.unique(operator.indices)
    x, y = operator[:, seen].astype(np.float32) @ one.expression[seen], other.expression[spots]
    moments = [(np.asarray(v.mean(axis=0), dtype=np.float64), np.asarray(v.power(2).mean(axis=0))) for v in (x, y)]
    means, squares = (np.stack(part) for part in zip(*moments, strict=True))
    spread = np.sqrt(np.maximum(squares - np.square(means), 0)).prod(axis=0)
    shared = np.asarray(x.multiply(y).mean(axis=0)) - means.prod(axis=0)
    return np.where(spread > 1e-9, shared / np.maximum(spread, 1e-9), 0)
