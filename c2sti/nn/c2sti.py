"""The C2-STi network (Fig. 1 of the paper): its settings, what it looks at, and its layers.

The network reads a pair of sections and gives where tissue lies in either of them (§2.1 to 2.3). All its heads start
at zero, so that an untrained network changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti import _validators
from c2sti._types import Lattice
from c2sti.nn._pieces import in_pieces
from c2sti.nn.cross_modal import CrossModalAlignment, ExpressionStem, HistologyEncoder
from c2sti.nn.dlsm import DLSM, Deformation, differences, fuse, position_map
from c2sti.nn.pyramid import GenePool, MGCGraph, MotionDecoder, PyramidEncoder, agreement, profiles
from c2sti.ops import deformable_sampling, sobel_magnitude

FEWEST_GENES = 8  # of a panel that two halves are asked of

Motion = tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class C2STiConfig:
    """Settings of the network; the last group are the paper's ablations and ours.

    Parameters
    ----------
    channels, histology_channels
        C of a gene's features, C_h of the image's.
    n_levels
        Scales of the pyramid.
    kernel_size
        Side k of the deformable kernel: 3 in the paper. With 1 tissue is moved and not blurred.
    embedding
        Length of the embeddings of a position.
    reach
        The farthest that tissue is moved at one level, in its bins.
    alpha
        How much the gradient of the H&E counts for positions.
    panel
        Genes that the network looks at; the answer is for all genes.
    n_components, n_splits, counts, matern
        The baseline prediction, see :class:`c2sti.models.components.Settings`.
    image_channels
        Of what the network's own encoder looks at: the 3 colours of the H&E, or what a `histology_encoder` gives.
    cross_modal
        Whether H&E gates expression; off is the paper's "w/o Cross-modal".
    graph
        Whether genes speak to each other; off is the paper's "w/o MGC-Graph".
    dlsm
        Whether positions follow the H&E and modulate the motion; off is the paper's "w/o DLSM", fixed positions.
    displacement
        Whether tissue may move at all.

    Examples
    --------
    >>> import c2sti
    >>> small = c2sti.C2STiConfig(channels=4, n_components=8)
    >>> without_pictures = c2sti.C2STiConfig(cross_modal=False)  # the paper's first ablation
    """

    channels: int = 8
    histology_channels: int = 8
    n_levels: int = 3
    kernel_size: int = 1
    embedding: int = 16
    reach: float = 1.0
    alpha: float = 1.0
    panel: int = 64
    n_components: int = 60
    n_splits: int = 1
    counts: bool = True
    matern: bool = True
    image_channels: int = 3
    cross_modal: bool = True
    graph: bool = True
    dlsm: bool = True
    displacement: bool = True

    def __post_init__(self) -> None:
        for name in (
            "channels",
            "histology_channels",
            "n_levels",
            "embedding",
            "panel",
            "n_components",
            "image_channels",
        ):
            _validators.whole(getattr(self, name), name)
        if _validators.whole(self.kernel_size, "kernel_size") % 2 == 0:
            raise ValueError(f"kernel_size = {self.kernel_size} must be odd and positive")
        _validators.whole(self.n_splits, "n_splits", least=0)
        for name in ("alpha", "reach"):
            _validators.number(getattr(self, name), name, least=0)


@dataclass(frozen=True)
class ModelInputs:
    """One pair, and its context, on the network's lattice.

    Parameters
    ----------
    lattice
        H × W bins.
    positions
        Of all sections, the pair's 0 and 1 first.
    panel
        (N_p, 2, H, W) of each section: standardised expression of the panel's genes beside the mask of the tissue.
    images
        (3, H, W) H&E of each section, or None.
    features
        (C_h, H, W) of each section what an encoder of the user's says of its H&E, or None.
    targets
        (3, H, W) H&E of missing sections, by position, where they were stained.
    propagation
        (N_p, N_p) P of eq. 3 over the panel, dense.
    ends
        (K, H, W) maps of all components in section a, and in section b.
    """

    lattice: Lattice
    positions: tuple[float, ...]
    panel: tuple[Tensor, ...]
    images: tuple[Tensor | None, ...]
    propagation: Tensor
    ends: tuple[Tensor, Tensor]
    features: tuple[Tensor | None, ...] = ()
    targets: Mapping[float, Tensor] = field(default_factory=dict)

    def to(self, device: str) -> ModelInputs:
        """The same, elsewhere."""
        return replace(self.each(lambda maps: maps.to(device)), propagation=self.propagation.to(device))

    def genes(self, chosen: Tensor) -> ModelInputs:
        """The same seen by some of the panel's genes."""
        panel = tuple(p[chosen] for p in self.panel)
        return replace(self, panel=panel, propagation=self.propagation[chosen][:, chosen])

    def halves(self) -> tuple[ModelInputs, ModelInputs]:
        """Two scenes that share no gene: every other gene of the panel, by how much it varies, whatever their order."""
        variance = (self.panel[0][:, 0].square().mean(dim=(1, 2)) + self.panel[1][:, 0].square().mean(dim=(1, 2))) / 2
        ranked = variance.argsort(descending=True)
        return self.genes(ranked[0::2].sort().values), self.genes(ranked[1::2].sort().values)

    @property
    def tissue(self) -> Tensor:
        """(H, W) bool, where both sections of the pair have tissue."""
        return (self.panel[0][0, 1] > 0) & (self.panel[1][0, 1] > 0)

    def each(self, change: Callable[[Tensor], Tensor]) -> ModelInputs:
        """The same with every map, (…, H, W), changed."""
        return replace(
            self,
            panel=tuple(change(p) for p in self.panel),
            images=tuple(None if p is None else change(p) for p in self.images),
            ends=(change(self.ends[0]), change(self.ends[1])),
            features=tuple(None if f is None else change(f) for f in self.features),
            targets={position: change(image) for position, image in self.targets.items()},
        )


