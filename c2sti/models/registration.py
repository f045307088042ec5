"""How tissue moved between neighbouring sections: a registration of their component maps that needs no training.

Section i and the next one have a displacement u. What lies at y halfway between them lies at y - u(y) in the first and
at y + u(y) in the second. With A and B the maps of the two sections, u minimises

    Σ |A(y - u(y)) - B(y + u(y))|² / Σ variance  +  SMOOTHNESS · mean |∇u|²,

coarse to fine. Tissue that changes from section to section looks as if it had moved, and every section is laid on its
slide a little differently. So a displacement is believed as far as it explains what the two sections do not share: by
the correlation b of their maps (the kernel's c · ρ) with and without it, and as far as the evidence is for it: both
measured in molecules that it was not found in, where counts can be split.

Places are in spot spacings. Registered sections share one coordinate system: that of the middle section, or
halfway between the two in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize
from scipy.spatial import KDTree
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from c2sti._types import FloatArray, Lattice
from c2sti.ops import bilinear, gaussian_operator, linear_at, mean_operator

N_MAPS = 15  # leading components whose maps are compared
MOST_BINS = 128  # longest side of the lattice of a displacement
SMOOTHNESS = 0.3  # of u, beside the difference of the maps; both have no unit
LEVELS = (8, 4, 2)  # bins from one node of u to the next, coarse to fine
N_STEPS = 40  # of L-BFGS on each level
N_FIXED = 20  # steps in which a place halfway is found from one in a section
EXPLAINED = (0.65, 0.8)  # of what sections do not share: up to the first nothing is believed, from the second on all


@dataclass(frozen=True)
class Registration:
    """Displacements between consecutive sections of a block.

    Parameters
    ----------
    z
        (S,) of the sections, increasing.
    lattice
        Of the displacements, in spot spacings.
    displacements
        (2, H, W) u of each of the S - 1 gaps, (dx, dy) in spot spacings.
    """

    z: FloatArray
    lattice: Lattice
    displacements: tuple[FloatArray, ...]

    def gap(self, z: float) -> tuple[int, float]:
        """In which gap a z lies, and at which share of it; beyond the block, at its end."""
        i = int(np.clip(np.searchsorted(self.z, z, side="right") - 1, 0, len(self.displacements) - 1))
        return i, float(np.clip((z - self.z[i]) / (self.z[i + 1] - self.z[i]), 0, 1))

    def halfway(self, points: FloatArray, z: float) -> FloatArray:
        """(m, 2) where in the middle of its gap the tissue lies that is at the points at z."""
        i, t = self.gap(z)
        return self._from(points, i, 2 * t - 1)

    def at_home(self, points: FloatArray, z: float) -> FloatArray:
        """(m, 2) where in the frame of all sections the tissue lies that is at the points at z."""
        return self.from_halfway(self.halfway(points, z), self.gap(z)[0])

    def spots_at_home(self, x: FloatArray, z: FloatArray) -> FloatArray:
        """(n, 2) where in the frame of all sections spots lie that are at (n, 2) x and (n,) z."""
        places = x.copy()
        for one in np.unique(z):
            places[z == one] = self.at_home(x[z == one], one)
        return places

    def from_halfway(self, y: FloatArray, i: int) -> FloatArray:
        """(m, 2) where in the frame of all sections the tissue lies that is at y in the middle of gap i."""
        n = len(self.displacements)
        if n % 2 == 1:
            return self.across(y, i, n // 2)
        last = 2 * i >= n  # the section in the middle is the first of its second gap, and the second of its first
        y = self.across(y, i, n // 2 if last else n // 2 - 1)
        return y - self._at(n // 2, y) if last else y + self._at(n // 2 - 1, y)

    def across(self, y: FloatArray, i: int, j: int) -> FloatArray:
        """(m, 2) where in the middle of gap j the tissue lies that is at y in the middle of gap i."""
        while i > j:
            y = self._from(y - self._at(i, y), i - 1, 1.0)
            i -= 1
        while i < j:
            y = self._from(y + self._at(i, y), i + 1, -1.0)
            i += 1
        return y

    def at_section(self, y: FloatArray, i: int, z: float) -> FloatArray:
        """(m, 2) where at z the tissue lies that is at y in the middle of gap i."""
        j, t = self.gap(z)
        y = self.across(y, i, j)
        return y + (2 * t - 1) * self._at(j, y)

    def displacement(self, points: FloatArray, z: float) -> FloatArray:
        """(m, 2) d of :func:`c2sti.io.source_places`, by which what lies at the points is found in both sections."""
        i, t = self.gap(z)
        return -4 * t * (1 - t) * self._at(i, self.halfway(points, z))

    def _at(self, i: int, y: FloatArray) -> FloatArray:
        return linear_at(self.displacements[i], self.lattice, y).T

    def _from(self, points: FloatArray, i: int, side: float) -> FloatArray:
        """(m, 2) y of which y + side · u(y) are the points."""
        y = points
        for _ in range(N_FIXED):
            y = points - side * self._at(i, y)
        return y


Sharing: TypeAlias = Callable[[FloatArray, NDArray[np.intp], Registration | None], tuple[float, float]]


def register(
    x: FloatArray,
    z: FloatArray,
    scores: Sequence[FloatArray],
    sharing: Sharing,
) -> Registration | None:
    """Displacements between all consecutive sections, each as far as it is believed; None where none is.

    Parameters
    ----------
    x, z
        (n, 2) places of the spots of all sections, in spot spacings, and (n,) z.
    scores
        (n, K) of the components: of all molecules, or of several parts of them that are independent.
    sharing
        Gives the correlation of the maps of two sections, and its log evidence, from (n, K) scores, the (m,) spots of
        both, and a registration of them or None.
    """
    sections = np.unique(z)
    lattice = _lattice(x)
    found, believed = [], False
    for first, second in zip(sections[:-1], sections[1:], strict=True):
        spots = [np.flatnonzero(z == one) for one in (first, second)]
        mask = np.all([_near(x[own], lattice) for own in spots], axis=0)
        parts = []
        for part in scores:
            a, b = (_maps(x[own], part[own], lattice) for own in spots)
            u = lattice.pitch * _displacement(a, b, mask)
            parts.append(Registration(np.array([first, second]), lattice, (u,)))
        share = _believed(np.concatenate(spots), parts, scores, sharing)
        believed |= share > 0
        found.append(share * np.mean([part.displacements[0] for part in parts], axis=0))
    return Registration(sections, lattice, tuple(found)) if believed else None


def _believed(
    spots: NDArray[np.intp],
    found: Sequence[Registration],
    scores: Sequence[FloatArray],
    sharing: Sharing,
) -> float:
    """Share in [0, 1] of a displacement that is made, by the scores that it was not found in.

    By what it explains of them, times the probability that they give it against none: where counts are few, chance
    explains much, and fits worse.
    """
    explained, log_odds = [], 0.0
    for one, others in zip(found, [*scores[1:], scores[0]], strict=True):
        (before, without), (after, evidence) = (sharing(others, spots, known) for known in (None, one))
        explained.append((after - before) / max(1 - before, 1e-6))
        log_odds += evidence - without
    low, high = EXPLAINED
    return float(np.clip((np.mean(explained) - low) / (high - low), 0, 1) * expit(log_odds))


def _lattice(x: FloatArray) -> Lattice:
    low, high = x.min(axis=0), x.max(axis=0)
    pitch = max(1.0, float((high - low).max()) / MOST_BINS)
    columns, rows = (max(int(np.ceil(side / pitch)) + 1, 2) for side in high - low)
    return Lattice((float(low[0]), float(low[1])), pitch, (rows, columns))


def _near(x: FloatArray, lattice: Lattice) -> NDArray[np.bool_]:
    """(H, W) whether a bin lies in the tissue of some spots."""
    return (KDTree(x).query(lattice.centres)[0] <= lattice.pitch).reshape(lattice.shape)


def _maps(x: FloatArray, scores: FloatArray, lattice: Lattice) -> Tensor:
    """(K, H, W) leading maps of a section, smoothed by one bin; spots of one bin are averaged first."""
    _, part = np.unique(lattice.bins(x), return_inverse=True)
    mean = mean_operator(part, np.ones(len(part)))
    values = gaussian_operator(mean @ x, lattice.centres, lattice.pitch) @ (mean @ scores[:, :N_MAPS])
    return torch.as_tensor(values.T.reshape(-1, *lattice.shape), dtype=torch.float64)


def _displacement(a: Tensor, b: Tensor, mask: NDArray[np.bool_]) -> FloatArray:
    """(2, H, W) u in bins that brings two (K, H, W) together where a mask holds."""
    height, width = a.shape[1:]
    inside = torch.as_tensor(mask, dtype=a.dtype)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=a.dtype) for n in (height, width)), indexing="ij")
    places, u = torch.stack([columns, rows], dim=-1), a.new_zeros(2, height, width)

    def smoothed(maps: Tensor, width: float) -> Tensor:
        reach = int(2 * width) + 1
        return torch.from_numpy(gaussian_filter(maps.numpy(), width, axes=(1, 2), radius=reach, mode="nearest"))

    if not mask.any():
        return u.numpy()
    for level in LEVELS:
        one, other = (smoothed(maps, level / 2) if level > min(LEVELS) else maps for maps in (a, b))
        size = (max(height // level, 2), max(width // level, 2))
        variance = 2 * torch.cat([one.flatten(1), other.flatten(1)], dim=1).var(dim=1).sum().clamp_min(1e-12)
        u = u + _refined(one, other, inside / inside.sum() / variance, places, u, size)
    return u.numpy()


def _refined(a: Tensor, b: Tensor, weight: Tensor, places: Tensor, u: Tensor, size: tuple[int, int]) -> Tensor:
    """(2, H, W) what is added to u, smooth between nodes, so that the maps differ least."""

    def change(nodes: Tensor) -> Tensor:
        return functional.interpolate(nodes, size=u.shape[1:], mode="bicubic", align_corners=False)[0]

    def loss(nodes: Tensor) -> Tensor:
        moved = u + change(nodes)
        shift = moved.permute(1, 2, 0)
        difference = (bilinear(a, places - shift) - bilinear(b, places + shift)).square().sum(dim=0)
        rough = sum(moved.diff(dim=axis).square().mean() for axis in (1, 2))
        return (difference * weight).sum() + SMOOTHNESS * rough

    def with_gradient(values: FloatArray) -> tuple[float, FloatArray]:
        nodes = torch.from_numpy(values).reshape(1, 2, *size).requires_grad_()
        value = loss(nodes)
        (gradient,) = torch.autograd.grad(value, nodes)
        return value.item(), gradient.numpy().ravel()

    # Of scipy: torch.optim is imported with a compiler, which takes seconds.
    how = {"maxiter": N_STEPS, "ftol": 1e-9, "gtol": 1e-7}
    found = minimize(with_gradient, np.zeros(2 * size[0] * size[1]), jac=True, method="L-BFGS-B", options=how)
    return change(torch.from_numpy(found.x).reshape(1, 2, *size))
