"""Cross-modal alignment between H&E and expression (section 2.1, eq. 1).

Every gene is a node with its own map. The stem looks at one such map at a time with weights that all genes share, and
the image, which they share too, decides by a gate how much of each channel passes on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

N_LAYERS = 3  # 3 × 3 convolutions of the image; each lets a bin see one more bin on every side


def convolution(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    """3 × 3 convolution and PReLU: (B, n_in, H, W) → (B, n_out, ⌈H/stride⌉, ⌈W/stride⌉)."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1), nn.PReLU(n_out))


def zero_head(n_in: int, n_out: int) -> nn.Conv2d:
    """3 × 3 convolution that gives zero until it is trained: (B, n_in, h, w) → (B, n_out, h, w)."""
    head = nn.Conv2d(n_in, n_out, 3, padding=1)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


class ExpressionStem(nn.Module):
    """C features M_s of single-gene maps, by weights that are the same for every gene."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.look = convolution(2, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Take (N, 2, H, W), standardised expression of each gene beside the mask of the tissue, to (N, C, H, W)."""
        return self.look(maps)


class HistologyEncoder(nn.Module):
    """C_h features M_h of the H&E image on the lattice, by a small encoder that needs no download.

    It looks at the 3 channels of an image, or at the `n_given` of an encoder that has described it.
    """

    def __init__(self, channels: int, n_given: int = 3) -> None:
        super().__init__()
        self.middle = 0.5 if n_given == 3 else 0.0  # of a colour
        # Red, green, blue and whether there is an image.
        self.layers = nn.Sequential(*(convolution(channels if i else n_given + 1, channels) for i in range(N_LAYERS)))

    def forward(self, image: Tensor) -> Tensor:
        """Take a (3, H, W) image in [0, 1] (or its description), NaN where there is none, to (C_h, H, W)."""
        covered = image.isfinite().all(dim=0, keepdim=True)
        colours = torch.where(covered, image - self.middle, 0)
        return self.layers(torch.cat([colours, covered.to(colours)])[None])[0]


class CrossModalAlignment(nn.Module):
    """Keep of the C expression features what the C_h of the image support: X = M_s ⊙ G (eq. 1).

    Notes
    -----
    The paper leaves the shape of G open; it has the channels of M_s, which the product needs. No image means G = 1,
    not a black image.
    """

    def __init__(self, channels: int, histology_channels: int) -> None:
        super().__init__()
        # One 1 × 1 convolution of [M_h; M_s] in two parts: M_h is the same for all genes and is convolved once.
        self.from_histology = nn.Conv2d(histology_channels, channels, 1, bias=False)
        self.from_expression = nn.Conv2d(channels, channels, 1)
        self.to_gate = nn.Conv2d(channels, channels, 1)
        # The gate starts open: what it should hold back is learnt, not what it should let through.
        nn.init.constant_(self.to_gate.bias, 3.0)  # type: ignore[arg-type]

    def forward(self, expression: Tensor, histology: Tensor | None, covered: Tensor | None) -> Tensor:
        """Gate the expression features, see :meth:`gate`; returns (N, C, H, W) aligned features X."""
        return expression * self.gate(expression, histology, covered)

    def gate(self, expression: Tensor, histology: Tensor | None, covered: Tensor | None) -> Tensor:
        """How much of each feature passes: (N, C, H, W) gate G in (0, 1), and 1 where there is no image.

        Of (N, C, H, W) features of the genes, M_s, and (C_h, H, W) of the image, M_h, None without one; `covered` says
        which of the (H, W) bins the image covers, None for all.
        """
        if histology is None:
            return torch.ones_like(expression)
        both = self.from_histology(histology[None]) + self.from_expression(expression)
        gate = self.to_gate(both.relu()).sigmoid()
        return gate if covered is None else torch.where(covered, gate, 1)
