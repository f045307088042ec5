"""Training-free methods in a few lines each: the nearest section, a blend of both, and a blend on few components.

All are linear in the genes and local in space: the answer at a point is a weighted mean of the spots around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from c2sti._types import FloatArray, InterpolatedSection, Noise, Prediction, SlicePair
from c2sti.ops import gaussian_operator, local_noise, nearest_operator, smoothed_axes

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
        slices.append(InterpolatedSection(nearest[near], (pair.a, pair.b)[near].expression, nothing))
        progress(1 / len(positions))
    return Prediction(tuple(slices), noise=operator_noise(pair, [s.weights for s in slices]))


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
        slices.append(InterpolatedSection(sp.hstack([(1 - p) * from_a, p * from_b], format="csr"), basis, nothing))
        progress(1 / len(positions))
    return Prediction(tuple(slices), noise=operator_noise(pair, [s.weights for s in slices]))


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

    Genes that vary together are estimated together, which takes away most of the count noise. Context sections
    widen the axes and join the blend, each with 0.6 of the weight of the pair's section on its side.
    """
    sections, width = pair.sections, WIDTH * pair.spacing
    means = np.stack([s.mean for s in sections])
    smoothers = [gaussian_operator(s.xy, s.xy, width) for s in sections]
    axes = smoothed_axes([s.expression for s in sections], RANK, smoothers)
    operators = [gaussian_operator(s.xy, at, width) for s in sections]
    spots = [s.expression @ axes.T - m @ axes.T for s, m in zip(sections, means, strict=True)]
    scores = np.stack([operator @ values for operator, values in zip(operators, spots, strict=True)])
    slices, shares = [], []
    for p in positions:
        weights = np.array([1 - p, p, *(BEYOND * (1 - p if s.position < 0 else p) for s in pair.context)])
        shares.append(weights / weights.sum())
        blend = np.tensordot(shares[-1], scores, axes=1)
        slices.append(InterpolatedSection(blend, axes, (1 - p) * means[0] + p * means[1]))
        progress(1 / len(positions))
    noise = map_noise([s.xy for s in sections], spots, operators, shares, axes)
    return Prediction(tuple(slices), noise=noise)


# ---- how much of a spot's noise the weights let through


def operator_noise(pair: SlicePair, operators: Sequence[sp.csr_array]) -> Noise:
    """Of answers that are weighted means of spots: the sum of the squared weights is what is left of a spot's noise."""
    return Noise(
        lambda: np.stack([gain(operator)[:, None] for operator in operators]),
        lambda: np.mean([local_noise(s.xy, s.expression) for s in (pair.a, pair.b)], axis=0)[None],
    )


def map_noise(
    places: Sequence[FloatArray],
    maps: Sequence[FloatArray],
    operators: Sequence[sp.csr_array],
    shares: Sequence[FloatArray],
    axes: FloatArray,
) -> Noise:
    """The same of answers on K axes: blends of several sections' maps, each brought to M points by an operator.

    Parameters
    ----------
    places, maps, operators
        (n_i, 2) spots, (n_i, K) values of the maps there and (M, n_i) weights, one a section.
    shares
        Share of each section, one array for each of the S answers.
    axes
        (K, N).
    """

    def weights() -> FloatArray:
        carried = [
            gain(operator)[:, None] * local_noise(xy, values)
            for xy, values, operator in zip(places, maps, operators, strict=True)
        ]
        return np.tensordot(np.square(np.stack(shares)), np.stack(carried), axes=1)

    return Noise(weights, lambda: np.square(axes))


def gain(operator: sp.csr_array) -> FloatArray:
    """(M,) share of the variance of one spot that comes through weights that add up to 1: the sum of their squares."""
    return np.asarray(operator.multiply(operator).sum(axis=1)).ravel()
