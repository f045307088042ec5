"""The C2-STi network (Fig. 1 of the paper): its settings, what it looks at, and its layers.

The network reads a pair of sections and gives where tissue lies in either of them (§2.1 to 2.3). By default the
component maps of a baseline prediction are sampled there; as in the paper, the features of its genes are, and a head
gives the section (`C2STiConfig.paper`). Both are one network, and differ by what eq. 5 deforms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti import _validators
from c2sti._types import Lattice
from c2sti.nn._pieces import in_pieces
from c2sti.nn.cross_modal import CrossModalAlignment, ExpressionStem, HistologyEncoder
from c2sti.nn.dlsm import DLSM, Deformation, differences, fuse, position_map, printed_position_map
from c2sti.nn.pyramid import (
    N_SHIFTS,
    GenePool,
    MGCGraph,
    MotionDecoder,
    PyramidEncoder,
    SectionDecoder,
    local_correlation,
    profiles,
)
from c2sti.nn.resnet import CHANNELS, ResNet50Features, resnet50
from c2sti.ops import deformable_sampling, sobel_magnitude

DEFORMS, STARTS, PRINTED = ("maps", "features", "motion"), ("baseline", "zero"), ("graph", "position")
FEWEST_GENES = 8  # of a panel whose two halves are compared

Motion = tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class C2STiConfig:
    """Settings of the network; :meth:`paper` gives those of the paper.

    Parameters
    ----------
    channels, histology_channels
        C of a gene's features, C_h of the image's.
    n_levels
        Scales of the pyramid.
    halved
        Whether the finest of them has half the bins of the lattice, as in the paper; if not, all of them.
    kernel_size
        Side k of the deformable kernel: 3 in the paper. With 1 tissue is moved and not blurred.
    embedding
        Length of the embeddings of a position.
    reach
        The farthest that tissue is moved at one level, in its bins.
    alpha
        How much the gradient of the H&E counts for positions.
    beta, gamma
        Weights of the channel branch and of the spatial branch of the modulation.
    panel
        Genes that the network looks at, the most variable ones; components carry what it finds to the other genes.
    bins
        Longest side of the network's lattice.
    deforms
        What eq. 5 deforms: ``"maps"``, those of the components of both sections; ``"features"`` of the genes, from
        which a head gives the section; ``"motion"``, as printed, the motion features of each gene, likewise.
    start
        What the network's output is added to: ``"baseline"``, the training-free prediction, with no change at either
        end; or ``"zero"``: the output of the head is the section.
    printed
        Further equations that are taken as they are printed: ``"graph"`` (squared norms in eq. 2), ``"position"``
        (p = t · w̄, §2.3).
    resnet
        Whether H&E is described by a ResNet-50 before the network's own encoder sees it; needs the extra `histology`.
    n_components, n_splits, counts, matern
        The baseline prediction, see :class:`c2sti.models.components.Settings`.
    image_channels
        Of what the network's own encoder looks at: the 3 colours of the H&E, or what a `histology_encoder` gives.
    cross_modal, graph, dlsm
        Whether H&E gates expression, genes are mixed by the graph, positions follow the H&E and modulate motion; off,
        they are the paper's ablations "w/o Cross-modal", "w/o MGC-Graph", "w/o DLSM".
    registered
        Whether sections are registered first, see :mod:`c2sti.models.registration`.
    displacement
        Whether tissue may move at all, by registration or by the network.

    Examples
    --------
    >>> import c2sti
    >>> small = c2sti.C2STiConfig(channels=4, n_components=8)
    >>> paper = c2sti.C2STiConfig.paper(cross_modal=False)  # its first ablation
    """

    channels: int = 8
    histology_channels: int = 8
    n_levels: int = 3
    halved: bool = False
    kernel_size: int = 1
    embedding: int = 16
    reach: float = 1.0
    alpha: float = 1.0
    beta: float = 0.5
    gamma: float = 0.5
    panel: int = 64
    bins: int = 128
    deforms: Literal["maps", "features", "motion"] = "maps"
    start: Literal["baseline", "zero"] = "baseline"
    printed: tuple[str, ...] = ()
    resnet: bool = False
    n_components: int = 60
    n_splits: int = 1
    counts: bool = True
    matern: bool = True
    image_channels: int = 3
    cross_modal: bool = True
    graph: bool = True
    dlsm: bool = True
    registered: bool = True
    displacement: bool = True

    def __post_init__(self) -> None:
        whole = "channels", "histology_channels", "n_levels", "embedding", "panel", "bins", "n_components"
        for name in (*whole, "image_channels"):
            _validators.whole(getattr(self, name), name)
        if _validators.whole(self.kernel_size, "kernel_size") % 2 == 0:
            raise ValueError(f"kernel_size = {self.kernel_size} must be odd and positive")
        _validators.whole(self.n_splits, "n_splits", least=0)
        for name in ("alpha", "reach", "beta", "gamma"):
            _validators.number(getattr(self, name), name, least=0)
        for name, known in (("deforms", DEFORMS), ("start", STARTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r}; those that exist are {', '.join(known)}")
        if unknown := sorted(set(self.printed) - set(PRINTED)):
            raise ValueError(f"printed = {unknown}; those that exist are {', '.join(PRINTED)}")
        if self.start == "zero" and self.deforms == "maps":
            raise ValueError('start = "zero" needs a head that gives the section: deforms="features" or "motion"')
        if self.resnet and self.image_channels != 3:
            raise ValueError(f"resnet = True looks at the 3 colours of the H&E, not at {self.image_channels} channels")

    @classmethod
    def paper(cls, **settings: Any) -> C2STiConfig:
        """The network of Fig. 1: features are deformed by 3 × 3 kernels at every level, and a head gives the section.

        The paper does not say how many channels and genes there are; 16 channels of 64 genes on 512 × 512 bins take
        about 30 GB to train on one patch.

        Parameters
        ----------
        **settings
            Any of this class that is to be another one.
        """
        given: dict[str, Any] = {
            "channels": 16,
            "histology_channels": 16,
            "halved": True,
            "kernel_size": 3,
            "reach": 2.0,
            "bins": 512,
            "deforms": "features",
            "start": "zero",
            "resnet": True,
        }
        return cls(**{**given, **settings})


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
    chosen, scale
        (N_p,) which of the pair's genes these are, and what their expression was divided by.
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
    chosen: Tensor
    scale: Tensor
    images: tuple[Tensor | None, ...]
    propagation: Tensor
    ends: tuple[Tensor, Tensor]
    features: tuple[Tensor | None, ...] = ()
    targets: Mapping[float, Tensor] = field(default_factory=dict)

    def to(self, device: str) -> ModelInputs:
        """The same, elsewhere."""
        others = {name: getattr(self, name).to(device) for name in ("propagation", "chosen", "scale")}
        return replace(self.each(lambda maps: maps.to(device)), **others)

    def genes(self, index: Tensor) -> ModelInputs:
        """The same seen by some of the panel's genes."""
        panel, propagation = tuple(p[index] for p in self.panel), self.propagation[index][:, index]
        return replace(self, panel=panel, chosen=self.chosen[index], scale=self.scale[index], propagation=propagation)

    def halves(self) -> tuple[ModelInputs, ModelInputs]:
        """Two that share no gene: every other gene of the panel, by how much it varies, whatever their order."""
        variance = (self.panel[0][:, 0].square().mean(dim=(1, 2)) + self.panel[1][:, 0].square().mean(dim=(1, 2))) / 2
        ranked = variance.argsort(descending=True)
        return self.genes(ranked[0::2].sort().values), self.genes(ranked[1::2].sort().values)

    @property
    def n_values(self) -> int:
        """Of the panel in one section."""
        return self.panel[0][:, 0].numel()

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
        seen = CHANNELS["layer1"] if config.resnet else config.image_channels
        self.histology = HistologyEncoder(config.histology_channels, n_given=seen)
        self.alignment = CrossModalAlignment(c, config.histology_channels)
        self.encoder = PyramidEncoder(c, config.n_levels, halved=config.halved)
        self.graph = nn.ModuleList(MGCGraph(c) for _ in range(config.n_levels))
        self.pool = nn.ModuleList(GenePool(c) for _ in range(config.n_levels))
        self.context = nn.Parameter(torch.zeros(config.n_levels))
        self.decoder = MotionDecoder(c, config.n_levels)
        self.dlsm = nn.ModuleList(self._modulation() for _ in range(config.n_levels))
        self.resnet = ResNet50Features(resnet50()) if config.resnet else None
        self.section = None
        if config.deforms != "maps":
            self.section = SectionDecoder(c, config.n_levels, halved=config.halved, zero=config.start == "baseline")

    def _modulation(self) -> DLSM:
        k = self.config
        how = {"beta": k.beta, "gamma": k.gamma, "modulated": k.dlsm}
        return DLSM(k.channels, k.kernel_size, k.embedding, k.reach, **how)  # type: ignore[arg-type]

    def forward(
        self, inputs: ModelInputs, t: float, motion: Motion | None = None, share: float = 1.0
    ) -> tuple[Tensor, Deformation]:
        """What the network says of the section at t, and the deformation behind it.

        Parameters
        ----------
        inputs
            Of a pair.
        t
            Position of the section.
        motion
            That of the inputs, where it is known already.
        share
            Of every shift that is made.

        Returns
        -------
        With ``deforms="maps"`` what is added to the (D·K, H, W) maps of the components, else (N_p, H, W) standardised
        expression of the panel's genes: the section, or what is added to a baseline prediction. What is added fades as
        4t(1 - t) towards the ends, where a section has been measured.
        """
        deformation, fused = self._deformed(inputs, t, motion, share)
        if self.section is None:
            return 4 * t * (1 - t) * fused[0], deformation
        found = self.section(fused, inputs.lattice.shape)
        return found if self.config.start == "zero" else 4 * t * (1 - t) * found, deformation

    def _deformed(
        self, inputs: ModelInputs, t: float, motion: Motion | None, share: float
    ) -> tuple[Deformation, list[Tensor]]:
        """The deformation on the finest level, and what eq. 5 makes of both sections, fused, on each level."""
        if self.config.deforms == "maps":
            here = self.deformation(inputs, t, self.motion(inputs) if motion is None else motion, share)
            a, b = (deformable_sampling(end, *side) - end for end, side in zip(inputs.ends, here.sides, strict=True))
            return here, [fuse(a, b, here.p)]
        nodes = [self.nodes(inputs, i) for i in range(len(inputs.panel))]
        if self.config.deforms == "motion":
            return self._printed(inputs, t, nodes, share)
        deformations = self.deformations(inputs, t, self._motion(inputs, nodes) if motion is None else motion, share)
        fused = []
        for here, *levels in zip(deformations, nodes[0], nodes[1], strict=True):
            flat = [level.flatten(0, 1) for level in levels]
            a, b = (deformable_sampling(maps, *side) for maps, side in zip(flat, here.sides, strict=True))
            fused.append(fuse(a, b, here.p).reshape(levels[0].shape))
        return deformations[0], fused

    def _printed(
        self, inputs: ModelInputs, t: float, nodes: list[list[Tensor]], share: float
    ) -> tuple[Deformation, list[Tensor]]:
        """Eq. 5 as printed: every gene has motion features of its own, which are what is deformed."""

        def of_gene(one: list[Tensor], other: list[Tensor]) -> tuple[Deformation, list[Tensor]]:
            there, back = ([f.new_zeros(N_SHIFTS, *f.shape[1:]) for f in one] for _ in range(2))
            motion = self.decoder(one, other, there), self.decoder(other, one, back)
            deformations, fused = self.deformations(inputs, t, motion, share), []
            for here, *levels in zip(deformations, *motion, strict=True):
                a, b = (deformable_sampling(maps, *side) for maps, side in zip(levels, here.sides, strict=True))
                fused.append(fuse(a, b, here.p))
            return deformations[0], fused

        every, fused = torch.vmap(of_gene)(nodes[0], nodes[1])
        return Deformation(*(field.mean(dim=0) for field in every)), fused

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
        """Where to look in either section, on the finest level."""
        return self.deformations(inputs, t, motion, share)[0]

    def deformations(self, inputs: ModelInputs, t: float, motion: Motion, share: float = 1.0) -> list[Deformation]:
        """The same on each level, fine to coarse: coarser levels move all taps of a bin together."""
        p = self.positions(inputs, t)
        own = []
        for one, other, level in zip(*motion, self.dlsm, strict=True):
            here = functional.interpolate(p[None, None], size=one.shape[-2:], mode="area")[0, 0]
            own.append(level(one, other, here))
        used = share if self.config.displacement else 0.0
        found = []
        for i, fine in enumerate(own):
            offsets = [fine.offsets_0, fine.offsets_1]
            for j, coarse in enumerate(own[i + 1 :], start=1):
                for side, moved in enumerate((coarse.offsets_0, coarse.offsets_1)):
                    together = moved.mean(dim=0, keepdim=True)
                    offsets[side] = offsets[side] + 2**j * enlarge(together, fine.p.shape)
            found.append(Deformation(offsets[0] * used, fine.weights_0, offsets[1] * used, fine.weights_1, fine.p))
        return found

    def positions(self, inputs: ModelInputs, t: float) -> Tensor:
        """(H, W) position of each bin: t, changed by what both images show, where there are two.

        Where the missing section has been stained, by how much either differs from it; else by their gradients.
        """
        a, b = inputs.images[:2]
        if not self.config.dlsm or not self.config.cross_modal or a is None or b is None:
            return torch.full(inputs.lattice.shape, t, device=inputs.propagation.device)
        target = inputs.targets.get(t)
        if "position" in self.config.printed:
            gradient = (sobel_magnitude(a) + sobel_magnitude(b)) / 2 if target is None else sobel_magnitude(target)
            return printed_position_map(t, gradient, self.config.alpha)
        gradients = (sobel_magnitude(a), sobel_magnitude(b)) if target is None else differences(target, a, b)
        return position_map(t, *gradients, self.config.alpha)

    def motion(self, inputs: ModelInputs) -> Motion:
        """F₀→₁ and F₁→₀, (C, h, w) at each level, fine to coarse; the same for every position."""
        return self._motion(inputs, [self.nodes(inputs, i) for i in range(len(inputs.panel))])

    def _motion(self, inputs: ModelInputs, nodes: list[list[Tensor]]) -> Motion:
        pooled = [[pool(level) for pool, level in zip(self.pool, levels, strict=True)] for levels in nodes]
        f0, f1 = self._with_context(pooled, inputs.positions)
        a, b = ([profiles(level) for level in levels] for levels in nodes[:2])
        there, back = map(local_correlation, a, b), map(local_correlation, b, a)
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
        n, image = self.config.image_channels, inputs.images[i]
        if self.resnet is not None:
            if image is None:
                return None
            return torch.where(image.isfinite().all(dim=0), self.resnet(image, inputs.lattice.shape), torch.nan)
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


def on_bins(shifts: Tensor, shape: Sequence[int]) -> Tensor:
    """(C, H, W) shifts in bins of a lattice, from (C, h, w) in bins of a first level that may have half as many."""
    return shifts if shifts.shape[1:] == tuple(shape) else 2 * enlarge(shifts[None], shape)[0]


def fresh(config: C2STiConfig, seed: int) -> Network:
    """An untrained network, the same for the same seed; no random state of the caller is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(config)
