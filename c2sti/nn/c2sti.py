"""The C2-STi network (Fig. 1 of the paper): its settings and its layers.

The network reads a pair of sections and gives where tissue lies in either of them (§2.1 to 2.3). By default the
component maps of a baseline prediction are sampled there; as in the paper, the features of its genes are, and a head
gives the section (`C2STiConfig.paper`). Both are one network, and differ by what eq. 5 deforms.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from c2sti import _validators
from c2sti.nn.cross_modal import CrossModalAlignment, ExpressionStem, HistologyEncoder
from c2sti.nn.dlsm import DLSM, Deformation, differences, fuse, position_map, printed_position_map
from c2sti.nn.inputs import ModelInputs
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
from c2sti.ops import sobel_magnitude

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
        how: dict[str, Any] = {"beta": config.beta, "gamma": config.gamma, "modulated": config.dlsm}
        self.dlsm = nn.ModuleList(
            DLSM(c, config.kernel_size, config.embedding, config.reach, **how) for _ in range(config.n_levels)
        )
        self.resnet = ResNet50Features(resnet50()) if config.resnet else None
        self.section = None
        if config.deforms != "maps":
            self.section = SectionDecoder(c, config.n_levels, halved=config.halved, zero=config.start == "baseline")

    def forward(
        self, inputs: ModelInputs, t: float, motion: Motion | None = None, share: float = 1.0
    ) -> tuple[Tensor, Deformation]:
        """What the network says of the section at t, and the deformation on the finest level behind it.

        Parameters
        ----------
        inputs
            Of a pair.
        t
            Position of the section.
        motion
            With ``deforms="maps"`` that of the inputs, where it is known already.
        share
            Of every shift that is made.

        Returns
        -------
        With ``deforms="maps"`` what is added to the (D·K, H, W) maps of the components, else (N_p, H, W) standardised
        expression of the panel's genes: the section, or what is added to a baseline prediction. What is added fades as
        4t(1 - t) towards the ends, where a section has been measured.
        """
        if self.section is None:
            here = self.deformations(inputs, t, self.motion(inputs) if motion is None else motion, share)[0]
            a, b = (one - end for one, end in zip(here.sampled(*inputs.ends), inputs.ends, strict=True))
            return 4 * t * (1 - t) * fuse(a, b, here.p), here
        deformed = self._features if self.config.deforms == "features" else self._motion_of_genes
        here, fused = deformed(inputs, t, self.nodes(inputs), share)
        found = self.section(fused, inputs.lattice.shape)
        return found if self.config.start == "zero" else 4 * t * (1 - t) * found, here

    def _features(
        self, inputs: ModelInputs, t: float, nodes: list[list[Tensor]], share: float
    ) -> tuple[Deformation, list[Tensor]]:
        """The finest deformation, and (N_p, C, h, w) features of the genes at t on each level (eq. 5, fused)."""
        deformations, fused = self.deformations(inputs, t, self.motion(inputs, nodes), share), []
        for here, one, other in zip(deformations, nodes[0], nodes[1], strict=True):
            a, b = here.sampled(one.flatten(0, 1), other.flatten(0, 1))
            fused.append(fuse(a, b, here.p).reshape(one.shape))
        return deformations[0], fused

    def _motion_of_genes(
        self, inputs: ModelInputs, t: float, nodes: list[list[Tensor]], share: float
    ) -> tuple[Deformation, list[Tensor]]:
        """Eq. 5 as printed: every gene has motion features of its own, which are what is deformed."""

        def of_gene(one: list[Tensor], other: list[Tensor]) -> tuple[Deformation, list[Tensor]]:
            alike = [f.new_zeros(N_SHIFTS, *f.shape[1:]) for f in one]  # a single gene has no local correlation
            motion = self.decoder(one, other, alike), self.decoder(other, one, alike)
            deformations = self.deformations(inputs, t, motion, share)
            levels = zip(deformations, *motion, strict=True)
            return deformations[0], [fuse(*here.sampled(there, back), here.p) for here, there, back in levels]

        every, fused = torch.vmap(of_gene)(nodes[0], nodes[1])
        return Deformation(*(field.mean(dim=0) for field in every)), fused

    def reliability(self, inputs: ModelInputs) -> float:
        """Of the motion of inputs, in [0, 1]: how much of it two halves of the genes, each looked at alone, agree on.

        The share of the mean square of their shifts, halfway and where both sections have tissue, that is common to
        them: 1 where they say the same, 0 where what they say is noise, or where there are too few genes to ask.
        """
        if len(inputs.propagation) < FEWEST_GENES:
            return 0.0
        tissue = (inputs.panel[0][0, 1] > 0) & (inputs.panel[1][0, 1] > 0)
        halves = (self.deformations(half, 0.5, self.motion(half))[0] for half in inputs.halves())
        one, other = (half.shifts[:, tissue] for half in halves)
        both = (one.square() + other.square()).sum() / 2
        return float(((one * other).sum() / both).clamp(0, 1)) if both > 0 else 0.0

    def deformations(self, inputs: ModelInputs, t: float, motion: Motion, share: float = 1.0) -> list[Deformation]:
        """Where to look in either section on each level, fine to coarse: coarser ones move all taps of a bin alike."""
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

    def motion(self, inputs: ModelInputs, nodes: list[list[Tensor]] | None = None) -> Motion:
        """F₀→₁ and F₁→₀, (C, h, w) at each level, fine to coarse, from the nodes; the same for every position."""
        nodes = self.nodes(inputs) if nodes is None else nodes
        pooled = [[pool(level) for pool, level in zip(self.pool, levels, strict=True)] for levels in nodes]
        f0, f1 = (self._with_context(pooled, inputs.positions, side) for side in (0, 1))
        a, b = ([profiles(level) for level in levels] for levels in nodes[:2])
        there, back = map(local_correlation, a, b), map(local_correlation, b, a)
        return self.decoder(f0, f1, list(there)), self.decoder(f1, f0, list(back))

    def nodes(self, inputs: ModelInputs) -> list[list[Tensor]]:
        """(N_p, C, h, w) of each section at each level: its genes aligned with its image, encoded, mixed."""
        found = []
        for i in range(len(inputs.panel)):
            levels = self._encoded(inputs, i)
            if self.config.graph:
                levels = [graph(level, inputs.propagation) for level, graph in zip(levels, self.graph, strict=True)]
            found.append(levels)
        return found

    def _encoded(self, inputs: ModelInputs, i: int) -> list[Tensor]:
        """(N_p, C, h, w) of section i at each level, before genes see each other.

        Where a GPU is out of memory, half as many genes are encoded at a time, and again.
        """
        panel, image = inputs.panel[i], self._image(inputs, i) if self.config.cross_modal else None
        told = None if image is None else (self.histology(image), image.isfinite().all(dim=0))
        found: list[list[Tensor]] = []
        first, size = 0, len(panel)
        while first < len(panel):
            try:
                expression = self.stem(panel[first : first + size])  # M_s
                found.append(self.encoder(expression if told is None else self.alignment(expression, *told)))  # of X
                first += size
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                # Half of what was tried: the last genes may have been fewer than `size`.
                tried = min(size, len(panel) - first)
                size = max(tried // 2, 1)
                says = f"out of memory with {tried} genes of the panel at a time; continuing with {size}"
                warnings.warn(says, stacklevel=2)
        return [torch.cat(level) for level in zip(*found, strict=True)]

    def _image(self, inputs: ModelInputs, i: int) -> Tensor | None:
        """(C_h, H, W) what the network's encoder looks at: the image of a section, or its description."""
        n, image = self.config.image_channels, inputs.images[i]
        if self.resnet is not None:
            if image is None:
                return None
            return torch.where(image.isfinite().all(dim=0), self.resnet(image, inputs.lattice.shape), torch.nan)
        given = image if n == 3 else inputs.features[i]
        if given is None and image is not None:
            raise ValueError(
                f"this network was trained on images described by an encoder of {n} channels; give it as "
                "histology_encoder="
            )
        if given is not None and len(given) != n:
            raise ValueError(
                f"this network was trained on images described in {n} channels; histology_encoder gives {len(given)}"
            )
        return given

    def _with_context(self, pooled: list[list[Tensor]], positions: Sequence[float], side: int) -> list[Tensor]:
        """Features of section a (side 0) or b (1) on each level, leaning to the sections beyond it, by distance."""
        of = [i for i, p in enumerate(positions) if (p < 0 if side == 0 else p > 1)]
        levels = pooled[side]
        for i in of:
            share = float(np.exp(-abs(positions[i] - side))) / len(of)
            levels = [
                f + scale.tanh() * share * (beyond - own)
                for f, own, beyond, scale in zip(levels, pooled[side], pooled[i], self.context, strict=True)
            ]
        return levels


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
