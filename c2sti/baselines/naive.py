"""Training-free methods in a few lines each: the nearest section, a blend of both, and a blend on few components.

All are linear in the genes and local in space: the answer at a point is a weighted mean of the spots around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from c2sti._types import FloatArray, InsertedSection, Prediction, SlicePair
from c2sti.ops import gaussian_operator, nearest_operator, smoothed_axes

WIDTH = 0.6  # of the Gaussian, in spot spacings
RANK = 5
BEYOND = 0.6  # weight of a context section, as a share of that of the pair's section on its side


def copy(
    pair: SlicePair,
    at: FloatArray,
    positions: Sequence[float],
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> Prediction:
    """Nearest spot of the nearer section (of a, half-way)."""
    nothing = np.zeros(pair.n_genes)
    nearest = [nearest_operator(section.xy, at) for section in (pair.a, pair.b)]
    slices = []
    for p in positions:
        near = 0 if p <= 0.5 else 1
        slices.append(InsertedSection(nearest[near], (pair.a, pair.b)[near].expression, nothing))
        progress(1 / len(positions))
    return Prediction(tuple(slices))


def linear(
    pair: SlicePair,
    at: FloatArray,
    positions: Sequence[float],
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> Prediction:
    """Gaussian blend of the two sections: smoothed by 0.6 pitch, weighted by 1 − p and p."""
    nothing = np.zeros(pair.n_genes)
    from_a, from_b = (gaussian_operator(s.xy, at, WIDTH * pair.spacing) for s in (pair.a, pair.b))
    basis = sp.vstack([pair.a.expression, pair.b.expression], format="csr")
    slices = []
    for p in positions:
        slices.append(InsertedSection(sp.hstack([(1 - p) * from_a, p * from_b], format="csr"), basis, nothing))
        progress(1 / len(positions))
    return Prediction(tuple(slices))


def lowrank(
    pair: SlicePair,
    at: FloatArray,
    positions: Sequence[float],
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> Prediction:
    """The blend of `linear`, projected on the five principal axes of the sections' own smoothed expression.

    Genes of one programme then speak for each other, which takes away most of the count noise. Context sections widen
    the axes and join the blend, each with 0.6 of the weight of the pair's section on its side.
    """
    sections, width = pair.sections, WIDTH * pair.spacing
    means = np.stack([s.mean for s in sections])
    smoothers = [gaussian_operator(s.xy, s.xy, width) for s in sections]
    axes = smoothed_axes([s.expression for s in sections], RANK, smoothers)
    scores = [
        gaussian_operator(s.xy, at, width) @ (s.expression @ axes.T - m @ axes.T)
        for s, m in zip(sections, means, strict=True)
    ]
    slices = []
    for p in positions:
        weights = np.array([1 - p, p, *(BEYOND * (1 - p if s.position < 0 else p) for s in pair.context)])
        blend = np.tensordot(weights / weights.sum(), np.stack(scores), axes=1)
        slices.append(InsertedSection(blend, axes, (1 - p) * means[0] + p * means[1]))
        progress(1 / len(positions))
    return Prediction(tuple(slices))
