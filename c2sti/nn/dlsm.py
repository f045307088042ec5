"""Distance-aware local structural modulation (section 2.3, eq. 4, and what eq. 5 needs).

A position for every bin, motion features modulated by it, and from these where to look in either section and how to
weigh what is seen. Sampling itself (eq. 5) has no weights and is :func:`c2sti.ops.deformable_sampling`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti.nn.cross_modal import zero_head
from c2sti.ops import deformable_sampling

SIDE = 3  # of the depth-wise kernel that is made from positions
DEPARTURE = 0.1  # the most by which a tap of the deformable kernel departs from the identity, before its mask


def position_map(t: float, gradient_0: Tensor, gradient_1: Tensor, alpha: float) -> Tensor:
    """Position of each bin between the sections, pulled on by where the H&E changes.

    Parameters
    ----------
    t
        Position of the interpolated section, 0 at the first and 1 at the second.
    gradient_0, gradient_1
        (H, W) gradient of the H&E of the two sections in [0, 1], see :func:`c2sti.ops.sobel_magnitude`.
    alpha
        How much the gradient counts, ≥ 0.

    Returns
    -------
    (H, W) positions p = t·g₀ / (t·g₀ + (1 - t)·g₁) with g = 1 + α·gradient: exact at both ends, increasing in t, and
    t itself where the gradients agree.

    Notes
    -----
    The paper multiplies t by the gradient of the H&E of the *missing* section, and the product may pass 1.
    """
    g0, g1 = 1 + alpha * gradient_0, 1 + alpha * gradient_1
    # The fraction written as a departure from t, which rounding cannot add to where there is none.
    return t + t * (1 - t) * (g0 - g1) / (t * g0 + (1 - t) * g1)


def printed_position_map(t: float, gradient: Tensor, alpha: float) -> Tensor:
    """(H, W) positions as printed: p = t · Norm(1 + α·gradient), divided by the largest weight, so that p is in (0, 1].

    The printed gradient is that of the missing section; the mean of the observed ones stands for it where there is
    none. Neither exact at the second end nor symmetric in the sections, unlike :func:`position_map`.
    """
    weight = 1 + alpha * gradient
    return t * weight / weight.max()


def differences(target: Tensor, image_0: Tensor, image_1: Tensor) -> tuple[Tensor, Tensor]:
    """How far the H&E of either section is from that of the missing one: what :func:`position_map` takes for gradients.

    Of (3, H, W) colours, NaN where unknown, two (H, W) maps in [0, 1]: their mean difference, on one scale for both; 0
    where any of the three is unknown. A bin in which the missing section looks like the second is thus nearer to it.
    """
    away = torch.stack([(target - image).abs().mean(dim=0) for image in (image_0, image_1)])
    away = torch.where(away.isfinite().all(dim=0), away, 0)
    first, second = away / away.max().clamp_min(1e-6)
    return first, second


def perceptron(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Small MLP on the last axis: (..., n_in) → (..., n_out)."""
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.PReLU(), nn.Linear(n_hidden, n_out))


