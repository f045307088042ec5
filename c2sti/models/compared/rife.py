"""RIFE (Huang et al. 2022): flow from the interpolated frame straight to both others, coarse to fine, at any position.

Three blocks estimate it at a quarter, a half and the whole of the resolution, each adding to what the one before has
found. Both frames are looked up along it and merged by a mask; a small network that sees their features, looked up
likewise, adds what is missing. While training, a fourth block sees the hidden frame as well: its better flow teaches
the others (privileged distillation).
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
    conv,
    masked_mean,
    padded,
    plane,
    resized,
    resized_flow,
    silent,
    warp,
)
from c2sti.models.compared.unet import HourGlass

SCALES = (4, 2, 1)
MARGIN = 0.01  # by how much the teacher has to be better in a bin before the others learn from it there
LEVELS = 3  # of the Laplacian pyramid


@dataclass(frozen=True)
class RIFEConfig:
    """Settings of the network.

    Parameters
    ----------
    n_maps
        K, leading maps of a frame.
    widths
        Channels of the blocks, coarse to fine.
    depth
        Convolutions of a block.
    context
        Channels of the features that are looked up along the flow, fine to coarse.
    distillation
        Weight of the teacher's flow in the loss.
    """

    n_maps: int = 5
    widths: tuple[int, ...] = (48, 32, 24)
    depth: int = 4
    context: tuple[int, ...] = (16, 32)
    distillation: float = 0.01


class IFBlock(nn.Module):
    """One step of the intermediate flow: what to add to the flow to both frames, and to the mask between them."""

    def __init__(self, n_in: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter = conv(n_in, width, stride=2)
        self.body = nn.Sequential(*(conv(width, width) for _ in range(depth)))
        self.leave = silent(nn.ConvTranspose2d(width, 5, 4, stride=2, padding=1))

    def forward(self, frames: Tensor, flow: Tensor | None, scale: int) -> tuple[Tensor, Tensor]:
        """(C, H, W) and the (4, H, W) flow so far, looked at from a distance: (4, H, W) and (1, H, W)."""
        shape = frames.shape[1:]
        small = (shape[0] // scale, shape[1] // scale)
        seen = resized(frames, small) if scale > 1 else frames
        if flow is not None:
            seen = torch.cat([seen, resized_flow(flow, small)])
        features = self.enter(seen)
        change = self.leave(features + self.body(features))
        return resized_flow(change[:4], shape), resized(change[4:], shape)


@dataclass(frozen=True)
class Motion:
    """(4, H, W) flow to a and to b, (1, H, W) logit of the share of a, both frames looked up, and their merger."""

    flow: Tensor
    logit: Tensor
    looked_up: Tensor
    merged: Tensor


class RIFE(FrameNetwork):
    """The network; see the module's text."""

    Config: ClassVar[type] = RIFEConfig
    name: ClassVar[str] = "rife"

    def __init__(self, config: RIFEConfig) -> None:
        super().__init__(config)
        frame = config.n_maps + PLAIN
        later = 4 * frame + 1 + 1 + 4  # frames, frames looked up, mask, position, flow
        inputs = (2 * frame + 1, *(later for _ in config.widths[1:]))
        self.blocks = nn.ModuleList(
            IFBlock(n, width, config.depth) for n, width in zip(inputs, config.widths, strict=True)
        )
        self.teacher = IFBlock(later + config.n_maps, config.widths[-1], config.depth)
        n_context = len(config.context)
        self.context = nn.ModuleList(
            nn.Sequential(conv(n, width, stride=1 if i == 0 else 2), conv(width, width))
            for i, (n, width) in enumerate(zip((frame, *config.context), config.context, strict=False))
        )
        beside = tuple(2 * width for width in config.context)
        self.fusion = HourGlass(later, config.context, beside)
        self.head = silent(nn.Conv2d(config.context[0], config.n_maps, 3, padding=1))
        self.multiple = max(2 * max(SCALES), 2 ** (n_context - 1))

    def forward(self, ends: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the blend of both ends at t."""
        height, width = ends.shape[-2:]
        frames = padded(ends, self.multiple)
        made = self._made(frames, t, self.motions(frames, t)[-1])
        return (made - blend(frames[:, : self.config.n_maps], t))[:, :height, :width]

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Laplacian pyramids of what is made and of what the teacher merges, and the distillation of its flow."""
        frames, truth, mask = (padded(maps, self.multiple) for maps in (ends, target, known[None]))
        motions = self.motions(frames, t)
        last = motions[-1]
        made = self._made(frames, t, last)
        change = self.teacher(torch.cat([self._seen(frames, t, last), truth]), last.flow, 1)
        teacher = self._motion(frames, t, last.flow + change[0], last.logit + change[1])
        taught = teacher.flow.detach()
        distilled = made.new_zeros(())
        missed = (teacher.merged - truth).abs().mean(dim=0).detach()
        for motion in motions:
            worse = ((motion.merged - truth).abs().mean(dim=0) > missed + MARGIN).to(made) * mask[0]
            apart = (motion.flow - taught).square().sum(dim=0, keepdim=True).add(1e-6).sqrt()
            distilled = distilled + masked_mean(apart, worse)
        error = laplacian(made, truth, mask) + laplacian(teacher.merged, truth, mask)
        return error + self.config.distillation * distilled

    def motions(self, frames: Tensor, t: float) -> list[Motion]:
        """What each block leaves, coarse to fine."""
        shape = frames.shape[-2:]
        flow, logit = frames.new_zeros(4, *shape), frames.new_zeros(1, *shape)
        found: list[Motion] = []
        for i, (block, scale) in enumerate(zip(self.blocks, SCALES, strict=True)):
            seen = torch.cat([frames.flatten(0, 1), plane(t, logit)]) if i == 0 else self._seen(frames, t, found[-1])
            more, mask = block(seen, flow if i else None, scale)
            flow, logit = flow + more, logit + mask
            found.append(self._motion(frames, t, flow, logit))
        return found

    def _motion(self, frames: Tensor, t: float, flow: Tensor, logit: Tensor) -> Motion:
        # Flow to a frame shrinks with the distance from it, and the mask leans to the nearer one: with few triplets
        # to learn from, this is said and not learnt. In the middle, where the original was trained, nothing differs.
        to_ends = (2 * t * flow[:2], 2 * (1 - t) * flow[2:])
        looked_up = torch.stack([warp(end, move) for end, move in zip(frames, to_ends, strict=True)])
        share = torch.sigmoid(logit + log((1 - t) / t))
        maps = looked_up[:, : self.config.n_maps]
        return Motion(flow, logit, looked_up, share * maps[0] + (1 - share) * maps[1])

    def _seen(self, frames: Tensor, t: float, motion: Motion) -> Tensor:
        """What a later block is shown beside the flow."""
        both = (frames.flatten(0, 1), motion.looked_up.flatten(0, 1))
        return torch.cat([*both, motion.logit.sigmoid(), plane(t, motion.logit)])

    def _made(self, frames: Tensor, t: float, motion: Motion) -> Tensor:
        """(K, H, W) merged maps, and what the fusion network adds to them; nothing at the ends."""
        moves = (2 * t * motion.flow[:2], 2 * (1 - t) * motion.flow[2:])
        sides: list[list[Tensor]] = []
        for end, move in zip(frames, moves, strict=True):
            features, levels = end, []
            for level in self.context:
                features = level(features)
                levels.append(warp(features, resized_flow(move, features.shape[1:])))
            sides.append(levels)
        beside = [torch.cat(pair) for pair in zip(*sides, strict=True)]
        body = self.fusion(torch.cat([self._seen(frames, t, motion), motion.flow]), beside)
        return motion.merged + 4 * t * (1 - t) * self.head(body)


def laplacian(made: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of the levels of two Laplacian pyramids, (C, H, W), where (1, H, W) is 1; a scalar."""
    difference, total = (made - truth) * mask, made.new_zeros(())
    for level in range(LEVELS):
        band = difference
        if level < LEVELS - 1:
            difference = functional.avg_pool2d(difference, 2)
            band = band - resized(difference, band.shape[1:])
        # A bin of a level stands for 4 of the one before.
        total = total + 4**level * band.abs().sum() / (mask.sum() * len(band)).clamp(min=1)
    return total
