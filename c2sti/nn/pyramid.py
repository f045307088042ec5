"""Pyramid gene co-expression correlation (section 2.2, eq. 3).

A pyramid of features for every gene, one graph convolution that mixes co-expressed genes, a pool and a local
correlation over all genes, and decoders: one gives how tissue moves between two sections, one gives the section at a
position from the features there. No weight depends on which genes there are or how many: permuting them permutes the
nodes, and leaves the motion as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti.nn.cross_modal import convolution, zero_head

N_LAYERS = 4  # 3 × 3 convolutions of a level of the encoder, the first of which halves
BALANCE = 0.1  # λ of eq. 3 to start from
EPS = 1e-6  # added to a variance: its root has no slope at zero, which a single gene or an empty bin would meet


class PyramidEncoder(nn.Module):
    """C features C^L of each gene at several scales, by four convolutions each.

    The first level keeps the size of the lattice unless `halved`, each further one halves it, rounding up.
    """

    def __init__(self, channels: int, n_levels: int = 3, *, halved: bool = False) -> None:
        super().__init__()

        def level(stride: int) -> nn.Sequential:
            strides = [stride] + [1] * (N_LAYERS - 1)
            return nn.Sequential(*(convolution(channels, channels, s) for s in strides))

        self.levels = nn.ModuleList(level(2 if i or halved else 1) for i in range(n_levels))

    def forward(self, aligned: Tensor) -> list[Tensor]:
        """Take (N, C, H, W) features X to one (N, C, h, w) per level, fine to coarse."""
        features = []
        for level in self.levels:
            aligned = level(aligned)
            features.append(aligned)
        return features


class MGCGraph(nn.Module):
    """One graph convolution over the genes: F = λ · ReLU(P C Wₙ) + (1 - λ) · C (eq. 3). λ is learnt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(log(BALANCE / (1 - BALANCE))))
        # Near the identity the layer averages over co-expressed genes from the first step on; noise breaks symmetry.
        self.weight = nn.Parameter(torch.eye(channels) + 0.01 * torch.randn(channels, channels))  # W_n

    @property
    def balance(self) -> Tensor:
        """Share of what comes over the graph, λ: a scalar in (0, 1)."""
        return self.logit.sigmoid()

    def forward(self, nodes: Tensor, propagation: Tensor) -> Tensor:
        """Mix (N, C, H, W) features of the genes by the (N, N) P of :func:`c2sti.ops.propagation`, dense or sparse."""
        mixed = torch.einsum("nchw,cd->ndhw", nodes, self.weight)
        spread = (propagation @ mixed.flatten(1)).reshape(nodes.shape)
        return self.balance * spread.relu() + (1 - self.balance) * nodes


class GenePool(nn.Module):
    """What the genes say together about a bin: mean and standard deviation over genes, joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.join = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, nodes: Tensor) -> Tensor:
        """Take (N, C, H, W) to (C, H, W), in whatever order the genes stand."""
        variance, mean = torch.var_mean(nodes, dim=0, correction=0)
        return self.join(torch.cat([mean, (variance + EPS).sqrt()])[None])[0]


AROUND = 1  # bins on every side in which a bin of one section is looked for in the other
N_SHIFTS = (2 * AROUND + 1) ** 2


def profiles(nodes: Tensor) -> Tensor:
    """What :func:`local_correlation` compares, of (N, C, h, w) nodes: the genes of each bin as one direction.

    (N·C, h, w), of length 1 in every bin, each channel minus its mean over the genes; 0 where all genes are alike.
    """
    return functional.normalize((nodes - nodes.mean(dim=0)).flatten(0, 1), dim=0, eps=1e-6)


def local_correlation(one: Tensor, other: Tensor) -> Tensor:
    """How alike the genes of each bin of one section are to those of the bins around it in the other.

    Of (N·C, h, w) :func:`profiles` of both: (9, h, w) cosine between the profile of the bin and that of the bin shifted
    by (dx, dy), dy slowest, both -1, 0, 1; 0 beyond the border.

    Notes
    -----
    Not in the paper, whose decoder has to find out what moved from two pooled maps. A profile of many genes tells a bin
    from its neighbours better than any one of them, in whatever order they stand.
    """
    height, width = one.shape[1:]
    padded = functional.pad(other, [AROUND] * 4)
    shifts = [(dy, dx) for dy in range(2 * AROUND + 1) for dx in range(2 * AROUND + 1)]
    return torch.stack([(one * padded[:, dy : dy + height, dx : dx + width]).sum(dim=0) for dy, dx in shifts])


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions beside a straight way through."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(convolution(channels, channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, C, H, W) to the same shape."""
        return x + self.change(x)


