"""U-Net (Ronneberger et al. 2015): two frames in, the one between them out.

It knows one position, the middle, as in the paper's tables ("pre-defined"). Elsewhere the prediction lies on the
straight line between the middle and the nearer section.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from c2sti.models.compared._frames import PLAIN, FrameNetwork, HourGlass, masked_mean, silent


@dataclass(frozen=True)
class UNetConfig:
    """Settings of the network."""

    n_maps: int = 5  # K, leading maps of a frame
    widths: tuple[int, ...] = (24, 48, 96)  # channels of each level, fine to coarse


class UNet(FrameNetwork):
    """The network; see the module's text."""

    Config: ClassVar[type] = UNetConfig
    name: ClassVar[str] = "unet"
    arbitrary: ClassVar[bool] = False

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.body = HourGlass(2 * (config.n_maps + PLAIN), config.widths)
        self.head = silent(nn.Conv2d(config.widths[0], config.n_maps, 1))
        self.multiple = 2 ** (len(config.widths) - 1)

    def change(self, frames: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the blend of both frames at t."""
        return 2 * min(t, 1 - t) * self.head(self.body(frames.flatten(0, 1)))

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Mean absolute difference."""
        return masked_mean((self.blended(ends, t) + self(ends, t) - target).abs(), known)