class Modulation(nn.Module):
    """Adapt C motion features to a position, embedded in d numbers: F_out = β · F_ca + γ · F_sp.

    Notes
    -----
    What the paper calls a Kronecker product is a scaling of each channel.
    """

    def __init__(self, channels: int, embedding: int = 16, beta: float = 0.5, gamma: float = 0.5) -> None:
        super().__init__()
        self.beta, self.gamma = beta, gamma
        self.phi = perceptron(1, embedding, embedding)
        self.psi = perceptron(1, embedding, embedding)
        self.to_scale = perceptron(channels + embedding, channels, channels)
        self.local = nn.Conv2d(channels, channels, 3, padding=1)
        self.fuse = nn.Sequential(  # a 1 × 1 convolution, then an MLP of every bin
            nn.Conv2d(channels + embedding, channels, 1),
            nn.PReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.PReLU(),
            nn.Conv2d(channels, channels, 1),
        )
        self.to_kernel = perceptron(embedding, embedding, channels * SIDE**2)

    def forward(self, motion: Tensor, p: Tensor) -> Tensor:
        """Modulate (C, h, w) motion by the (h, w) positions of its bins; returns (C, h, w)."""
        return self.beta * self.by_channel(motion, p) + self.gamma * self.by_place(motion, p)

    def by_channel(self, motion: Tensor, p: Tensor) -> Tensor:
        """(C, h, w) motion with each channel scaled by a weight in (0, 2), from the whole map and the mean position."""
        context = torch.cat([motion.mean(dim=(1, 2)), self.phi(p.mean().reshape(1))])
        scale = 1 + self.to_scale(context).tanh()  # w_c
        return scale[:, None, None] * motion  # F_ca

    def by_place(self, motion: Tensor, p: Tensor) -> Tensor:
        """(C, h, w) local structure fused with each bin's position, by a kernel made from the positions."""
        places = self.psi(p[..., None]).movedim(-1, 0)  # E, (d, h, w)
        fused = self.fuse(torch.cat([self.local(motion[None])[0], places])[None])
        kernel = self.to_kernel(places.mean(dim=(1, 2))).view(-1, 1, SIDE, SIDE)
        return functional.conv2d(fused, kernel, padding=SIDE // 2, groups=len(kernel))[0]  # F_sp


class Estimators(nn.Module):
    """The three heads of eq. 4 for T = k·k taps, which start at zero: no shift, and the identity as kernel."""

    centre: Tensor

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        n_taps = kernel_size**2
        self.offset, self.kernel, self.mask = (zero_head(channels, n) for n in (2 * n_taps, n_taps, n_taps))
        centre = functional.one_hot(torch.tensor(n_taps // 2), n_taps)[:, None, None]
        self.register_buffer("centre", centre.to(torch.get_default_dtype()), persistent=False)

    def offsets(self, features: Tensor) -> Tensor:
        """(T, 2, h, w) raw shifts (dx, dy) of the taps from (C, h, w) features."""
        return self.offset(features[None])[0].unflatten(0, (-1, 2))

    def weights(self, features: Tensor) -> Tensor:
        """(T, h, w) kernel times mask from (C, h, w) features; the sum over the taps is 1."""
        kernel = self.centre + DEPARTURE * self.kernel(features[None])[0].tanh()
        mask = 2 * self.mask(features[None])[0].sigmoid()
        weights = kernel * mask
        # What lacks goes to the centre. To first order that is dividing by the sum, which could come near to zero.
        return weights + self.centre * (1 - weights.sum(dim=0))


class Deformation(NamedTuple):
    """Where to look in either section for each bin of the interpolated one, and how to weigh what is seen.

    Parameters
    ----------
    offsets_0, offsets_1
        (T, 2, h, w) shifts (dx, dy) of the taps in bins.
    weights_0, weights_1
        (T, h, w) weights of the taps; their sum is 1.
    p
        (h, w) position of each bin.
    """

    offsets_0: Tensor
    weights_0: Tensor
    offsets_1: Tensor
    weights_1: Tensor
    p: Tensor

    @property
    def sides(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Offsets and weights in the first section, and in the second."""
        return (self.offsets_0, self.weights_0), (self.offsets_1, self.weights_1)

    def sampled(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 5: (K, h, w) of either section, deformed."""
        return (
            deformable_sampling(first, self.offsets_0, self.weights_0),
            deformable_sampling(second, self.offsets_1, self.weights_1),
        )

    @property
    def shifts(self) -> Tensor:
        """(4, h, w) where the material of a bin lies in the first section, then in the second: (dx, dy) in bins.

        Means over the taps by their weights: what a tap that counts for nothing does is not motion.
        """
        return torch.cat([(offsets * weights[:, None]).sum(dim=0) for offsets, weights in self.sides])

    @property
    def displacement(self) -> Tensor:
        """(2, h, w) displacement, (dx, dy) in bins: 0 at both ends and where a = b, reversed by swapping them.

        It points from a bin towards where its material lies in the first section, against the motion from the first to
        the second. The shifts to both sections, each with the share that its section has in the bin; the second counts
        negatively, for what moves is met from opposite sides in the two sections, and the sum would cancel it.
        """
        first, second = self.shifts.split(2)
        return fuse(first, -second, self.p)


class DLSM(nn.Module):
    """From motion between two sections to the deformation that brings each of them to a position in between.

    Settings are those of :class:`c2sti.C2STiConfig`; not `modulated` is the paper's "w/o DLSM".

    Notes
    -----
    A shift is driven by the difference of the two directions. So equal sections are not moved, and swapping the
    sections swaps the answer, whatever the weights. It grows with the distance from its section: at p = 0 the first
    section is not moved, at p = 1 the second.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        embedding: int = 16,
        reach: float = 2.0,
        *,
        beta: float = 0.5,
        gamma: float = 0.5,
        modulated: bool = True,
    ) -> None:
        super().__init__()
        self.modulation = Modulation(channels, embedding, beta, gamma) if modulated else None
        self.estimators = Estimators(channels, kernel_size)
        self.reach = reach

    def forward(self, f01: Tensor, f10: Tensor, p: Tensor) -> Deformation:
        """Of both sections, from (C, h, w) F₀→₁ and F₁→₀ of one level and the (h, w) position of each bin."""
        return Deformation(*self.one_side(f01, f10, p), *self.one_side(f10, f01, 1 - p), p)

    def one_side(self, motion: Tensor, reverse: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """(T, 2, h, w) offsets and (T, h, w) weights in the section p away; (C, h, w) motion from it and back to it."""
        forward, backward = (f if self.modulation is None else self.modulation(f, p) for f in (motion, reverse))
        difference = self.estimators.offsets(forward) - self.estimators.offsets(backward)
        return p * self.reach * difference.tanh(), self.estimators.weights(forward)


def fuse(from_0: Tensor, from_1: Tensor, p: Tensor) -> Tensor:
    """Blend two (K, H, W) by the (H, W) position of each bin: (1 - p) · from_0 + p · from_1."""
    return (1 - p) * from_0 + p * from_1