class Level(nn.Module):
    """One level of a decoder: `n_given` features and the C that the coarser level gave, if there is one, joined."""

    def __init__(self, n_given: int, channels: int, coarsest: bool) -> None:
        super().__init__()
        self.enlarge = None if coarsest else pixel_shuffle(channels)
        self.join = convolution(n_given if coarsest else n_given + channels, channels)
        self.refine = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))

    def forward(self, given: Tensor, coarser: Tensor | None) -> Tensor:
        """Take (B, n_given, h, w), and the coarser level's (B, C, ⌈h/2⌉, ⌈w/2⌉), to (B, C, h, w)."""
        if self.enlarge is not None and coarser is not None:
            given = torch.cat([given, enlarged(self.enlarge, coarser, given.shape[2:])], dim=1)
        return self.refine(self.join(given))


def pixel_shuffle(channels: int) -> nn.Sequential:
    """A 3 × 3 convolution and a pixel shuffle: (B, C, h, w) → (B, C, 2h, 2w)."""
    return nn.Sequential(nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2))


def enlarged(enlarge: nn.Module, coarser: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, C, H, W) by a pixel shuffle; halving rounded up, so doubling may give a row or column too many."""
    return enlarge(coarser)[:, :, : shape[0], : shape[1]]


class MotionDecoder(nn.Module):
    """How tissue moves from one section to the other, coarse to fine: the D of section 2.2.

    Notes
    -----
    The paper decodes both directions. Here the same weights are used twice, with the sections swapped, so that neither
    is preferred.
    """

    def __init__(self, channels: int, n_levels: int = 3) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            Level(2 * channels + N_SHIFTS, channels, coarsest=i == n_levels - 1) for i in range(n_levels)
        )

    def forward(self, f0: list[Tensor], f1: list[Tensor], alike: list[Tensor]) -> list[Tensor]:
        """F₀→₁, (C, h, w) at each level, fine to coarse; F₁→₀ comes from the arguments swapped.

        Of (C, h, w) pooled features of both sections and their (9, h, w) :func:`local_correlation` at each level.
        """
        given = [torch.cat(maps)[None] for maps in zip(f0, f1, alike, strict=True)]
        return [motion[0] for motion in coarse_to_fine(self.levels, given)]


class SectionDecoder(nn.Module):
    """The section itself from features at its position, gene by gene: upsampling by pixel shuffle, and a head (§2.3).

    With `halved` the finest level has half the bins of the lattice, and a last pixel shuffle leads back to it; with
    `zero` the head starts at zero, for a section that is added to another prediction.
    """

    def __init__(self, channels: int, n_levels: int, *, halved: bool, zero: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level(channels, channels, coarsest=i == n_levels - 1) for i in range(n_levels))
        self.enlarge = pixel_shuffle(channels) if halved else None
        self.head = zero_head(channels, 1) if zero else nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, features: list[Tensor], shape: Sequence[int]) -> Tensor:
        """Take (N, C, h, w) at each level, fine to coarse, to (N, H, W) on a lattice of that shape."""
        finest = coarse_to_fine(self.levels, features)[0]
        if self.enlarge is not None:
            finest = enlarged(self.enlarge, finest, shape)
        return self.head(finest)[:, 0]


def coarse_to_fine(levels: nn.ModuleList, given: Sequence[Tensor]) -> list[Tensor]:
    """(B, C, h, w) of each level, fine to coarse; each level sees what the coarser one gave."""
    found: list[Tensor] = []
    for level, features in zip(reversed(levels), reversed(given), strict=True):
        found.append(level(features, found[-1] if found else None))
    return found[::-1]
