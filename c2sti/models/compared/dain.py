"""DAIN-style (Bao et al. 2019): flow between the frames, projected to where tissue is at t, and kernels for every bin.

Flow is estimated both ways between the two frames, coarse to fine, by comparing features around each bin. Each bin
carries its flow along to where it is at t; where several arrive, they are averaged. In the original the nearer ones
count more, by their depth. A section has no depth: here the denser ones do, by their H&E, or all alike without an
image. Frames and their features are then looked up around the projected flow through 4 × 4 kernels that a network
makes for every bin, blended, and rectified by a last network.
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
    HourGlass,
    Pyramid,
    blend,
    charbonnier,
    conv,
    double_conv,
    masked_mean,
    plane,
    resized_flow,
    silent,
    warp,
)

TAPS = tuple((dx, dy) for dy in (-1, 0, 1, 2) for dx in (-1, 0, 1, 2))
CENTRE = TAPS.index((0, 0))
NEAR = 2  # bins each way in which features are compared
EPSILON = 1e-6  # of the Charbonnier distance


@dataclass(frozen=True)
class DAINConfig:
    """Settings of the network, in channels."""

    n_maps: int = 5  # K, leading maps of a frame
    widths: tuple[int, ...] = (16, 24, 32)  # levels of the flow's features, fine to coarse; all but the first halve
    kernel_widths: tuple[int, ...] = (16, 32)  # levels of the network that makes the kernels
    context: int = 16  # features that are looked up beside the frames
    synthesis: int = 32  # the last network


class FlowNet(nn.Module):
    """Flow from one image to another, coarse to fine, from the similarity of their features around each bin."""

    def __init__(self, n_in: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.features = Pyramid(n_in, widths)
        self.steps = nn.ModuleList(
            nn.Sequential(*double_conv(w + (2 * NEAR + 1) ** 2 + 2, w), silent(nn.Conv2d(w, 2, 3, padding=1)))
            for w in widths
        )

    def forward(self, one: list[Tensor], other: list[Tensor]) -> Tensor:
        """(2, H, W) flow from the frame with the first features to that with the second."""
        flow = torch.zeros_like(one[-1][:2])
        for here, there, step in zip(reversed(one), reversed(other), reversed(self.steps), strict=True):
            flow = resized_flow(flow, here.shape[1:])
            flow = flow + step(torch.cat([here, _cost_volume(here, warp(there, flow)), flow]))
        return flow


def _cost_volume(one: Tensor, other: Tensor) -> Tensor:
    """((2 · NEAR + 1)², H, W) product of a bin's features with those of the bins around it in the other."""
    around = functional.unfold(functional.pad(other[None], (NEAR,) * 4, mode="replicate"), 2 * NEAR + 1)
    return (one[:, None] * around.unflatten(1, (len(other), -1)).unflatten(3, other.shape[1:])[0]).mean(dim=0)


