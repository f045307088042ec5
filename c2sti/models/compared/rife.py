"""RIFE (Huang et al. 2022): flow from the interpolated frame straight to both others, coarse to fine, at any position.

Three blocks estimate it at a quarter, a half and the whole of the resolution, each adding to what the last one
found. Both frames are looked up along it and merged by a mask; a small network that is given their features, looked up
likewise, adds what is missing. While training, a fourth block is given the held-out frame as well: its better flow
teaches the others (privileged distillation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti.models.compared._frames import (
    PLAIN,
    FrameNetwork,
    HourGlass,
    Pyramid,
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

SCALES = (4, 2, 1)
MARGIN = 0.01  # by how much the teacher has to be better in a bin before the others learn from it there
LEVELS = 3  # of the Laplacian pyramid

# (4, H, W) flow to a and to b, (1, H, W) logit of the share of a, both frames looked up along the flow, and merged.
Motion: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class RIFEConfig:
    """Settings of the network."""

    n_maps: int = 5  # K, leading maps of a frame
    widths: tuple[int, ...] = (48, 32, 24)  # channels of the blocks, coarse to fine
    depth: int = 4  # convolutions of a block
    context: tuple[int, ...] = (16, 32)  # channels of the features that are looked up along the flow, fine to coarse
    distillation: float = 0.01  # weight of the teacher's flow in the loss


class IFBlock(nn.Module):
    """One step of the intermediate flow: what to add to the flow to both frames, and to the mask between them."""

    def __init__(self, n_in: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter = conv(n_in, width, stride=2)
        self.body = nn.Sequential(*(conv(width, width) for _ in range(depth)))
        self.leave = silent(nn.ConvTranspose2d(width, 5, 4, stride=2, padding=1))

    def forward(self, frames: Tensor, flow: Tensor | None, scale: int) -> tuple[Tensor, Tensor]:
        """(4, H, W) and (1, H, W), of (C, H, W) and the (4, H, W) flow so far, on a grid coarser by `scale`."""
        shape = frames.shape[1:]
        small = (shape[0] // scale, shape[1] // scale)
        given = resized(frames, small) if scale > 1 else frames
        if flow is not None:
            given = torch.cat([given, resized_flow(flow, small)])
        features = self.enter(given)
        change = self.leave(features + self.body(features))
        return resized_flow(change[:4], shape), resized(change[4:], shape)


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
        self.context = Pyramid(frame, config.context)
        beside = tuple(2 * width for width in config.context)
        self.fusion = HourGlass(later, config.context, beside)
        self.head = silent(nn.Conv2d(config.context[0], config.n_maps, 3, padding=1))
        self.multiple = max(2 * max(SCALES), 2 ** (len(config.context) - 1))

    def change(self, frames: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the blend of both frames at t."""
        return self._predicted(frames, t, self.motions(frames, t)[-1]) - self.blended(frames, t)

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Laplacian pyramids of the predicted maps and of those that the teacher merges, and its flow, distilled."""
        frames, truth, mask = (padded(maps, self.multiple) for maps in (ends, target, known[None]))
        motions = self.motions(frames, t)
        flow, logit, _, _ = motions[-1]
        predicted = self._predicted(frames, t, motions[-1])
        more, mask_change = self.teacher(torch.cat([self._given(frames, t, motions[-1]), truth]), flow, 1)
        teacher_flow, _, _, taught = self._motion(frames, t, flow + more, logit + mask_change)
        distilled = predicted.new_zeros(())
        missed = (taught - truth).abs().mean(dim=0).detach()
        for flow, _, _, merged in motions:
            worse = ((merged - truth).abs().mean(dim=0) > missed + MARGIN).to(merged) * mask[0]
            apart = (flow - teacher_flow.detach()).square().sum(dim=0, keepdim=True).add(1e-6).sqrt()
            distilled = distilled + masked_mean(apart, worse)
        error = laplacian(predicted, truth, mask) + laplacian(taught, truth, mask)
        return error + self.config.distillation * distilled

    def motions(self, frames: Tensor, t: float) -> list[Motion]:
        """The motion after each block, coarse to fine."""
        shape = frames.shape[-2:]
        flow, logit = frames.new_zeros(4, *shape), frames.new_zeros(1, *shape)
        found: list[Motion] = []
        for i, (block, scale) in enumerate(zip(self.blocks, SCALES, strict=True)):
            given = self._given(frames, t, found[-1]) if i else torch.cat([frames.flatten(0, 1), plane(t, logit)])
            more, mask = block(given, flow if i else None, scale)
            flow, logit = flow + more, logit + mask
            found.append(self._motion(frames, t, flow, logit))
        return found

    def _motion(self, frames: Tensor, t: float, flow: Tensor, logit: Tensor) -> Motion:
        looked_up = torch.stack([warp(end, move) for end, move in zip(frames, to_ends(flow, t), strict=True)])
        maps = looked_up[:, : self.config.n_maps]
        return flow, logit, looked_up, merge(maps[0], maps[1], logit, t)

    def _given(self, frames: Tensor, t: float, motion: Motion) -> Tensor:
        """What a later block is given beside the flow."""
        _, logit, looked_up, _ = motion
        return torch.cat([frames.flatten(0, 1), looked_up.flatten(0, 1), logit.sigmoid(), plane(t, logit)])

    def _predicted(self, frames: Tensor, t: float, motion: Motion) -> Tensor:
        """(K, H, W) merged maps, and what the fusion network adds to them; nothing at the ends."""
        flow, _, _, merged = motion
        sides = [
            [warp(features, resized_flow(move, features.shape[1:])) for features in self.context(end)]
            for end, move in zip(frames, to_ends(flow, t), strict=True)
        ]
        beside = [torch.cat(pair) for pair in zip(*sides, strict=True)]
        body = self.fusion(torch.cat([self._given(frames, t, motion), flow]), beside)
        return merged + 4 * t * (1 - t) * self.head(body)


def laplacian(predicted: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of the levels of two Laplacian pyramids, (C, H, W), where (1, H, W) is 1; a scalar."""
    difference, total = (predicted - truth) * mask, predicted.new_zeros(())
    for level in range(LEVELS):
        band = difference
        if level < LEVELS - 1:
            difference = functional.avg_pool2d(difference, 2)
            band = band - resized(difference, band.shape[1:])
        # A bin of a level stands for 4 of the one before.
        total = total + 4**level * band.abs().sum() / (mask.sum() * len(band)).clamp(min=1)
    return total
