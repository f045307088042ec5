"""Do neighbouring sections share detail, below the length scales of their maps? And the field of that detail.

What maps do not follow at a spot is noise. Where sections are a few micrometres apart, cells reach from one into the
next, and this noise is correlated: part of it is detail of the tissue. Detail is a field of its own,

    g ~ GP(0, S(|x - x'| / ℓ₀) · ρ^|z - z'|),      seen through noise of ratio (1 - s) / s,

so that noise at one place in two sections a gap apart has the correlation b = s · ρ^gap. b is found by moments: what
two spots at the same place have beyond the mean of the six around each is multiplied; on average that is what the
covariance of the maps says, and b times what that of g does. s, the share of detail that is not noise, lies between b
and 1, and the geometric middle √b is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from scipy.spatial import KDTree
from torch import Tensor

from c2sti.field._kernel import Kernel, Observed

LENGTH = 0.5  # ℓ₀, in spot spacings
AROUND = 6  # spots that a spot is compared with
SAME = 0.5  # spot spacings up to which two spots, one in each section, are at the same place
FEWEST = 20  # of these pairs
SURE = 2  # standard errors from which on detail is believed
STENCIL = torch.tensor([1.0] + [-1 / AROUND] * AROUND, dtype=torch.float64)
SHORT = Kernel(LENGTH, 1.0, 1.0, gaussian=False)
MOST = 0.99


@dataclass(frozen=True)
class Detail:
    """What sections next to each other share of it.

    Parameters
    ----------
    correlation, error
        b over all maps, each weighed by its noise, and its standard error; 0 where there are too few pairs of spots.
    gap
        Between these sections, in units of z.
    """

    correlation: float = 0.0
    error: float = 0.0
    gap: float = 1.0

    @property
    def shown(self) -> float:
        """What is believed of the correlation: nothing up to twice its error, and the more of it above."""
        if self.correlation <= SURE * self.error:
            return 0.0
        return min(self.correlation * (1 - (SURE * self.error / self.correlation) ** 2), MOST)

    @property
    def kernel(self) -> Kernel:
        """The covariance of the field, where some detail is shown."""
        return Kernel(LENGTH, 1.0, self.shown ** (0.5 / self.gap), gaussian=False, power=1)

    @property
    def noise(self) -> float:
        """Its noise ratio."""
        share = self.shown**0.5
        return (1 - share) / share

    @classmethod
    def of(cls, windows: Sequence[Observed], maps: Sequence[tuple[Kernel, Tensor, Tensor]]) -> Detail:
        """Of single spots, and what was learnt of their maps.

        Parameters
        ----------
        windows
            Spots of a few windows of the tissue.
        maps
            Length scale by length scale: the kernel, and (K,) variances of the maps and of their noise.
        """
        products, distance, gap = map(torch.cat, zip(*(_pairs(window.cpu()) for window in windows), strict=True))
        if len(products) < FEWEST:
            return cls()
        expected = _through(SHORT, distance) * sum(noises.sum().cpu() for *_, noises in maps)
        here = torch.zeros(1)
        of_maps = (
            _through(kernel, distance) * kernel.between(here, gap)[0] * scale.sum().cpu() for kernel, scale, _ in maps
        )
        beyond = products - sum(of_maps)
        correlation = beyond.sum() / expected.sum()
        error = torch.linalg.vector_norm(beyond - correlation * expected) / expected.sum()
        return cls(float(correlation), float(error), float(gap.mean()))


def _through(kernel: Kernel, distance: Tensor) -> Tensor:
    """(P,) covariance of what two spots have beyond those around them, of a field that is one in both sections."""
    return STENCIL @ kernel.at(distance.clone()) @ STENCIL


def _pairs(spots: Observed) -> tuple[Tensor, Tensor, Tensor]:
    """P pairs of spots near each other, one in each of two sections next to each other.

    Returns
    -------
    (P,) products of what both have beyond the mean of the spots around them, in units of their noise, summed over maps;
    (P, 7, 7) distances of each spot and those around it from the other and those around that; (P,) gaps of z.
    """
    sections = [torch.nonzero(spots.z == z)[:, 0] for z in spots.z.unique()]
    found = [(spots.x.new_zeros(0), spots.x.new_zeros(0, AROUND + 1, AROUND + 1), spots.z.new_zeros(0))]
    for one, other in pairwise([_stencils(spots.x, rows) for rows in sections if len(rows) > AROUND]):
        first, second = (KDTree(spots.x[rows[:, 0]].numpy()) for rows in (one, other))
        near = first.sparse_distance_matrix(second, SAME, output_type="ndarray")
        i, j = near["i"], near["j"]
        product = torch.einsum("pk,pk->p", _beyond(spots, one)[i], _beyond(spots, other)[j])
        gap = spots.z[other[j, 0]] - spots.z[one[i, 0]]
        found.append((product, torch.cdist(spots.x[one[i]], spots.x[other[j]]), gap))
    products, distance, gap = map(torch.cat, zip(*found, strict=True))
    return products, distance, gap


def _stencils(x: Tensor, rows: Tensor) -> Tensor:
    """(n, 7) each spot of a section and the six around it."""
    return rows[torch.as_tensor(KDTree(x[rows].numpy()).query(x[rows].numpy(), k=AROUND + 1)[1])]


def _beyond(spots: Observed, stencils: Tensor) -> Tensor:
    """(n, K) what maps have at spots beyond the mean of those around them, in units of the spots' noise."""
    beyond = torch.einsum("nsk,s->nk", spots.values[stencils], STENCIL)
    return beyond / spots.variance[stencils[:, :1]].sqrt()
