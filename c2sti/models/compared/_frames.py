"""Two sections as images of a few channels, and networks made for video frames as interpolators of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn import functional

from c2sti._types import FloatArray, InterpolatedSection, Lattice, Noise, Prediction, Section, SlicePair
from c2sti.models import _checkpoint
from c2sti.models.naive import WIDTH, map_noise
from c2sti.ops import deformable_sampling, gaussian_operator, sample, smoothed_axes

MOST_BINS = 128  # a side of the lattice on which frames live
PLAIN = 2  # channels of a frame beside its maps: tissue, and grey
REACH = 1.0  # tissue ends this far from the last spot, in spot spacings


@dataclass(frozen=True)
class Frames:
    """A pair as two frames.

    Parameters
    ----------
    lattice
        H × W bins.
    ends
        (2, K + 2, H, W): of either section its K maps, its tissue (0 or 1), and the grey of its H&E around its mean
        (0 where there is no image).
    axes
        (K, N) loadings of the maps; axes that the data do not have are zero.
    scale
        What the maps were divided by: one number, so that axes keep their sizes to one another.
    width
        Of the Gaussian that brings spots to bins.
    """

    lattice: Lattice
    ends: Tensor
    axes: FloatArray
    scale: float
    width: float

    def maps_of(self, xy: FloatArray, expression: sp.csr_array) -> FloatArray:
        """(K, H, W) maps of a section with these spots, as those of the pair were made."""
        return _maps(xy, expression, self.axes, self.lattice, self.width) / self.scale

    def tissue_of(self, xy: FloatArray) -> FloatArray:
        """(H, W) 1 where a section with these spots has tissue, 0 elsewhere."""
        far = max(self.width / WIDTH, self.lattice.pitch) * REACH
        return (KDTree(xy).query(self.lattice.centres)[0] <= far).reshape(self.lattice.shape).astype(np.float32)

    def inserted(self, pair: SlicePair, at: FloatArray, position: float, change: Tensor) -> InterpolatedSection:
        """The blend of both sections at (M, 2) points, plus a (K, H, W) change to its maps: without it, `lowrank`."""
        ends = [
            gaussian_operator(s.xy, at, WIDTH * pair.spacing) @ _scores(s.xy, s.expression, self.axes)
            for s in (pair.a, pair.b)
        ]
        blend = (1 - position) * ends[0] + position * ends[1]
        moved = sample(change, self.lattice, at).cpu().numpy() * self.scale
        return InterpolatedSection(blend + moved, self.axes, (1 - position) * pair.a.mean + position * pair.b.mean)

    def noise(self, pair: SlicePair, at: FloatArray, positions: Sequence[float]) -> Noise:
        """Variance of that blend; what a network adds to it is taken to be certain."""
        sections = (pair.a, pair.b)
        return map_noise(
            [s.xy for s in sections],
            [_scores(s.xy, s.expression, self.axes) for s in sections],
            [gaussian_operator(s.xy, at, WIDTH * pair.spacing) for s in sections],
            [np.array([1 - p, p]) for p in positions],
            self.axes,
        )


def make_frames(pair: SlicePair, n_maps: int, *, device: str = "cpu") -> Frames:
    """The two frames of a pair; its context is not looked at."""
    sections = (pair.a, pair.b)
    smoothers = [gaussian_operator(s.xy, s.xy, WIDTH * pair.spacing) for s in sections]
    found = smoothed_axes([s.expression for s in sections], n_maps, smoothers)
    axes = np.zeros((n_maps, pair.n_genes))
    axes[: len(found)] = found
    lattice = pair.lattice.coarsened(MOST_BINS)
    width = WIDTH * max(pair.spacing, lattice.pitch)
    maps = [_maps(s.xy, s.expression, axes, lattice, width) for s in sections]
    scale = float(np.sqrt(np.mean(np.square(maps)))) or 1.0
    frames = Frames(lattice, torch.empty(0), axes, scale, width)
    ends = [
        np.concatenate([m / scale, frames.tissue_of(s.xy)[None], _grey(s, pair.lattice, lattice)[None]])
        for s, m in zip(sections, maps, strict=True)
    ]
    return Frames(lattice, torch.as_tensor(np.stack(ends).astype(np.float32), device=device), axes, scale, width)


def _scores(xy: FloatArray, expression: sp.csr_array, axes: FloatArray) -> FloatArray:
    """(n, K) values of the axes in each spot, around the section's own mean."""
    return expression @ axes.T - np.asarray(expression.mean(axis=0)).ravel() @ axes.T


def _maps(xy: FloatArray, expression: sp.csr_array, axes: FloatArray, lattice: Lattice, width: float) -> FloatArray:
    values = gaussian_operator(xy, lattice.centres, width) @ _scores(xy, expression, axes)
    return values.T.reshape(-1, *lattice.shape)


