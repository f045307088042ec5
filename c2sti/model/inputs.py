"""What the network looks at: a pair as tensors on a lattice, made once, whatever position is asked for.

Of all genes the network looks at a panel; the components carry what it finds to the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import KDTree
from torch import Tensor

from c2sti._types import FloatArray, Lattice, Section, SlicePair
from c2sti.model.baseline import BaselineTensors
from c2sti.model.components import Description
from c2sti.ops import gaussian_operator, graph_values, most_variable, pearson_graph, propagation

WIDTH = 0.6  # of the Gaussian that brings spots to bins and comes before correlating, in spot spacings
N_EDGES = 30  # co-expression edges of a gene
MOST_BINS = 128  # a side of the network's lattice: motion is smooth, and finer bins would cost what they do not tell
REACH = 1.0  # tissue ends this far from the last spot, in spot spacings


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


def prepare(
    pair: SlicePair,
    description: Description,
    at: FloatArray,
    positions: Sequence[float],
    *,
    n_panel: int,
    device: str,
    progress: Callable[[float], object] = lambda share: None,
) -> tuple[ModelInputs, BaselineTensors]:
    """What the network looks at, and the baseline prediction that it changes, on a device.

    Parameters
    ----------
    pair, at, positions
        As every interpolator takes them.
    description
        Of the pair.
    n_panel
        Genes that the network looks at, the most variable ones.
    device
        Where the network is.
    progress
        Is told each share of the work that has been done, 1 in all.
    """
    lattice = pair.lattice.coarsened(MOST_BINS)
    wanted = [(lattice.centres, [0.0, 1.0]), (at, positions)]
    ends, maps = description.at_each(wanted, lambda share: progress(0.8 * share))
    first, second = (_on_lattice(torch.as_tensor(end), lattice) for end in ends)
    inputs = _inputs(pair, lattice, n_panel, (first, second))
    prediction = BaselineTensors.of(maps, description, pair.sections, positions)
    progress(0.2)
    return inputs.to(device), prediction.to(device)


def _on_lattice(values: Tensor, lattice: Lattice) -> Tensor:
    """(H·W, K) → (K, H, W)."""
    return values.T.reshape(-1, *lattice.shape).contiguous()


def _inputs(pair: SlicePair, lattice: Lattice, n_panel: int, ends: tuple[Tensor, Tensor]) -> ModelInputs:
    genes = np.sort(most_variable([pair.a.moments, pair.b.moments], n_panel))
    small = pair.subset(genes).in_memory()
    values = [graph_values(s.xy, s.expression, WIDTH * pair.spacing) for s in small.sections]
    shares = _shares([s.position for s in small.sections])
    graph = (
        pearson_graph(values, shares, min(N_EDGES, max(len(genes) - 1, 0))) if len(genes) > 1 else sp.csr_array((1, 1))
    )
    scale = np.sqrt(np.mean([v.var(axis=0) for v in values[:2]], axis=0))
    return ModelInputs(
        lattice,
        tuple(s.position for s in pair.sections),
        tuple(_panel(s, lattice, pair.spacing, scale) for s in small.sections),
        tuple(_image(s.histology, pair.lattice, lattice) for s in pair.sections),
        torch.as_tensor(propagation(graph).toarray()),
        ends,
        tuple(_image(s.features, pair.lattice, lattice) for s in pair.sections),
        {p: _nearest(image, pair.lattice, lattice) for p, image in pair.targets.items()},
    )


def _shares(positions: Sequence[float]) -> list[float]:
    """Weight of each section in the graph: the pair's are equal, a context section counts by its distance."""
    return [float(np.exp(-max(0.0, -p, p - 1))) if not 0 <= p <= 1 else 1.0 for p in positions]


def _panel(section: Section, lattice: Lattice, spacing: float, scale: FloatArray) -> Tensor:
    """(N, 2, H, W) standardised maps of the section's genes, 0 outside of its tissue, beside the mask of the tissue."""
    centres = lattice.centres
    inside = KDTree(section.xy).query(centres)[0] <= REACH * max(spacing, lattice.pitch)
    width = WIDTH * max(spacing, lattice.pitch)
    maps = np.asarray((gaussian_operator(section.xy, centres, width) @ section.expression).todense()) - section.mean
    maps = np.where(inside[:, None], maps / np.where(scale > 0, scale, 1), 0)
    both = np.stack([maps.T, np.broadcast_to(inside, maps.T.shape)], axis=1)
    return torch.as_tensor(both.reshape(maps.shape[1], 2, *lattice.shape).astype(np.float32))


def _image(maps: FloatArray | None, fine: Lattice, lattice: Lattice) -> Tensor | None:
    return None if maps is None else _nearest(maps, fine, lattice)


def _nearest(maps: FloatArray, fine: Lattice, lattice: Lattice) -> Tensor:
    """(C, H, W) maps on the network's lattice: the nearest bin of the finer one."""
    index = fine.bins(lattice.centres)
    flat = np.asarray(maps).reshape(len(maps), -1)
    found = np.where(index >= 0, flat[:, np.maximum(index, 0)], np.nan)
    return torch.as_tensor(found.reshape(-1, *lattice.shape).astype(np.float32))
