"""The gene graph between genes and programmes: how far to trust each edge.

A programme's loadings are estimated from a few hundred noisy spots. One small network, the same for every gene and
every programme, looks at an edge, at the gene and at the programme, and scales the edge: what the graph convolution of
eq. 3 does between genes, done where the graph is short and wide. It knows edges by their statistics only, so it serves
any genes; the sign of a programme, which is arbitrary, does not matter to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

N_EDGE, N_PROGRAMME, N_GENE = 2, 4, 5


@dataclass(frozen=True)
class EdgeStatistics:
    """What is known of the graph between K programmes and N genes.

    Parameters
    ----------
    edge
        (K, N, 2) how large an edge is beside chance; its share of what the programmes explain of the gene.
    programme
        (K, 4) noise ratio, rank, share of variance kept by the field, spots (log).
    gene
        (N, 5) share of spots that see it, variance (log), how much of it is explained (log), mean, spots (log).
    """

    edge: Tensor
    programme: Tensor
    gene: Tensor

    def to(self, device: str) -> EdgeStatistics:
        """The same, elsewhere."""
        return EdgeStatistics(self.edge.to(device), self.programme.to(device), self.gene.to(device))

    def genes(self, chosen: slice | Tensor) -> EdgeStatistics:
        """The same graph with some of its genes."""
        return EdgeStatistics(self.edge[:, chosen], self.programme, self.gene[chosen])


def edge_statistics(
    loadings: Tensor,
    spread: Tensor,
    observed: Tensor,
    noise: Tensor,
    detected: Tensor,
    mean: Tensor,
    variance: Tensor,
    n: int,
) -> EdgeStatistics:
    """Statistics of one description of a pair.

    Parameters
    ----------
    loadings
        (K, N).
    spread, observed, noise
        (K,) standard deviation of a programme's map as the field has it and as the spots have it; its noise ratio r.
    detected, mean, variance
        (N,) share of spots that see a gene; mean and variance of its log expression over spots.
    n
        Spots of all sections.
    """
    size = (loadings * spread[:, None]).abs() / (variance + 1e-6).sqrt()  # correlation of gene and programme, about
    explained = size.square().sum(dim=0)
    edge = torch.stack([(size * n**0.5).log1p(), size / (explained + 1e-6).sqrt()], dim=-1)
    spots = torch.full_like(mean, n).log() - 6
    rank = torch.arange(len(noise)).to(noise) / 30
    programme = torch.stack(
        [noise.log() / 3, rank, 2 * spread / (observed + 1e-6), spots[:1].expand(len(noise))], dim=-1
    )
    gene = torch.stack([2 * detected, (variance + 1e-3).log(), (explained + 1e-3).log(), mean, spots], dim=-1)
    return EdgeStatistics(edge, programme, gene)


class EdgeTrust(nn.Module):
    """Factor of each edge between programmes and genes, 1 until it is trained.

    Parameters
    ----------
    channels
        Width of the network.
    """

    def __init__(self, channels: int = 24) -> None:
        super().__init__()

        def embed(n_in: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(n_in, channels), nn.SiLU(), nn.Linear(channels, channels))

        self.programme, self.gene = embed(N_PROGRAMME), embed(N_GENE)
        self.edge = nn.Linear(N_EDGE, channels)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())
        self.head = nn.Linear(channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, statistics: EdgeStatistics) -> Tensor:
        """(K, N) factors in (0, 2)."""
        joined = self.programme(statistics.programme)[:, None] + self.gene(statistics.gene)[None]
        return 1 + self.head(self.mix(joined + self.edge(statistics.edge)))[..., 0].tanh()