def _grey(section: Section, fine: Lattice, lattice: Lattice) -> FloatArray:
    """(H, W) grey of the H&E around its mean, 0 where there is none."""
    if section.histology is None:
        return np.zeros(lattice.shape)
    grey = section.histology.mean(axis=0).ravel()
    index = fine.bins(lattice.centres)
    found = np.where(index >= 0, grey[np.maximum(index, 0)], np.nan).reshape(lattice.shape)
    known = np.isfinite(found)
    return np.where(known, found - found[known].mean(), 0) if known.any() else np.zeros(lattice.shape)


# ---- what the networks have in common


def blend(ends: Tensor, t: float) -> Tensor:
    """(C, H, W) of (2, C, H, W), weighted by 1 − t and t."""
    return (1 - t) * ends[0] + t * ends[1]


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """(C, H, W) maps looked up at x + flow(x), bilinearly; (2, H, W) flow is (dx, dy) in bins."""
    return deformable_sampling(maps, flow[None], torch.ones_like(flow[:1]))


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


def conv(n_in: int, n_out: int, *, stride: int = 1) -> nn.Sequential:
    """3 × 3 convolution and PReLU, of one slope: slopes by channel need a batch."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1), nn.PReLU())


def silent(layer: nn.Conv2d | nn.ConvTranspose2d, n: int | None = None) -> nn.Conv2d | nn.ConvTranspose2d:
    """A convolution whose first n output channels (all by default) say 0 until they have learnt something."""
    weight, bias = layer.weight, layer.bias
    assert bias is not None, "all convolutions of the compared methods have one"
    with torch.no_grad():
        rows = weight if isinstance(layer, nn.Conv2d) else weight.transpose(0, 1)
        rows[:n].zero_()
        bias[:n].zero_()
    return layer


def masked_mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean of (C, H, W) over the bins where (H, W) is 1; a scalar."""
    return (values * known).sum() / (known.sum() * len(values)).clamp(min=1)


def charbonnier(difference: Tensor, epsilon: float = 1e-3) -> Tensor:
    """√(d² + ε²): the absolute value with a round foot."""
    return (difference.square() + epsilon**2).sqrt()


class FrameNetwork(nn.Module):
    """What every rival's network is: two frames and a position in, the change to their blend out.

    Parameters
    ----------
    config
        An instance of `Config`.
    """

    Config: ClassVar[type]
    name: ClassVar[str]
    arbitrary: ClassVar[bool] = True  # whether it learns positions other than the middle

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, ends: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the linear blend of the maps at t, of (2, K + 2, H, W) frames."""
        raise NotImplementedError

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Scalar loss against the (K, H, W) maps of the held-out section, where (H, W) is 1."""
        raise NotImplementedError


class FrameInterpolator:
    """A trained network of the field as a model for ``c2sti.tl.interpolate(…, model=…)``. It ignores context.

    Parameters
    ----------
    network
        Trained weights. Untrained ones answer as `lowrank` does.
    card
        What is known of its training: goes into the checkpoint, and comes back with it.
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
        """Insert sections; see :class:`c2sti._types.Interpolator`."""
        frames = make_frames(pair, self.network.config.n_maps, device=device)
        network, slices = self.network.to(device).eval(), []
        with torch.no_grad():
            for p in positions:
                slices.append(frames.inserted(pair, at, p, network(frames.ends, p)))
                progress(1 / len(positions))
        return Prediction(tuple(slices), {"weights": self.fingerprint()}, frames.noise(pair, at, positions))

    @property
    def n_parameters(self) -> int:
        """Numbers that are learnt."""
        return sum(p.numel() for p in self.network.parameters())

    def fingerprint(self) -> str:
        """Hash of the weights."""
        return _checkpoint.fingerprint(self.network)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder, which is made where it is not."""
        _kind(type(self.network)).write(folder, self.network, self.network.config, self.card)


def fresh(network: type[FrameNetwork], config: Any = None, *, seed: int = 0) -> FrameNetwork:
    """An untrained network, the same for the same seed; nobody's random state is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(network.Config() if config is None else config)


def load(network: type[FrameNetwork], folder: str | Path) -> FrameInterpolator:
    """Read the compared method of this network from the folder that :meth:`FrameInterpolator.save` wrote.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint in the folder.
    ValueError
        It is truncated, of another version, or of another model; the message says which.
    """
    kind = _kind(network)
    config, card = kind.read_settings(folder)
    rival = FrameInterpolator(fresh(network, config), card=card)
    kind.read_weights(folder, rival.network)
    return rival


def _kind(network: type[FrameNetwork]) -> _checkpoint.Kind:
    return _checkpoint.Kind(network.name, 1, network.Config)
