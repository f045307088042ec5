from __future__ import annotations

import torch

from c2sti.model.loadings import EdgeTrust, edge_statistics


def statistics(loadings: torch.Tensor) -> object:
    k, n = loadings.shape
    rng = torch.Generator().manual_seed(1)
    return edge_statistics(
        loadings,
        torch.rand(k, generator=rng) + 0.1,
        torch.ones(k),
        torch.rand(k, generator=rng) + 0.1,
        torch.rand(n, generator=rng),
        torch.rand(n, generator=rng),
        torch.rand(n, generator=rng) + 0.1,
        100,
    )


def trained(trust: EdgeTrust) -> EdgeTrust:
    torch.nn.init.normal_(trust.head.weight)
    return trust


def test_untrained_it_trusts_every_edge() -> None:
    loadings = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(EdgeTrust()(statistics(loadings)), torch.ones(4, 7))


def test_trained_it_stays_between_none_and_double() -> None:
    factors = trained(EdgeTrust())(statistics(torch.randn(4, 7, generator=torch.Generator().manual_seed(0))))
    assert ((factors > 0) & (factors < 2)).all()
    assert factors.std() > 0


def test_the_sign_of_a_programme_does_not_matter() -> None:
    trust, loadings = trained(EdgeTrust()), torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    flipped = loadings * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    torch.testing.assert_close(trust(statistics(loadings)), trust(statistics(flipped)))


def test_statistics_by_hand() -> None:
    found = edge_statistics(
        torch.tensor([[3.0], [4.0]]),
        torch.tensor([1.0, 0.5]),
        torch.tensor([2.0, 2.0]),
        torch.tensor([1.0, 1.0]),
        torch.tensor([0.5]),
        torch.tensor([1.0]),
        torch.tensor([4.0]),
        100,
    )
    # correlations 3·1/2 and 4·0.5/2
    torch.testing.assert_close(found.edge[:, 0, 0], torch.log1p(torch.tensor([15.0, 10.0])), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.edge[:, 0, 1], torch.tensor([1.5, 1.0]) / 3.25**0.5, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.programme[:, 2], torch.tensor([1.0, 0.5]), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.gene[0, :2], torch.tensor([1.0, 1.3863]), rtol=1e-3, atol=1e-3)