class DAIN(FrameNetwork):
    """The network; see the module's text."""

    Config: ClassVar[type] = DAINConfig
    name: ClassVar[str] = "dain"

    def __init__(self, config: DAINConfig) -> None:
        super().__init__(config)
        frame = config.n_maps + PLAIN
        self.flow = FlowNet(frame, config.widths)
        self.kernels = HourGlass(2 * frame, config.kernel_widths)
        self.kernel_head = silent(nn.Conv2d(config.kernel_widths[0], 2 * len(TAPS), 3, padding=1))
        self.context = double_conv(frame, config.context)
        # Looked up frames and features, projected flow, kernels, and the position.
        n_in = 2 * (frame + config.context) + 4 + 2 * len(TAPS) + 1
        w = config.synthesis
        self.enter = conv(n_in, w)
        self.synthesis = nn.ModuleList(nn.Sequential(conv(w, w), nn.Conv2d(w, w, 3, padding=1)) for _ in range(3))
        self.head = silent(nn.Conv2d(w, config.n_maps, 3, padding=1))
        self.multiple = 2 ** (max(len(config.widths), len(config.kernel_widths)) - 1)
        self.density = nn.Parameter(torch.ones(()))  # how much the H&E counts where flows meet

    def change(self, frames: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the blend of both frames at t."""
        looked_up, flows, kernels = self._looked_up(frames, t)
        n = self.config.n_maps
        rectified = self.enter(torch.cat([*looked_up, *flows, *kernels, plane(t, flows[0])]))
        for block in self.synthesis:
            rectified = rectified + block(rectified)
        merged = blend(torch.stack([side[:n] for side in looked_up]), t)
        return merged - self.blended(frames, t) + 4 * t * (1 - t) * self.head(rectified)

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Charbonnier distance."""
        return masked_mean(charbonnier(self.blended(ends, t) + self(ends, t) - target, EPSILON), known)

    def _looked_up(self, frames: Tensor, t: float) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Frames beside their features at t, the projected flow to both, and the kernels: a list of two each."""
        pyramids = [self.flow.features(frame) for frame in frames]
        kernels = self.kernel_head(self.kernels(frames.flatten(0, 1))).chunk(2)
        looked_up, flows, used = [], [], []
        for i, distance in enumerate((t, 1 - t)):
            along = self.flow(pyramids[i], pyramids[1 - i])
            flow = -distance * projected(along, distance, self._weight(frames[i]))
            # At a section nothing is mixed: kernels, like all that is learnt, fade towards the ends.
            kernel = 4 * t * (1 - t) * kernels[i]
            beside = torch.cat([frames[i], self.context(frames[i])])
            looked_up.append(through_kernels(beside, flow, kernel))
            flows.append(flow)
            used.append(kernel)
        return looked_up, flows, used

    def _weight(self, frame: Tensor) -> Tensor:
        """(1, H, W) how much the flow of a bin counts: more where the H&E is dark, 1 everywhere without an image."""
        return torch.exp(-self.density * frame[-1:].clamp(-1, 1))


def projected(flow: Tensor, distance: float, weight: Tensor) -> Tensor:
    """(2, H, W) flow where it leads to after a share of the way: means of the flows that arrive, by (1, H, W) weights.

    Where none arrives the hole is filled from the bins around it.
    """
    height, width = flow.shape[1:]
    y, x = torch.meshgrid(torch.arange(height).to(flow), torch.arange(width).to(flow), indexing="ij")
    at_x, at_y = (x + distance * flow[0]).clamp(0, width - 1), (y + distance * flow[1]).clamp(0, height - 1)
    carried = torch.cat([flow * weight, weight]).flatten(1)
    arrived = torch.zeros_like(carried)
    left, top = at_x.detach().floor(), at_y.detach().floor()
    for dx in (0, 1):
        for dy in (0, 1):
            share = (1 - (at_x - left - dx).abs()).clamp(min=0) * (1 - (at_y - top - dy).abs()).clamp(min=0)
            column, row = (left + dx).clamp(max=width - 1), (top + dy).clamp(max=height - 1)
            index = (row * width + column).long().flatten()
            arrived = arrived.index_add(1, index, carried * share.flatten())
    arrived = arrived.unflatten(1, (height, width))
    total, sums = arrived[2:], arrived[:2]
    found = sums / total.clamp(min=1e-3)
    for _ in range(max(height, width)):
        holes = total < 1e-3
        if not holes.any():
            break
        # Each round fills the holes that touch what is known.
        known = (~holes).to(flow)
        near = functional.avg_pool2d(torch.cat([found * known, known])[None], 3, stride=1, padding=1)[0]
        found = torch.where(holes, near[:2] / near[2:].clamp(min=1e-3), found)
        total = torch.where(holes, near[2:], total)
    return found


def through_kernels(maps: Tensor, flow: Tensor, kernel: Tensor) -> Tensor:
    """(C, H, W) maps looked up at x + flow(x) + each of 4 × 4 taps, weighted by the tap at the centre plus a kernel.

    (16, H, W) kernels are taken less their mean, so that a constant stays what it is.
    """
    weights = kernel - kernel.mean(dim=0)
    out = warp(maps, flow)
    for tap, weight in zip(TAPS, weights, strict=True):
        out = out + weight * warp(maps, flow + flow.new_tensor(tap)[:, None, None])
    return out
