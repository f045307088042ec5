"""Two sections as images of a few channels, and networks made for video frames as interpolators of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn import functional

from c2sti._tasks import threads_for
from c2sti._types import FloatArray, InterpolatedSection, Prediction, Section, SlicePair
from c2sti.models import _checkpoint
from c2sti.models.naive import WIDTH, map_noise
from c2sti.nn.inputs import nearest_bins
from c2sti.ops import deformable_sampling, gaussian_operator, inference, sample, smoothed_axes

MOST_BINS = 128  # a side of the lattice on which frames live
PLAIN = 2  # channels of a frame beside its maps: tissue, and grey
VERSION = 1  # of a checkpoint
REACH = 1.0  # tissue ends this far from the last spot, in spot spacings


class Frames:
    """A pair as two frames of K leading maps, tissue and grey; its context is not looked at."""

    def __init__(self, pair: SlicePair, n_maps: int, *, device: str = "cpu") -> None:
        self.pair, self.lattice = pair, pair.lattice.coarsened(MOST_BINS)
        self._width = WIDTH * max(pair.spacing, self.lattice.pitch)  # of the Gaussian that brings spots to bins
        sections = (pair.a, pair.b)
        smoothers = [gaussian_operator(s.xy, s.xy, WIDTH * pair.spacing) for s in sections]
        found = smoothed_axes([s.expression for s in sections], n_maps, smoothers)
        self.axes = np.zeros((n_maps, pair.n_genes))  # loadings of the maps; axes that the data do not have are zero
        self.axes[: len(found)] = found
        self.scale = 1.0  # of all maps, so that axes keep their sizes to one another
        maps = [self.maps_of(s.xy, s.expression) for s in sections]
        self.scale = float(np.sqrt(np.mean(np.square(maps)))) or 1.0
        ends = [
            np.concatenate([m / self.scale, self.tissue_of(s.xy)[None], self._grey(s)[None]])
            for s, m in zip(sections, maps, strict=True)
        ]
        # (2, K + 2, H, W): of either section its maps, its tissue (0 or 1), and the grey of its H&E around its mean.
        self.ends = torch.as_tensor(np.stack(ends).astype(np.float32), device=device)

    def maps_of(self, xy: FloatArray, expression: sp.csr_array) -> FloatArray:
        """(K, H, W) maps of a section with these spots, as those of the pair were made."""
        values = gaussian_operator(xy, self.lattice.centres, self._width) @ self._scores(expression)
        return values.T.reshape(-1, *self.lattice.shape) / self.scale

    def tissue_of(self, xy: FloatArray) -> FloatArray:
        """(H, W) 1 where a section with these spots has tissue, 0 elsewhere."""
        far = max(self._width / WIDTH, self.lattice.pitch) * REACH
        return (KDTree(xy).query(self.lattice.centres)[0] <= far).reshape(self.lattice.shape).astype(np.float32)

    def _scores(self, expression: sp.csr_array) -> FloatArray:
        """(n, K) values of the axes in each spot, around the section's own mean."""
        return expression @ self.axes.T - np.asarray(expression.mean(axis=0)).ravel() @ self.axes.T

    def _grey(self, section: Section) -> FloatArray:
        """(H, W) grey of the H&E around its mean, 0 where there is none."""
        if section.histology is None:
            return np.zeros(self.lattice.shape)
        grey = nearest_bins(section.histology.mean(axis=0)[None], self.pair.lattice, self.lattice)[0]
        known = np.isfinite(grey)
        mean = grey[known].mean() if known.any() else 0
        return np.where(known, grey - mean, 0)

    def prediction(
        self, at: FloatArray, positions: Sequence[float], changes: Sequence[Tensor], notes: dict[str, Any]
    ) -> Prediction:
        """The blends of both sections at (M, 2) points, plus (K, H, W) changes to their maps: without these, `lowrank`.

        What is added to a blend is taken to be certain.
        """
        a, b = self.pair.a, self.pair.b
        operators = [gaussian_operator(s.xy, at, WIDTH * self.pair.spacing) for s in (a, b)]
        scores = [self._scores(s.expression) for s in (a, b)]
        ends = [operator @ values for operator, values in zip(operators, scores, strict=True)]
        slices = []
        for p, change in zip(positions, changes, strict=True):
            moved = sample(change, self.lattice, at).cpu().numpy() * self.scale
            values = (1 - p) * ends[0] + p * ends[1] + moved
            slices.append(InterpolatedSection(values, self.axes, (1 - p) * a.mean + p * b.mean))
        weights = [np.array([1 - p, p]) for p in positions]
        return Prediction(tuple(slices), notes, map_noise([a.xy, b.xy], scores, operators, weights, self.axes))


