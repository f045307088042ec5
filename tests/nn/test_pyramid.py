from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from c2sti.nn.pyramid import (
    GenePool,
    MGCGraph,
    MotionDecoder,
    PyramidEncoder,
    SectionDecoder,
    local_correlation,
    pixel_shuffle,
    profiles,
)
from c2sti.ops import propagation


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def some_graph(n: int) -> torch.Tensor:
    correlations = np.corrcoef(np.random.default_rng(0).random((n, 6))) - np.eye(n)
    return torch.as_tensor(propagation(sp.csr_array(correlations)).toarray())


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 5), (1, 3)])
def test_sizes_halve_rounding_up_and_come_back(height: int, width: int) -> None:
    levels = PyramidEncoder(4)(torch.randn(2, 4, height, width))
    sizes = [(height, width), (-(-height // 2), -(-width // 2)), (-(-height // 4), -(-width // 4))]
    assert [tuple(x.shape) for x in levels] == [(2, 4, *size) for size in sizes]
    pooled = [x.mean(dim=0) for x in levels]
    alike = [local_correlation(profiles(x), profiles(x)) for x in levels]
    assert [tuple(x.shape) for x in MotionDecoder(4)(pooled, pooled, alike)] == [(4, *size) for size in sizes]


def test_permuted_genes_give_permuted_nodes_and_the_same_pool() -> None:
    encoder, graph, pool = PyramidEncoder(4), MGCGraph(4), GenePool(4)
    x, p, order = torch.randn(9, 4, 8, 7), some_graph(9), torch.randperm(9)
    nodes = [graph(level, p) for level in encoder(x)]
    permuted = [graph(level, p[order][:, order]) for level in encoder(x[order])]
    for before, after in zip(nodes, permuted, strict=True):
        torch.testing.assert_close(after, before[order], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pool(after), pool(before), atol=1e-5, rtol=1e-5)


def test_graph_layer_by_hand() -> None:
    graph = MGCGraph(1)
    assert graph.balance.item() == pytest.approx(0.1)
    torch.nn.init.constant_(graph.weight, 2.0)
    nodes, p = torch.tensor([1.0, -3.0]).view(2, 1, 1, 1), torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    # P C W = (0, -4); its negative part is cut off
    torch.testing.assert_close(graph(nodes, p).flatten(), torch.tensor([0.9 * 1.0, 0.9 * -3.0]))
    torch.testing.assert_close(graph(-nodes, p).flatten(), torch.tensor([0.9 * -1.0, 0.9 * 3.0 + 0.1 * 4.0]))


def test_graph_weight_starts_near_the_identity() -> None:
    assert (MGCGraph(16).weight - torch.eye(16)).abs().max() < 0.1


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_sparse_graphs_are_as_good_as_dense_ones(layout: torch.layout) -> None:
    graph, dense = MGCGraph(3), some_graph(7)
    nodes = torch.randn(7, 3, 4, 5, requires_grad=True)
    sparse = dense.to_sparse_csr() if layout == torch.sparse_csr else dense.to_sparse_coo()
    out = {name: graph(nodes, p) for name, p in [("dense", dense), ("sparse", sparse)]}
    torch.testing.assert_close(out["sparse"], out["dense"])
    slopes = [torch.autograd.grad(x.square().sum(), [nodes, graph.weight, graph.logit]) for x in out.values()]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_pool_takes_mean_and_standard_deviation_and_has_a_slope_where_genes_agree() -> None:
    pool = GenePool(1)
    torch.nn.init.zeros_(pool.join.bias)
    nodes = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    for weight, expected in [((1.0, 0.0), 2.0), ((0.0, 1.0), 1.0)]:
        pool.join.weight.data = torch.tensor(weight).view(1, 2, 1, 1)
        assert pool(nodes).item() == pytest.approx(expected, abs=1e-5)
    same = torch.ones(3, 1, 2, 2, requires_grad=True)
    pool(same).sum().backward()
    assert same.grad.isfinite().all()


def test_decoder_looks_at_every_level_of_both_sections() -> None:
    decoder, sizes = MotionDecoder(4), [(7, 5), (4, 3), (2, 2)]
    f0, f1 = ([torch.randn(4, *size, requires_grad=True) for size in sizes] for _ in range(2))
    alike = [torch.randn(9, *size, requires_grad=True) for size in sizes]
    slopes = torch.autograd.grad(decoder(f0, f1, alike)[0].sum(), [*f0, *f1, *alike])
    assert all(slope.abs().max() > 0 for slope in slopes)


def test_gradients_in_double() -> None:
    graph, pool = MGCGraph(2).double(), GenePool(2).double()
    nodes, p = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True), some_graph(3).double()
    assert torch.autograd.gradcheck(lambda x: pool(graph(x, p)), nodes)


def test_local_correlation_is_one_where_the_genes_have_gone() -> None:
    one = torch.randn(6, 4, 7, 8)
    moved = torch.roll(one, 1, dims=3)  # one bin to the right: dy = 0, dx = 1, the sixth of nine
    alike = local_correlation(profiles(one), profiles(moved))
    torch.testing.assert_close(alike[5, :, :-1], torch.ones(7, 7))
    assert alike.abs().max() <= 1 + 1e-6
    assert (alike[:, 1:-1, 1:-1].argmax(dim=0) == 5).all()


def test_local_correlation_knows_no_order_and_no_gene_that_all_are() -> None:
    one, other, order = torch.randn(5, 2, 3, 4), torch.randn(5, 2, 3, 4), torch.randperm(5)
    turned = local_correlation(profiles(one[order]), profiles(other[order]))
    torch.testing.assert_close(turned, local_correlation(profiles(one), profiles(other)))
    assert (local_correlation(profiles(torch.ones(5, 2, 3, 4)), profiles(other)) == 0).all()


def test_section_decoder_looks_at_every_level_and_keeps_genes_apart() -> None:
    decoder, sizes = SectionDecoder(4, 3, halved=True, zero=False), [(7, 5), (4, 3), (2, 2)]
    features = [torch.randn(2, 4, *size, requires_grad=True) for size in sizes]
    section = decoder(features, (13, 10))
    assert section.shape == (2, 13, 10)
    slopes = torch.autograd.grad(section[0].sum(), features)
    assert all(slope[0].abs().max() > 0 and (slope[1] == 0).all() for slope in slopes)
    assert (SectionDecoder(4, 3, halved=False, zero=True)(features, (7, 5)) == 0).all()


def test_pixel_shuffle_by_hand() -> None:
    enlarge = pixel_shuffle(1)
    torch.nn.init.zeros_(enlarge[0].bias)
    enlarge[0].weight.data = torch.zeros(4, 1, 3, 3)
    enlarge[0].weight.data[:, 0, 1, 1] = torch.tensor([1.0, 10.0, 100.0, 1000.0])  # one output each of a bin's four
    expected = torch.tensor([[2.0, 20.0], [200.0, 2000.0]])
    torch.testing.assert_close(enlarge(torch.tensor([[[[2.0]]]]))[0, 0], expected)


def test_section_decoder_gradients_in_double() -> None:
    decoder = SectionDecoder(2, 2, halved=True, zero=False).double()
    features = [torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True) for size in [(3, 2), (2, 1)]]
    assert torch.autograd.gradcheck(lambda *f: decoder(list(f), (5, 4)), features)