class Network(nn.Module):
    """All that is learnt.

    Parameters
    ----------
    config
        Settings.
    """

    def __init__(self, config: C2STiConfig) -> None:
        super().__init__()
        c = config.channels
        self.config = config
        self.stem = ExpressionStem(c)
        self.histology = HistologyEncoder(config.histology_channels, n_given=config.image_channels)
        self.alignment = CrossModalAlignment(c, config.histology_channels)
        self.encoder = PyramidEncoder(c, config.n_levels)
        self.graph = nn.ModuleList(MGCGraph(c) for _ in range(config.n_levels))
        self.pool = nn.ModuleList(GenePool(c) for _ in range(config.n_levels))
        self.context = nn.Parameter(torch.zeros(config.n_levels))
        self.decoder = MotionDecoder(c, config.n_levels)
        self.dlsm = nn.ModuleList(
            DLSM(c, config.kernel_size, config.embedding, config.reach, config.dlsm) for _ in range(config.n_levels)
        )

    def forward(
        self, inputs: ModelInputs, t: float, motion: Motion | None = None, share: float = 1.0
    ) -> tuple[Tensor, Deformation]:
        """What the network adds to the maps of the components at t, (D·K, H, W), and the deformation behind it.

        The maps of both sections are sampled where the tissue lies in them (eq. 5), and the difference that this makes
        to each is blended. It fades towards the ends, where a section has been measured. `motion` is that of the
        inputs, where it is known already; of every shift that `share` is made.
        """
        deformation = self.deformation(inputs, t, self.motion(inputs) if motion is None else motion, share)
        sides = ((deformation.offsets_0, deformation.weights_0), (deformation.offsets_1, deformation.weights_1))
        changes = [deformable_sampling(end, *side) - end for end, side in zip(inputs.ends, sides, strict=True)]
        return 4 * t * (1 - t) * fuse(changes[0], changes[1], deformation.p), deformation

    def reliability(self, inputs: ModelInputs) -> float:
        """Of the motion of a inputs, in [0, 1]: how much of it two halves of the genes, each looked at alone, agree on.

        The share of the mean square of their shifts, halfway and where both sections have tissue, that is common to
        them: 1 where they say the same, 0 where what they say is noise, or where there are too few genes to ask.
        """
        if len(inputs.propagation) < FEWEST_GENES:
            return 0.0
        halves = (self.deformation(half, 0.5, self.motion(half)) for half in inputs.halves())
        one, other = (half.shifts[:, inputs.tissue] for half in halves)
        both = (one.square() + other.square()).sum() / 2
        return float(((one * other).sum() / both).clamp(0, 1)) if both > 0 else 0.0

    def deformation(self, inputs: ModelInputs, t: float, motion: Motion, share: float = 1.0) -> Deformation:
        """Where to look in either section, on the finest level: coarser levels move all taps of a bin together."""
        f01, f10 = motion
        p = self.positions(inputs, t)
        levels = []
        for one, other, level in zip(f01, f10, self.dlsm, strict=True):
            here = functional.interpolate(p[None, None], size=one.shape[1:], mode="area")[0, 0]
            levels.append(level(one, other, here))
        fine, *coarser = levels
        offsets = [fine.offsets_0, fine.offsets_1]
        for i, coarse in enumerate(coarser, start=1):
            for side, moved in enumerate((coarse.offsets_0, coarse.offsets_1)):
                together = moved.mean(dim=0, keepdim=True)
                offsets[side] = offsets[side] + 2**i * enlarge(together, p.shape)
        first, second = (side * (share if self.config.displacement else 0.0) for side in offsets)
        return Deformation(first, fine.weights_0, second, fine.weights_1, p)

    def positions(self, inputs: ModelInputs, t: float) -> Tensor:
        """(H, W) position of each bin: t, pulled on by what both images show, where there are two.

        Where the missing section has been stained, by how much either differs from it; else by their gradients.
        """
        a, b = inputs.images[:2]
        if not self.config.dlsm or not self.config.cross_modal or a is None or b is None:
            return torch.full(inputs.lattice.shape, t, device=inputs.propagation.device)
        if t in inputs.targets:
            return position_map(t, *differences(inputs.targets[t], a, b), self.config.alpha)
        return position_map(t, sobel_magnitude(a), sobel_magnitude(b), self.config.alpha)

    def motion(self, inputs: ModelInputs) -> Motion:
        """F₀→₁ and F₁→₀, (C, h, w) at each level, fine to coarse; the same for every position."""
        nodes = [self.nodes(inputs, i) for i in range(len(inputs.panel))]
        pooled = [[pool(level) for pool, level in zip(self.pool, levels, strict=True)] for levels in nodes]
        f0, f1 = self._with_context(pooled, inputs.positions)
        a, b = ([profiles(level) for level in levels] for levels in nodes[:2])
        there, back = map(agreement, a, b), map(agreement, b, a)
        return self.decoder(f0, f1, list(there)), self.decoder(f1, f0, list(back))

    def nodes(self, inputs: ModelInputs, i: int) -> list[Tensor]:
        """(N_p, C, h, w) of section i at each level: its genes aligned with its image, encoded, mixed."""
        panel = inputs.panel[i]
        pieces = in_pieces(self._encoding(inputs, i), len(panel), len(panel), "genes of the panel")
        levels = [torch.cat(level) for level in zip(*pieces, strict=True)]
        if not self.config.graph:
            return levels
        return [graph(level, inputs.propagation) for level, graph in zip(levels, self.graph, strict=True)]

    def _encoding(self, inputs: ModelInputs, i: int) -> Callable[[slice], list[Tensor]]:
        """What takes some genes of section i to their (n, C, h, w) at each level; genes do not see each other yet."""
        image = self._image(inputs, i) if self.config.cross_modal else None
        told = None if image is None else (self.histology(image), image.isfinite().all(dim=0))

        def encode(genes: slice) -> list[Tensor]:
            expression = self.stem(inputs.panel[i][genes])  # M_s
            return self.encoder(expression if told is None else self.alignment(expression, *told))  # of X

        return encode

    def _image(self, inputs: ModelInputs, i: int) -> Tensor | None:
        """(C_h, H, W) what the network's encoder looks at: the image of a section, or its description."""
        n = self.config.image_channels
        given = inputs.images[i] if n == 3 else inputs.features[i]
        if given is None and inputs.images[i] is not None:
            raise ValueError(
                f"this network was trained on images described by an encoder of {n} channels; give it as "
                "histology_encoder="
            )
        if given is not None and len(given) != n:
            raise ValueError(
                f"this network was trained on images described in {n} channels; histology_encoder gives {len(given)}"
            )
        return given

    def _with_context(
        self, pooled: list[list[Tensor]], positions: Sequence[float]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Features of the pair, each leaning towards the sections beyond it, by distance."""
        leaning = []
        for side in (0, 1):
            of = [i for i, p in enumerate(positions) if (p < 0 if side == 0 else p > 1)]
            levels = pooled[side]
            for i in of:
                share = float(np.exp(-abs(positions[i] - side))) / len(of)
                levels = [
                    f + scale.tanh() * share * (beyond - own)
                    for f, own, beyond, scale in zip(levels, pooled[side], pooled[i], self.context, strict=True)
                ]
            leaning.append(levels)
        return leaning[0], leaning[1]


def enlarge(field: Tensor, shape: Sequence[int]) -> Tensor:
    """(T, 2, h, w) → (T, 2, H, W), bilinear."""
    return functional.interpolate(field, size=tuple(shape), mode="bilinear", align_corners=False)


def fresh(config: C2STiConfig, seed: int) -> Network:
    """An untrained network, the same for the same seed; nobody's random state is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(config)
