"""Interpolation along an optimal-transport coupling of the spots of two sections, by POT.

1. Coupling of the spots. `plain`: optimal transport, with a cost of expression and of place in common coordinates.
   `fused`: the fused Gromov–Wasserstein coupling of PASTE (Zeira et al. 2022), which compares distances within each
   section, so that it needs no common coordinates.
2. Displacement interpolation (McCann 1997). The mass that goes from spot i of section a to spot j of section b lies at
   ``(1 − t) x_i + t x_j`` with expression ``(1 − t) e_i + t e_j``.
3. The interpolated section at a point is the mean of this mass around it, weighted by mass and a Gaussian.

POT is not a dependency of c2sti: ``pip install --no-deps pot``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import ot
import scipy.sparse as sp
from scipy.spatial import KDTree

from c2sti._types import FloatArray, InterpolatedSection, Prediction, SlicePair

REACH = 4.0  # standard deviations within which a point sees transported mass


@dataclass(frozen=True)
class Transport:
    """Displacement interpolation, as a method that `model=` of c2sti's functions takes.

    Parameters
    ----------
    kind
        ``"plain"`` or ``"fused"``.
    alpha
        Weight of space in the cost, 0 to 1; expression has ``1 − alpha``. Each is divided by its mean.
    components
        Principal components of the log expression of both sections, each centred, that are compared.
    regularization
        Weight of the entropy of a plain coupling, by the mean cost; 0 is the exact coupling.
    mass
        Share of the spots that an exact plain coupling pairs.
    width
        Standard deviation of the Gaussian of step 3, in spot spacings; 0 takes the nearest mass.
    """

    kind: str = "plain"
    alpha: float = 0.5
    components: int = 30
    regularization: float = 0.1
    mass: float = 1.0
    width: float = 1.5

    def __post_init__(self) -> None:
        if (self.mass < 1 and self.regularization) or (self.kind == "fused" and (self.mass < 1 or self.regularization)):
            raise ValueError("regularization and mass are of plain couplings, one or the other")

    @property
    def __name__(self) -> str:
        return f"transport_{self.kind}"

    def __call__(
        self,
        pair: SlicePair,
        at: FloatArray,
        positions: Sequence[float],
        *,
        device: str = "cpu",
        seed: int = 0,
        progress: Callable[[float], object] = lambda share: None,
    ) -> Prediction:
        """The sections between two; see :class:`c2sti.Interpolator`."""
        return displaced(pair, self.coupling(pair), at, positions, self.width, progress)

    def coupling(self, pair: SlicePair) -> FloatArray:
        """(n_a, n_b) mass that goes from each spot of section a to each of section b."""
        a, b = components(pair, self.components)
        expression = relative(ot.dist(a, b))
        shares = [np.full(len(s.xy), 1 / len(s.xy)) for s in (pair.a, pair.b)]
        if self.kind == "fused":
            inner = [relative(ot.dist(s.xy, s.xy, metric="euclidean")) for s in (pair.a, pair.b)]
            return ot.gromov.fused_gromov_wasserstein(expression, *inner, *shares, alpha=self.alpha, max_iter=100)
        cost = (1 - self.alpha) * expression + self.alpha * relative(ot.dist(pair.a.xy, pair.b.xy))
        if self.regularization:
            return ot.sinkhorn(*shares, cost, self.regularization * cost.mean(), stopThr=1e-5)
        if self.mass < 1:
            return ot.partial.partial_wasserstein(*shares, cost, m=self.mass, nb_dummies=10)
        return ot.emd(*shares, cost, numItermax=10_000_000)


def components(pair: SlicePair, n: int) -> tuple[FloatArray, FloatArray]:
    """(n_a, n) and (n_b, n) scores of the sections on common principal components of their log expression."""
    values = [s.expression.toarray().astype(np.float64) - s.mean for s in (pair.a, pair.b)]
    covariance = sum(x.T @ x for x in values)
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :n]
    return values[0] @ axes, values[1] @ axes


def relative(cost: FloatArray) -> FloatArray:
    """A cost by its mean."""
    return cost / max(cost.mean(), np.finfo(float).tiny)


def displaced(
    pair: SlicePair,
    coupling: FloatArray,
    at: FloatArray,
    positions: Sequence[float],
    width: float,
    progress: Callable[[float], object] = lambda share: None,
) -> Prediction:
    """The sections that a coupling of any origin gives, steps 2 and 3.

    Entries below a thousandth of the largest of their row and of their column are left out.
    """
    limit = np.minimum(coupling.max(axis=1)[:, None], coupling.max(axis=0)[None]) / 1000
    i, j = np.nonzero((coupling > limit) & (coupling > 0))
    mass = coupling[i, j]
    rows = np.arange(len(mass))
    from_a = sp.csr_array((np.ones(len(mass)), (rows, i)), shape=(len(mass), len(pair.a.xy)))
    from_b = sp.csr_array((np.ones(len(mass)), (rows, j)), shape=(len(mass), len(pair.b.xy)))
    basis = sp.vstack([pair.a.expression, pair.b.expression], format="csr")
    sections = []
    for t in positions:
        places = (1 - t) * pair.a.xy[i] + t * pair.b.xy[j]
        read = around(places, mass, at, width * pair.spacing)
        weights = sp.hstack([(1 - t) * (read @ from_a), t * (read @ from_b)], format="csr")
        sections.append(InterpolatedSection(weights, basis, np.zeros(pair.n_genes)))
        progress(1 / len(positions))
    return Prediction(tuple(sections))


def around(places: FloatArray, mass: FloatArray, at: FloatArray, width: float) -> sp.csr_array:
    """(M, K) weights of K masses around M points, each row with sum 1: mass times a Gaussian of the distance.

    A point with no mass within the reach of the Gaussian takes the nearest.
    """
    tree, shape = KDTree(places), (len(at), len(places))
    within = KDTree(at).sparse_distance_matrix(tree, REACH * width, output_type="ndarray")
    weight = mass[within["j"]] * np.exp(-0.5 * (within["v"] / (width or 1.0)) ** 2)
    if width == 0:
        within, weight = within[:0], weight[:0]
    total = np.bincount(within["i"], weight, minlength=len(at))
    (alone,) = np.nonzero(total == 0)
    seen = sp.csr_array((weight / total[within["i"]], (within["i"], within["j"])), shape=shape)
    nearest = sp.csr_array((np.ones(len(alone)), (alone, tree.query(at[alone])[1])), shape=shape)
    return seen + nearest


# Settings were chosen on sections 2 to 5 of her2st B and D (docs/published_tools.md).
METHODS = {m.__name__: m for m in (Transport(), Transport("fused", alpha=0.9, regularization=0.0, width=2.0))}
