"""How sure an inserted value is: the noise of the measured spots in it, and what its neighbours disagree on.

The answer at position p is a mixture: with probability 1 − p it is what the section on the side of a says, with p what
the one on the side of b says. The variance of a mixture is that of its parts and that between them,

    std² = noise + p (1 − p) (from b − from a)²,

where `noise` is what the spots' noise becomes on its way through the method (:class:`c2sti._types.Noise`), and "from a"
is the method's own answer right beside section a, at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from c2sti._types import FloatArray, InsertedSection, Interpolator, Prediction, SlicePair

BESIDE = 1e-3  # position of a section right beside a measured one, and none of its spots is in it


@dataclass(frozen=True)
class Spread:
    """How sure the S sections of a prediction are.

    Parameters
    ----------
    prediction
        The sections.
    positions
        (S,) of them.
    ends
        What the method says of a section right beside a, and of one right beside b, at the same points.
    """

    prediction: Prediction
    positions: Sequence[float]
    ends: tuple[InsertedSection, InsertedSection]

    @cached_property
    def _noise(self) -> FloatArray | None:
        return None if self.prediction.noise is None else self.prediction.noise.weights()

    def subset(self, genes: NDArray[np.intp]) -> Spread:
        """The same of some of the genes, by index."""
        first, second = (end.subset(genes) for end in self.ends)
        return replace(self, prediction=self.prediction.subset(genes), ends=(first, second))

    def std(self, section: int, genes: slice = slice(None)) -> NDArray[np.float32]:
        """(M, n) standard deviation of the inserted values of some genes as estimates of a mean, log1p expression."""
        p = self.positions[section]
        from_a, from_b = (end.expression(genes) for end in self.ends)
        variance = p * (1 - p) * np.square(from_b - from_a)
        if self.prediction.noise is not None and self._noise is not None:
            variance += self._noise[section] @ self.prediction.noise.basis[:, genes]
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
) -> tuple[Prediction, Spread]:
    """The answer of a method, and how sure it is; the method is asked once for both."""
    n = len(positions)
    whole = method(pair, points, [*positions, BESIDE, 1 - BESIDE], device=device, seed=seed, progress=progress)
    prediction = whole.part(slice(n))
    return prediction, Spread(prediction, positions, (whole.slices[n], whole.slices[n + 1]))


def confidence(values: FloatArray, std: FloatArray, inside: NDArray[np.bool_], n_genes: int = 1024) -> FloatArray:
    """(M,) share of the variance between the bins of a section that is not doubt: V / (V + std² of the bin).

    V is the variance of the inserted values over the section's bins; both are summed over genes. 1 where nothing is in
    doubt, ½ where a bin is as unsure as bins differ; 0 where no bin differs from another.

    Parameters
    ----------
    values, std
        (M, N).
    inside
        (M,) rows of the section's tissue.
    n_genes
        Genes that are looked at together.
    """
    known, doubt = 0.0, np.zeros(len(values))
    for first in range(0, values.shape[1], n_genes):
        genes = slice(first, first + n_genes)
        known += float(values[inside, genes].var(axis=0, dtype=np.float64).sum()) if inside.any() else 0.0
        doubt += np.square(std[:, genes], dtype=np.float64).sum(axis=1)
    return known / np.maximum(known + doubt, np.finfo(np.float64).tiny)
