"""IFRNet (Kong et al. 2022): flow and the features of the interpolated frame refined together, coarse to fine.

One encoder describes both frames at a few levels. From the coarsest, a decoder makes the flow to both frames and a
first guess of the features of the frame between; the next look up both frames' features along the flow, and correct
flow and features at once. The last gives a mask and what is missing from the merged frames. While training, the guessed
features are compared with those of the held-out frame by their local geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti.models.compared._frames import (
    PLAIN,
    FrameNetwork,
    Pyramid,
    charbonnier,
    conv,
    masked_mean,
    merge,
    padded,
    plane,
    resized,
    resized_flow,
    silent,
    to_ends,
    warp,
)

FOOT = 0.1  # of the census distance: d² / (d² + FOOT) hardly tells two clear differences apart


@dataclass(frozen=True)
class IFRNetConfig:
    """Settings of the network."""

    n_maps: int = 5  # K, leading maps of a frame
    widths: tuple[int, ...] = (24, 36, 48)  # channels of the encoder's levels, fine to coarse; each halves the grid
    side: int = 12  # channels of a residual block that get convolutions of their own
    census: float = 1.0  # weight of the census distance of the maps in the loss
    geometry: float = 0.01  # and of that of the features


class SideBlock(nn.Module):
    """Residual block of five convolutions, the second and fourth of which are given the last `side` channels alone."""

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
        self.multiple = 2 ** len(w)
        self.encoder = Pyramid(config.n_maps + PLAIN, w, halve=True)
        # The coarsest is given both frames and the position; the others both frames, the guess, and the flow.
        inputs = [*(3 * n + 4 for n in w[:-1]), 2 * w[-1] + 1]
        outputs = [4 + 1 + config.n_maps, *(4 + n for n in w[:-1])]
        self.decoders = nn.ModuleList(
            # The finest is 0 at first: untrained, the prediction is the blend. The others have no flow, but a guess.
            decoder(n, 2 * width, config.side, out, out if i == 0 else 4)
            for i, (n, width, out) in enumerate(zip(inputs, w, outputs, strict=True))
        )

    def change(self, frames: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the blend of both frames at t."""
        return self._predicted(frames, t)[0] - self.blended(frames, t)

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Charbonnier and census distance of the maps, and census distance of the guessed features."""
        frames, truth, mask = (padded(maps, self.multiple) for maps in (ends, target, known[None]))
        predicted, guesses = self._predicted(frames, t)
        error = masked_mean(charbonnier(predicted - truth), mask[0])
        error = error + self.config.census * masked_mean(census(predicted, truth), mask[0])
        # The encoder is given no image of the held-out section, like that of a section without one.
        held_out = self.encoder(torch.cat([truth, mask, torch.zeros_like(mask)]))
        geometry = predicted.new_zeros(())
        for guess, features in zip(guesses, held_out, strict=False):
            inside = resized(mask, features.shape[1:])[0]
            geometry = geometry + masked_mean(census(guess, features), inside)
        return error + self.config.geometry * geometry

    def _predicted(self, frames: Tensor, t: float) -> tuple[Tensor, list[Tensor]]:
        """(K, H, W) maps at t, and the guessed features of all levels but the coarsest, fine to coarse."""
        a, b = self.encoder(frames[0]), self.encoder(frames[1])
        out = self.decoders[-1](torch.cat([a[-1], b[-1], plane(t, a[-1])]))
        flow, guesses = out[:4], [out[4:]]
        for i in reversed(range(len(self.decoders) - 1)):
            to_a, to_b = to_ends(flow, t)
            out = self.decoders[i](torch.cat([guesses[-1], warp(a[i], to_a), warp(b[i], to_b), flow]))
            flow = resized_flow(flow, out.shape[1:]) + out[:4]
            guesses.append(out[4:])
        guess, n = guesses[-1], self.config.n_maps
        looked_up = [warp(end[:n], move) for end, move in zip(frames, to_ends(flow, t), strict=True)]
        merged = merge(looked_up[0], looked_up[1], guess[:1], t)
        return merged + 4 * t * (1 - t) * guess[1:], guesses[:-1][::-1]


def census(one: Tensor, other: Tensor) -> Tensor:
    """(1, H, W) distance of the local geometry of two (C, H, W), in [0, 1): signs of differences to its neighbours."""
    distance = (_signs(one) - _signs(other)).square()
    return (distance / (distance + FOOT)).mean(dim=(0, 1))[None]


def _signs(maps: Tensor) -> Tensor:
    """(C, 9, H, W) soft signs of the differences of a bin's neighbours to it."""
    around = functional.unfold(functional.pad(maps[:, None], (1, 1, 1, 1), mode="replicate"), 3)
    difference = around.unflatten(2, maps.shape[1:]) - maps[:, None]
    return difference / (difference.square() + 0.81 * maps.detach().var().clamp(min=1e-6)).sqrt()
