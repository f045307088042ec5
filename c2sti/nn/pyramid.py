"""Pyramid gene co-expression correlation (section 2.2, eq. 3).

A pyramid of features for every gene, one graph convolution that lets co-expressed genes speak to each other, a pool
and an agreement that forget which genes there were, and a decoder that reads from two sections how the tissue moves
between them. No weight depends on which genes there are or how many: permuting them permutes the nodes and leaves the
motion as it is.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti.nn.cross_modal import convolution


class PyramidEncoder(nn.Module):
    """Features C^L of each gene at several scales.

    Parameters
    ----------
    channels
        C, the same at every level.
    n_levels
        Scales. The first keeps the size of the lattice, each further one halves it, an odd size rounded up.
    n_layers
        3 × 3 convolutions a level; the first of them halves.
    """

    def __init__(self, channels: int, n_levels: int = 3, n_layers: int = 4) -> None:
        super().__init__()

        def level(stride: int) -> nn.Sequential:
            strides = [stride] + [1] * (n_layers - 1)
            return nn.Sequential(*(convolution(channels, channels, s) for s in strides))

        self.levels = nn.ModuleList(level(2 if i else 1) for i in range(n_levels))

    def forward(self, aligned: Tensor) -> list[Tensor]:
        """Take (N, C, H, W) features X to one (N, C, h, w) per level, fine to coarse."""
        features = []
        for level in self.levels:
            aligned = level(aligned)
            features.append(aligned)
        return features


class MGCGraph(nn.Module):
    """One graph convolution over the genes: F = λ · ReLU(P C Wₙ) + (1 - λ) · C (eq. 3).

    Parameters
    ----------
    channels
        C, features of a gene.
    balance
        λ to start from, in (0, 1); it is learnt.
    """

    def __init__(self, channels: int, balance: float = 0.1) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(log(balance / (1 - balance))))
        # Near the identity the layer averages over co-expressed genes from the first step on; noise breaks symmetry.
        self.weight = nn.Parameter(torch.eye(channels) + 0.01 * torch.randn(channels, channels))  # W_n

    @property
    def balance(self) -> Tensor:
        """Share of what comes over the graph, λ: a scalar in (0, 1)."""
        return self.logit.sigmoid()

    def forward(self, nodes: Tensor, propagation: Tensor) -> Tensor:
        """Mix the genes.

        Parameters
        ----------
        nodes
            (N, C, H, W) features of the genes, one level of the pyramid.
        propagation
            (N, N) P of :func:`c2sti.ops.propagation`; dense, CSR or COO.

        Returns
        -------
        (N, C, H, W)
        """
        mixed = torch.einsum("nchw,cd->ndhw", nodes, self.weight)
        spread = (propagation @ mixed.flatten(1)).reshape(nodes.shape)
        return self.balance * spread.relu() + (1 - self.balance) * nodes


class GenePool(nn.Module):
    """What the genes say together about a bin: mean and standard deviation over genes, joined.

    Parameters
    ----------
    channels
        C, before and after.
    eps
        Added to the variance: the root has no slope at zero, which a single gene or an empty bin would meet.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.join = nn.Conv2d(2 * channels, channels, 1)
        self.eps = eps

    def forward(self, nodes: Tensor) -> Tensor:
        """Take (N, C, H, W) to (C, H, W), in whatever order the genes stand."""
        variance, mean = torch.var_mean(nodes, dim=0, correction=0)
        return self.join(torch.cat([mean, (variance + self.eps).sqrt()])[None])[0]


AROUND = 1  # bins on every side in which a bin of one section is looked for in the other
N_SHIFTS = (2 * AROUND + 1) ** 2


def profiles(nodes: Tensor) -> Tensor:
    """What :func:`agreement` compares: the genes of each bin as one direction.

    Parameters
    ----------
    nodes
        (N, C, h, w) features of the genes of a section, one level of the pyramid.

    Returns
    -------
    (N·C, h, w), of length 1 in every bin, each channel minus its mean over the genes; 0 where all genes are alike.
    """
    return functional.normalize((nodes - nodes.mean(dim=0)).flatten(0, 1), dim=0, eps=1e-6)


def agreement(one: Tensor, other: Tensor) -> Tensor:
    """How alike the genes of each bin of one section are to those of the bins around it in the other.

    Parameters
    ----------
    one, other
        (N·C, h, w) :func:`profiles` of two sections.

    Returns
    -------
    (9, h, w) cosine between the profile of the bin and that of the bin shifted by (dx, dy), dy slowest, both -1, 0, 1;
    0 beyond the border.

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
    """Two 3 × 3 convolutions beside a straight way through.

    Parameters
    ----------
    channels
        C, before and after.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(convolution(channels, channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, C, H, W) to the same shape."""
        return x + self.change(x)


class DecoderLevel(nn.Module):
    """One level of the decoder: both sections and the coarser motion in, motion out.

    Parameters
    ----------
    channels
        C, of every input and of the output.
    coarsest
        Whether there is no coarser level.
    """

    def __init__(self, channels: int, coarsest: bool) -> None:
        super().__init__()
        self.enlarge = None
        if not coarsest:
            self.enlarge = nn.Sequential(nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2))
        self.join = convolution((2 if coarsest else 3) * channels + N_SHIFTS, channels)
        self.refine = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))

    def forward(self, f0: Tensor, f1: Tensor, alike: Tensor, coarser: Tensor | None) -> Tensor:
        """Take two (C, h, w), their (9, h, w) agreement and the coarser level's (C, ⌈h/2⌉, ⌈w/2⌉) to (C, h, w)."""
        given = [f0, f1, alike]
        if self.enlarge is not None and coarser is not None:
            # Halving rounded up, so doubling may give a row or column too many.
            given.append(self.enlarge(coarser[None])[0][:, : f0.shape[1], : f0.shape[2]])
        return self.refine(self.join(torch.cat(given)[None]))[0]


class MotionDecoder(nn.Module):
    """How tissue moves from one section to the other, coarse to fine: the D of section 2.2.

    Parameters
    ----------
    channels
        C, the same at every level.
    n_levels
        Scales, as in :class:`PyramidEncoder`.

    Notes
    -----
    The paper decodes both directions. Here the same weights are used twice, with the sections swapped, so that neither
    is preferred.
    """

    def __init__(self, channels: int, n_levels: int = 3) -> None:
        super().__init__()
        self.levels = nn.ModuleList(DecoderLevel(channels, coarsest=i == n_levels - 1) for i in range(n_levels))

    def forward(self, f0: list[Tensor], f1: list[Tensor], alike: list[Tensor]) -> list[Tensor]:
        """Decode one direction.

        Parameters
        ----------
        f0, f1
            (C, h, w) pooled features of the two sections at each level, fine to coarse.
        alike
            (9, h, w) :func:`agreement` of the first with the second at each level.

        Returns
        -------
        F₀→₁, (C, h, w) at each level, fine to coarse. F₁→₀ comes from the arguments swapped.
        """
        motion: list[Tensor] = []
        levels = zip(reversed(self.levels), reversed(f0), reversed(f1), reversed(alike), strict=True)
        for level, one, other, shifted in levels:
            motion.append(level(one, other, shifted, motion[-1] if motion else None))
        return motion[::-1]
