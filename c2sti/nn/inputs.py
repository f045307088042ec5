"""What the network looks at: a pair of sections and its context, on one lattice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import KDTree
from torch import Tensor

from c2sti._types import FloatArray, Lattice, Section, SlicePair
from c2sti.ops import gaussian_operator, graph_values, most_variable, pearson_graph, propagation

WIDTH = 0.6  # of the Gaussian that brings spots to bins and comes before correlating, in spot spacings
N_EDGES = 30  # co-expression edges of a gene
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

    @classmethod
    def of(
        cls, pair: SlicePair, lattice: Lattice, ends: tuple[Tensor, Tensor], *, n_genes: int, power: int
    ) -> ModelInputs:
        """Of a pair, on a lattice that may be coarser than its own.

        Parameters
        ----------
        pair, lattice, ends
            The pair, the network's lattice, and the maps of the components of both sections on it.
        n_genes
            N_p, the most variable ones are the panel.
        power
            Of the norm in eq. 2, see :func:`c2sti.ops.pearson_graph`.
        """
        genes = np.sort(most_variable([pair.a.moments, pair.b.moments], n_genes))
        small = pair.subset(genes).in_memory()
        values = [graph_values(s.xy, s.expression, WIDTH * pair.spacing) for s in small.sections]
        # The pair's sections have equal shares in the graph, a context section counts by its distance.
        shares = [float(np.exp(-max(0.0, -p, p - 1))) for p in (s.position for s in small.sections)]
        n_edges = min(N_EDGES, len(genes) - 1)
        graph = pearson_graph(values, shares, n_edges, power=power) if n_edges > 0 else sp.csr_array((1, 1))
        scale = np.sqrt(np.mean([v.var(axis=0) for v in values[:2]], axis=0))

        def seen(maps: FloatArray | None) -> Tensor | None:
            return None if maps is None else torch.as_tensor(nearest_bins(maps, pair.lattice, lattice))

        return cls(
            lattice,
            tuple(s.position for s in pair.sections),
            tuple(_panel(s, lattice, pair.spacing, scale) for s in small.sections),
            torch.as_tensor(genes),
            torch.as_tensor(scale.astype(np.float32)),
            tuple(seen(s.histology) for s in pair.sections),
            torch.as_tensor(propagation(graph).toarray()),
            ends,
            tuple(seen(s.features) for s in pair.sections),
            {p: torch.as_tensor(nearest_bins(image, pair.lattice, lattice)) for p, image in pair.targets.items()},
        )

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


def _panel(section: Section, lattice: Lattice, spacing: float, scale: FloatArray) -> Tensor:
    """(N, 2, H, W) standardised maps of the section's genes, 0 outside of its tissue, beside the mask of the tissue."""
    centres = lattice.centres
    inside = KDTree(section.xy).query(centres)[0] <= REACH * max(spacing, lattice.pitch)
    width = WIDTH * max(spacing, lattice.pitch)
    maps = np.asarray((gaussian_operator(section.xy, centres, width) @ section.expression).todense()) - section.mean
    maps = np.where(inside[:, None], maps / np.where(scale > 0, scale, 1), 0)
    both = np.stack([maps.T, np.broadcast_to(inside, maps.T.shape)], axis=1)
    return torch.as_tensor(both.reshape(maps.shape[1], 2, *lattice.shape).astype(np.float32))


def nearest_bins(maps: FloatArray, fine: Lattice, lattice: Lattice) -> FloatArray:
    """(C, H, W) what maps on a fine lattice show at the bins of a coarser one: the nearest bin; NaN beyond them."""
    index = fine.bins(lattice.centres)
    flat = np.asarray(maps).reshape(len(maps), -1)
    found = np.where(index >= 0, flat[:, np.maximum(index, 0)], np.nan)
    return found.reshape(-1, *lattice.shape).astype(np.float32)
