"""U-Net (Ronneberger et al. 2015): two frames in, the one between them out.

It knows one position, the middle, as in the paper's tables ("pre-defined"). Elsewhere the answer lies on the straight
line between the middle that it made and the nearer section.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti.models.compared._frames import PLAIN, FrameNetwork, blend, conv, masked_mean, padded, resized, silent


@dataclass(frozen=True)
class UNetConfig:
    """Settings of the network.

    Parameters
    ----------
    n_maps
        K, leading maps of a frame.
    widths
        Channels of each level, fine to coarse.
    """

    n_maps: int = 5
    widths: tuple[int, ...] = (24, 48, 96)


class HourGlass(nn.Module):
    """Two convolutions a level on the way down, skips and two convolutions a level on the way up.

    Parameters
    ----------
    n_in
        Channels of what it is given.
    widths
        Channels of each level, fine to coarse; the finest are what it gives back.
    beside
        Channels that join each level on its way down.
    """

    def __init__(self, n_in: int, widths: tuple[int, ...], beside: tuple[int, ...] = ()) -> None:
        super().__init__()
        beside = beside or (0,) * len(widths)
        inputs = [n + more for n, more in zip((n_in, *widths), beside, strict=False)]
        self.down = nn.ModuleList(
            nn.Sequential(conv(n, width), conv(width, width)) for n, width in zip(inputs, widths, strict=True)
        )
        self.up = nn.ModuleList(
            nn.Sequential(conv(fine + coarse, fine), conv(fine, fine))
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )

    def forward(self, maps: Tensor, beside: list[Tensor] | None = None) -> Tensor:
        """(n_in, H, W) to (widths[0], H, W); H and W multiples of 2 to the power of the levels minus one."""
        levels: list[Tensor] = []
        for i, down in enumerate(self.down):
            maps = maps if i == 0 else functional.max_pool2d(maps, 2)
            maps = down(maps if beside is None else torch.cat([maps, beside[i]]))
            levels.append(maps)
        for i in reversed(range(len(self.up))):
            maps = self.up[i](torch.cat([levels[i], resized(maps, levels[i].shape[1:])]))
        return maps


class UNet(FrameNetwork):
    """The network; see the module's text."""

    Config: ClassVar[type] = UNetConfig
    name: ClassVar[str] = "unet"
    arbitrary: ClassVar[bool] = False

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.body = HourGlass(2 * (config.n_maps + PLAIN), config.widths)
        self.head = silent(nn.Conv2d(config.widths[0], config.n_maps, 1))

    def forward(self, ends: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the blend of both ends at t."""
        height, width = ends.shape[-2:]
        frames = padded(ends, 2 ** len(self.body.up)).flatten(0, 1)
        middle = self.head(self.body(frames))[:, :height, :width]
        return 2 * min(t, 1 - t) * middle

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Mean absolute difference."""
        n = self.config.n_maps
        return masked_mean((blend(ends[:, :n], t) + self(ends, t) - target).abs(), known)
