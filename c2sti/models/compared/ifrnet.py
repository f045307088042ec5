"""IFRNet (Kong et al. 2022): flow and the features of the interpolated frame refined together, coarse to fine.

One encoder describes both frames at a few levels. From the coarsest, a decoder makes the flow to both frames and a
first guess of the features of the frame between; the next look up both frames' features along the flow, and correct
flow and features at once. The last gives a mask and what is missing from the merged frames. While training, the guessed
features are compared with those of the hidden frame by their local geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti.models.compared._frames import (
    PLAIN,
    FrameNetwork,
    blend,
    charbonnier,
    conv,
    masked_mean,
    padded,
    plane,
    resized,
    resized_flow,
    silent,
    warp,
)

FOOT = 0.1  # of the census distance: d² / (d² + FOOT) hardly tells two clear differences apart


@dataclass(frozen=True)
class IFRNetConfig:
    """Settings of the network.

    Parameters
    ----------
    n_maps
        K, leading maps of a frame.
    widths
        Channels of the encoder's levels, fine to coarse; each halves the grid.
    side
        Channels of a residual block that get convolutions of their own.
    census, geometry
        Weights of the census distance of the maps, and of the features, in the loss.
    """

    n_maps: int = 5
    widths: tuple[int, ...] = (24, 36, 48)
    side: int = 12
    census: float = 1.0
    geometry: float = 0.01


class SideBlock(nn.Module):
    """Residual block of five convolutions, the second and fourth of which see the last `side` channels alone."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.first, self.third = conv(width, width), conv(width, width)
        self.second, self.fourth = conv(side, side), conv(side, side)
        self.last, self.slope = nn.Conv2d(width, width, 3, padding=1), nn.PReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """(width, H, W) to as many."""
        features = self.first(maps)
        features = torch.cat([features[: -self.side], self.second(features[-self.side :])])
        features = self.third(features)
        features = torch.cat([features[: -self.side], self.fourth(features[-self.side :])])
        return self.slope(maps + self.last(features))


def decoder(n_in: int, width: int, side: int, n_out: int, n_silent: int) -> nn.Sequential:
    """Convolution, residual block, and a transposed one that doubles the grid; 4 channels of flow come first."""
    double = silent(nn.ConvTranspose2d(width, n_out, 4, stride=2, padding=1), n_silent)
    return nn.Sequential(conv(n_in, width), SideBlock(width, side), double)


class IFRNet(FrameNetwork):
    """The network; see the module's text."""

    Config: ClassVar[type] = IFRNetConfig
    name: ClassVar[str] = "ifrnet"

    def __init__(self, config: IFRNetConfig) -> None:
        super().__init__(config)
        w = config.widths
        self.encoder = nn.ModuleList(
            nn.Sequential(conv(n, width, stride=2), conv(width, width))
            for n, width in zip((config.n_maps + PLAIN, *w), w, strict=False)
        )
        # The coarsest is shown both frames and the position; the others both frames, the guess, and the flow.
        inputs = [*(3 * n + 4 for n in w[:-1]), 2 * w[-1] + 1]
        outputs = [4 + 1 + config.n_maps, *(4 + n for n in w[:-1])]
        self.decoders = nn.ModuleList(
            # The finest says 0 at first: untrained, the answer is the blend. The others have no flow, but a guess.
            decoder(n, 2 * width, config.side, out, out if i == 0 else 4)
            for i, (n, width, out) in enumerate(zip(inputs, w, outputs, strict=True))
        )

    def forward(self, ends: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the blend of both ends at t."""
        height, width = ends.shape[-2:]
        frames = self._padded(ends)
        made, _ = self._made(frames, t)
        return (made - blend(frames[:, : self.config.n_maps], t))[:, :height, :width]

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Charbonnier and census distance of the maps, and census distance of the guessed features."""
        frames, truth, mask = (self._padded(maps) for maps in (ends, target, known[None]))
        made, guesses = self._made(frames, t)
        error = masked_mean(charbonnier(made - truth), mask[0])
        error = error + self.config.census * masked_mean(census(made, truth), mask[0])
        # The held-out section was not stained: its image is unknown to the encoder as a missing one is.
        hidden = self._pyramid(torch.cat([truth, mask, torch.zeros_like(mask)]))
        geometry = made.new_zeros(())
        for guess, features in zip(guesses, hidden, strict=False):
            inside = resized(mask, features.shape[1:])[0]
            geometry = geometry + masked_mean(census(guess, features), inside)
        return error + self.config.geometry * geometry

    def _padded(self, maps: Tensor) -> Tensor:
        return padded(maps, 2 ** len(self.config.widths))

    def _pyramid(self, frame: Tensor) -> list[Tensor]:
        """Features of a (K + 2, H, W) frame, fine to coarse."""
        levels = []
        for level in self.encoder:
            frame = level(frame)
            levels.append(frame)
        return levels

    def _made(self, frames: Tensor, t: float) -> tuple[Tensor, list[Tensor]]:
        """(K, H, W) maps at t, and the guessed features of all levels but the coarsest, fine to coarse."""
        a, b = self._pyramid(frames[0]), self._pyramid(frames[1])
        out = self.decoders[-1](torch.cat([a[-1], b[-1], plane(t, a[-1])]))
        flow, guesses = out[:4], [out[4:]]
        for i in reversed(range(len(self.decoders) - 1)):
            to_a, to_b = _to_ends(flow, t)
            out = self.decoders[i](torch.cat([guesses[-1], warp(a[i], to_a), warp(b[i], to_b), flow]))
            flow = resized_flow(flow, out.shape[1:]) + out[:4]
            guesses.append(out[4:])
        guess = guesses[-1]
        to_a, to_b = _to_ends(flow, t)
        n = self.config.n_maps
        share = torch.sigmoid(guess[:1] + log((1 - t) / t))
        merged = share * warp(frames[0, :n], to_a) + (1 - share) * warp(frames[1, :n], to_b)
        return merged + 4 * t * (1 - t) * guess[1:], guesses[:-1][::-1]


def _to_ends(flow: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Flow to a and to b: it shrinks with the distance from either, as in the middle is learnt."""
    return 2 * t * flow[:2], 2 * (1 - t) * flow[2:]


def census(one: Tensor, other: Tensor) -> Tensor:
    """(1, H, W) distance of the local geometry of two (C, H, W), in [0, 1): signs of differences to its neighbours."""
    distance = (_signs(one) - _signs(other)).square()
    return (distance / (distance + FOOT)).mean(dim=(0, 1))[None]


def _signs(maps: Tensor) -> Tensor:
    """(C, 9, H, W) soft signs of the differences of a bin's neighbours to it."""
    around = functional.unfold(functional.pad(maps[:, None], (1, 1, 1, 1), mode="replicate"), 3)
    difference = around.unflatten(2, maps.shape[1:]) - maps[:, None]
    return difference / (difference.square() + 0.81 * maps.detach().var().clamp(min=1e-6)).sqrt()