# ---- what the networks have in common


def blend(ends: Tensor, t: float) -> Tensor:
    """(C, H, W) of (2, C, H, W), weighted by 1 − t and t."""
    return (1 - t) * ends[0] + t * ends[1]


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """(C, H, W) maps looked up at x + flow(x), bilinearly; (2, H, W) flow is (dx, dy) in bins."""
    return deformable_sampling(maps, flow[None], torch.ones_like(flow[:1]))


def to_ends(flow: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Flow to a and to b, of (4, H, W) flows: it shrinks with the distance from either, as in the middle is learnt.

    Few triplets cannot teach this. In the middle, where the originals were trained, nothing differs.
    """
    return 2 * t * flow[:2], 2 * (1 - t) * flow[2:]


def merge(a: Tensor, b: Tensor, logit: Tensor, t: float) -> Tensor:
    """(C, H, W) of both by a mask that leans to the nearer one."""
    share = torch.sigmoid(logit + log((1 - t) / t))
    return share * a + (1 - share) * b


def resized(maps: Tensor, shape: Sequence[int]) -> Tensor:
    """(C, H, W) to another (h, w), bilinear."""
    return functional.interpolate(maps[None], size=tuple(shape), mode="bilinear", align_corners=False)[0]


def resized_flow(flow: Tensor, shape: Sequence[int]) -> Tensor:
    """(2·n, H, W) flows to another (h, w), in its bins."""
    unit = flow.new_tensor([shape[1] / flow.shape[2], shape[0] / flow.shape[1]]).repeat(len(flow) // 2)
    return resized(flow, shape) * unit[:, None, None]


def padded(maps: Tensor, multiple: int) -> Tensor:
    """(…, C, H, W) with borders repeated, right and below, until both sides are multiples."""
    height, width = maps.shape[-2:]
    return functional.pad(maps, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def plane(value: float, like: Tensor) -> Tensor:
    """(1, H, W) of one value."""
    return torch.full_like(like[:1], value)


def masked_mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean of (C, H, W) over the bins where (H, W) is 1; a scalar."""
    return (values * known).sum() / (known.sum() * len(values)).clamp(min=1)


def charbonnier(difference: Tensor, epsilon: float = 1e-3) -> Tensor:
    """√(d² + ε²): the absolute value with a round foot."""
    return (difference.square() + epsilon**2).sqrt()


def conv(n_in: int, n_out: int, *, stride: int = 1) -> nn.Sequential:
    """3 × 3 convolution and PReLU, of one slope: slopes by channel need a batch."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1), nn.PReLU())


def double_conv(n_in: int, n_out: int, *, stride: int = 1) -> nn.Sequential:
    """Two of them, the first of which may halve the grid."""
    return nn.Sequential(conv(n_in, n_out, stride=stride), conv(n_out, n_out))


def silent(layer: nn.Conv2d | nn.ConvTranspose2d, n: int | None = None) -> nn.Conv2d | nn.ConvTranspose2d:
    """A convolution whose first n output channels (all by default) are 0 until they have learnt something."""
    assert layer.bias is not None, "all convolutions of the compared methods have one"
    with torch.no_grad():
        rows = layer.weight if isinstance(layer, nn.Conv2d) else layer.weight.transpose(0, 1)
        rows[:n].zero_()
        layer.bias[:n].zero_()
    return layer


class Pyramid(nn.ModuleList):
    """Two convolutions a level; each level halves the grid, but the first only if `halve`."""

    def __init__(self, n_in: int, widths: Sequence[int], *, halve: bool = False) -> None:
        strides = [2 if i or halve else 1 for i in range(len(widths))]
        inputs = [n_in, *widths[:-1]]
        super().__init__(double_conv(n, w, stride=s) for n, w, s in zip(inputs, widths, strides, strict=True))

    def forward(self, frame: Tensor) -> list[Tensor]:
        """Features of a (n_in, H, W) frame, fine to coarse."""
        levels: list[Tensor] = []
        for level in self:
            levels.append(level(levels[-1] if levels else frame))
        return levels


class HourGlass(nn.Module):
    """Two convolutions a level on the way down, skips and two convolutions a level on the way up.

    `widths` are the channels of each level, fine to coarse; `beside` those that join each level on its way down.
    """

    def __init__(self, n_in: int, widths: tuple[int, ...], beside: tuple[int, ...] = ()) -> None:
        super().__init__()
        beside = beside or (0,) * len(widths)
        inputs = [n + more for n, more in zip((n_in, *widths), beside, strict=False)]
        self.down = nn.ModuleList(double_conv(n, width) for n, width in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(
            double_conv(fine + coarse, fine) for fine, coarse in zip(widths, widths[1:], strict=False)
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


class FrameNetwork(nn.Module):
    """Base of the compared networks: two frames and a position in, the change to their blend out."""

    Config: ClassVar[type]
    name: ClassVar[str]
    arbitrary: ClassVar[bool] = True  # whether it learns positions other than the middle
    multiple: int  # of which both sides of its frames have to be

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, ends: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the linear blend of the maps at t, of (2, K + 2, H, W) frames."""
        height, width = ends.shape[-2:]
        return self.change(padded(ends, self.multiple), t)[:, :height, :width]

    def change(self, frames: Tensor, t: float) -> Tensor:
        """The same for frames whose sides are multiples."""
        raise NotImplementedError

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Scalar loss against the (K, H, W) maps of the held-out section, where (H, W) is 1."""
        raise NotImplementedError

    def blended(self, frames: Tensor, t: float) -> Tensor:
        """(K, H, W) linear blend of the maps at t."""
        return blend(frames[:, : self.config.n_maps], t)


class FrameInterpolator:
    """A trained compared network as a model for ``c2sti.tl.interpolate(…, model=…)``. It ignores context.

    An untrained network predicts as `lowrank` does. The card, what is known of its training, goes into the checkpoint.
    """

    uses_context = False

    def __init__(self, network: FrameNetwork, *, card: dict[str, Any] | None = None) -> None:
        self.network = network
        self.card = dict(card or {})
        self.__name__ = network.name

    def __call__(
        self,
        pair: SlicePair,
        at: FloatArray,
        positions: Sequence[float],
        *,
        device: str = "cpu",
        seed: int = 0,
        progress: Callable[[float], object] = lambda share: None,
    ) -> Prediction:
        """Interpolate sections; see :class:`c2sti._types.Interpolator`."""
        frames = Frames(pair, self.network.config.n_maps, device=device)
        network, changes = self.network.to(device).eval(), []
        with inference(), threads_for(frames.ends[0].numel()):
            for p in positions:
                changes.append(network(frames.ends, p))
                progress(1 / len(positions))
        return frames.prediction(at, positions, changes, {"weights": self.fingerprint()})

    def fingerprint(self) -> str:
        """Hash of the weights."""
        return _checkpoint.fingerprint(self.network)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder; over a checkpoint only with `overwrite`."""
        how: dict[str, Any] = {"model": self.network.name, "version": VERSION, "overwrite": overwrite}
        _checkpoint.write(folder, self.network, self.network.config, self.card, **how)


def fresh(network: type[FrameNetwork], config: Any = None, *, seed: int = 0) -> FrameNetwork:
    """An untrained network, the same for the same seed; the global random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(network.Config() if config is None else config)
