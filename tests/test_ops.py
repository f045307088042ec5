from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from c2sti import ops
from c2sti._backed import moments
from c2sti._types import Lattice
from tests.conftest import square_array


def test_inference_has_whole_floats_and_leaves_the_settings_as_they_were() -> None:
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.is_grad_enabled())
    with ops.inference():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.is_grad_enabled()
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.is_grad_enabled()) == before


def test_gaussian_operator_weights_by_hand() -> None:
    w = ops.gaussian_operator(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[0.5, 0.0]]), 1.0).toarray()[0]
    near, far = np.exp(-0.125), np.exp(-1.125)
    np.testing.assert_allclose(w, [near / (near + far), far / (near + far)], rtol=1e-9)


def test_gaussian_operator_far_from_everything_is_still_a_mean() -> None:
    w = ops.gaussian_operator(square_array(3), np.array([[1e6, 1e6]]), 0.6)
    np.testing.assert_allclose(w.sum(), 1)


def test_smoothed_axes_are_those_of_the_dense_matrix() -> None:
    rng = np.random.default_rng(0)
    xy = square_array(8)
    x = [rng.random((64, 30)).astype(np.float32) * 3 for _ in range(2)]
    smooth = ops.gaussian_operator(xy, xy, 0.6)
    dense = np.concatenate([smooth @ (v - v.mean(axis=0)) for v in x])
    expected = np.linalg.svd(dense, full_matrices=False)[2][:4]
    axes = ops.smoothed_axes([sp.csr_array(v) for v in x], 4, [smooth, smooth])
    np.testing.assert_allclose(np.abs((axes * expected).sum(axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(axes @ axes.T, np.eye(4), atol=1e-8)


def test_smoothed_axes_ignore_the_order_of_sections_and_cap_their_number() -> None:
    rng = np.random.default_rng(0)
    a, b = (sp.csr_array(rng.random((20, 6)).astype(np.float32)) for _ in range(2))
    np.testing.assert_allclose(ops.smoothed_axes([a, b], 3), ops.smoothed_axes([b, a], 3), atol=1e-8)
    every = ops.smoothed_axes([a, b], 50)  # as many as there are genes, not one fewer
    assert every.shape == (6, 6)
    np.testing.assert_allclose(every @ every.T, np.eye(6), atol=1e-9)
    np.testing.assert_allclose(every[:5], ops.smoothed_axes([a, b], 5), atol=1e-6)


def test_pearson_graph_is_numpys_correlation() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((50, 7))
    graph = ops.pearson_graph([x], [1.0], n_edges=6).toarray()
    expected = np.corrcoef(x.T) - np.eye(7)
    np.testing.assert_allclose(graph, expected, atol=1e-5)
    more = ops.pearson_graph([x], [1.0], n_edges=50).toarray()  # than there are
    np.testing.assert_allclose(more, expected, atol=1e-5)


def test_pearson_graph_keeps_the_strongest_and_is_symmetric() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((40, 30))
    graph = ops.pearson_graph([x], [1.0], n_edges=2, chunk=7)
    assert abs(graph - graph.T).max() == 0
    assert (np.diff(graph.indptr) >= 2).all()
    full = np.abs(np.corrcoef(x.T) - np.eye(30))
    strongest = full.argmax(axis=1)
    assert (np.abs(graph.toarray()[np.arange(30), strongest]) > 0).all()


def test_pearson_graph_mixes_sections_and_does_not_see_batch_shifts() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((30, 5)), rng.random((60, 5))
    only_a = ops.pearson_graph([a, b], [1.0, 0.0], n_edges=4).toarray()
    np.testing.assert_allclose(only_a, ops.pearson_graph([a], [1.0], n_edges=4).toarray(), atol=1e-6)
    mixed = ops.pearson_graph([a, b], [0.5, 0.5], n_edges=4).toarray()
    shifted = ops.pearson_graph([a, b + 100.0], [0.5, 0.5], n_edges=4).toarray()
    np.testing.assert_allclose(mixed, shifted, atol=1e-5)
    covariance = 0.5 * np.cov(a.T, bias=True) + 0.5 * np.cov(b.T, bias=True)
    d = 1 / np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(mixed, covariance * d[:, None] * d - np.eye(5), atol=1e-5)


def test_propagation_by_hand() -> None:
    a = np.array([[0, 0.5, -0.9, 0], [0.5, 0, 0, 0], [-0.9, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float32)
    p = ops.propagation(sp.csr_array(a))
    assert p.format == "csr"
    assert p.dtype == np.float32
    expected = np.eye(4)
    expected[:2, :2] = [[1 / 1.5, 0.5 / 1.5], [0.5 / 1.5, 1 / 1.5]]
    np.testing.assert_allclose(p.toarray(), expected, rtol=1e-6)


def identity_taps(height: int, width: int, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.zeros(k * k, height, width)
    weights[k * k // 2] = 1
    return torch.zeros(k * k, 2, height, width), weights


@pytest.mark.parametrize("shape", [(4, 6), (2, 3), (3, 2), (1, 5), (5, 1), (1, 1)])
def test_deformable_sampling_at_rest_is_the_identity(shape: tuple[int, int], device: str) -> None:
    maps = torch.rand(3, *shape, device=device)
    offsets, weights = (x.to(device) for x in identity_taps(*shape))
    torch.testing.assert_close(ops.deformable_sampling(maps, offsets, weights), maps, atol=1e-5, rtol=0)


def test_deformable_sampling_looks_dx_along_columns_and_stops_at_the_border() -> None:
    maps = torch.arange(12.0).view(1, 3, 4)
    offsets, weights = identity_taps(3, 4)
    offsets[:, 0] = 0.5
    expected = torch.tensor([0.5, 1.5, 2.5, 3.0]) + torch.tensor([0.0, 4.0, 8.0])[:, None]
    torch.testing.assert_close(ops.deformable_sampling(maps, offsets, weights)[0], expected)
    offsets[:, 0], offsets[:, 1] = 0, 1
    expected = torch.arange(4.0) + torch.tensor([4.0, 8.0, 8.0])[:, None]
    torch.testing.assert_close(ops.deformable_sampling(maps, offsets, weights)[0], expected)


def test_deformable_sampling_without_offsets_is_a_convolution() -> None:
    maps, kernel = torch.rand(2, 5, 6), torch.rand(3, 3)
    offsets, _ = identity_taps(5, 6)
    out = ops.deformable_sampling(maps, offsets, kernel.flatten()[:, None, None].expand(9, 5, 6))
    padded = torch.nn.functional.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")
    torch.testing.assert_close(out, torch.nn.functional.conv2d(padded, kernel[None, None])[:, 0], atol=1e-5, rtol=1e-5)


def test_deformable_sampling_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, offsets, weights = (
        torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in [(2, 3, 4), (9, 2, 3, 4), (9, 3, 4)]
    )
    offsets = 0.2 + 0.6 * offsets  # between bins, where bilinear interpolation has a slope
    assert torch.autograd.gradcheck(ops.deformable_sampling, [x.requires_grad_() for x in (maps, offsets, weights)])


@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
def test_deformable_sampling_along_an_axis_of_one_bin_has_gradients(shape: tuple[int, int]) -> None:
    offsets, weights = identity_taps(*shape)
    offsets.requires_grad_()
    maps = torch.arange(4.0).view(1, *shape).requires_grad_()
    ops.deformable_sampling(maps, offsets, weights).sum().backward()
    assert offsets.grad is not None and offsets.grad.isfinite().all()
    torch.testing.assert_close(maps.grad, torch.ones(1, *shape))


def test_sobel_magnitude_finds_the_step_and_nothing_else() -> None:
    image = torch.full((3, 8, 10), 0.3)
    assert (ops.sobel_magnitude(image) == 0).all()
    image[:, :, 5:] = 0.9
    expected = torch.zeros(8, 10)
    expected[:, 4:6] = 1
    torch.testing.assert_close(ops.sobel_magnitude(image), expected)


def test_sobel_magnitude_does_not_take_the_end_of_the_picture_for_an_edge() -> None:
    image = torch.full((3, 8, 10), 0.3)
    image[:, :, 7:] = torch.nan
    assert (ops.sobel_magnitude(image) == 0).all()
    image[:, 4:] = torch.where(image[:, 4:].isnan(), torch.nan, 0.9)
    magnitude = ops.sobel_magnitude(image)
    assert (magnitude[3:5, :6] == 1).all()
    assert (magnitude[:, 6:] == 0).all()
    assert (ops.sobel_magnitude(torch.full((3, 4, 4), torch.nan)) == 0).all()
    image[1:, :, 3] = torch.nan  # one channel is not enough to know a bin
    assert (ops.sobel_magnitude(image)[:, 2:5] == 0).all()
    assert (ops.sobel_magnitude(image)[3:5, :2] == 1).all()


def test_total_variation_by_hand() -> None:
    assert ops.total_variation(torch.full((2, 3, 4), 7.0)) == 0
    assert ops.total_variation(2 * torch.arange(5.0).expand(2, 3, 5)) == 1  # 2 along W, 0 along H
    assert ops.total_variation(torch.tensor([[0.0, 1.0], [3.0, 0.0]])) == 2  # (1 + 3) / 2 and (3 + 1) / 2
    assert ops.total_variation(torch.ones(1, 1)) == 0
    field = torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(ops.total_variation, field)


def test_axes_from_inner_products_of_genes_are_those_of_lanczos(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sections = [sp.random_array((30, 90), density=0.4, rng=rng, format="csr") for _ in range(2)]
    smoothers = [sp.csr_array(rng.random((30, 30))) for _ in range(2)]
    by_gram = ops.smoothed_axes(sections, 6, smoothers)
    monkeypatch.setattr(ops, "DENSE", 0)
    np.testing.assert_allclose(by_gram, ops.smoothed_axes(sections, 6, smoothers), atol=1e-8)


def test_graphs_of_several_weightings_are_those_made_one_by_one() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((40, 12)), rng.random((30, 12)) ** 2
    a[:, 4] = b[:, 4] = 1  # a gene without variance correlates with none
    weights = [(1.0, 0.0), (0.25, 0.75), (0.0, 1.0)]
    made = ops.pearson_graphs([a, b], weights, n_edges=11, chunk=5)
    for graph, (share_a, share_b) in zip(made, weights, strict=True):
        covariance = share_a * np.cov(a.T, bias=True) + share_b * np.cov(b.T, bias=True)
        length = np.sqrt(np.diagonal(covariance))
        expected = (
            covariance / np.where(length > 1e-9, length, np.inf) / np.where(length > 1e-9, length, np.inf)[:, None]
        )
        np.fill_diagonal(expected, 0)
        np.testing.assert_allclose(graph.toarray(), expected, atol=1e-6)
        assert graph[[4]].nnz == 0


def test_spots_that_coincide_with_others_do_not_make_the_spacing_zero() -> None:
    assert ops.spacing(np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 14.0]])) == 5  # of 5, 5 and 10


def test_operators_have_a_row_a_target_and_a_column_a_source() -> None:
    source, target = np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]]), np.array([[19.0, 1.0], [2.0, 0.0]])
    np.testing.assert_array_equal(ops.nearest_operator(source, target).toarray(), [[0, 0, 1], [1, 0, 0]])
    two = ops.gaussian_operator(source, target, 10.0, n_neighbors=2).toarray()
    assert (two > 0).tolist() == [[False, True, True], [True, True, False]]
    near, far = np.exp(-0.5 * 0.2**2), np.exp(-0.5 * 0.8**2)
    np.testing.assert_allclose(two[1], [near / (near + far), far / (near + far), 0], rtol=1e-9)


def test_centred_by_hand_and_exactly_zero_without_variance() -> None:
    values = np.array([[1.0, 0.1, 100.0, 100.0, 0.0], [2, 0.1, 100.00001, 100.01, 0], [6, 0.1, 100, 100, 0]])
    centred = ops.centred(values)
    np.testing.assert_allclose(centred[:, 0], [-2, -1, 3])
    np.testing.assert_array_equal(centred[:, [1, 2, 4]], 0)  # a ten-millionth of the values is rounding
    np.testing.assert_allclose(centred[:, 3], [-0.01 / 3, 0.02 / 3, -0.01 / 3])
    np.testing.assert_allclose(ops.centred(1e-9 * values), 1e-9 * centred, atol=1e-18)  # small is not rounding


def test_local_noise_is_half_the_mean_square_of_what_neighbours_differ_by() -> None:
    xy, values = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0], [10.0, 0.0]]), np.array([[1.0], [3.0], [5.0], [9.0]])
    np.testing.assert_allclose(ops.local_noise(xy, values), [(4 + 4 + 16 + 16) / 4 / 2])
    np.testing.assert_allclose(ops.local_noise(xy, sp.csr_array(values)), [5])


def test_parts_by_hand() -> None:
    patch = ops.partition(square_array(4), 4).reshape(4, 4)
    assert len(np.unique(patch)) == 4
    for rows, columns in [(slice(a, a + 2), slice(b, b + 2)) for a in (0, 2) for b in (0, 2)]:
        assert len(np.unique(patch[rows, columns])) == 1
    blocks = [(slice(0, 2), sp.csr_array([[2.0, 0.0], [4.0, 1.0]])), (slice(2, 3), sp.csr_array([[6.0, 0.0]]))]
    np.testing.assert_array_equal(ops.patch_means(np.array([0, 1, 0]), blocks, 2), [[4, 0], [4, 1]])


def test_parts_are_as_many_as_are_wanted_and_do_not_depend_on_the_order() -> None:
    xy = np.random.default_rng(0).random((500, 2)) * [9, 3]
    order = np.random.default_rng(1).permutation(500)
    for n in (1, 7, 120, 499):
        part, other = ops.partition(xy, n), ops.partition(xy[order], n)
        size = np.bincount(part)
        assert len(size) == n
        assert size.max() - size.min() <= 1 + (500 % n > 0)
        np.testing.assert_array_equal(other, part[order])
    np.testing.assert_array_equal(ops.partition(xy, 500), np.arange(500))


def test_graph_values_are_patches_of_at_most_so_many_rows_and_smoothed_at_every_size() -> None:
    xy, x = square_array(4), sp.csr_array(np.arange(16.0)[:, None])
    smooth = ops.gaussian_operator(xy, xy, 0.6) @ x.toarray()
    np.testing.assert_allclose(ops.graph_values(xy, x, 0.6, most=16), smooth, rtol=1e-6)
    means = np.array([0 + 1 + 4 + 5, 2 + 3 + 6 + 7, 8 + 9 + 12 + 13, 10 + 11 + 14 + 15]) / 4
    centres = np.array([[0.5, 0.5], [2.5, 0.5], [0.5, 2.5], [2.5, 2.5]])
    smooth = ops.gaussian_operator(centres, centres, 0.6) @ means
    np.testing.assert_allclose(np.sort(ops.graph_values(xy, x, 0.6, most=4).ravel()), smooth, rtol=1e-6)


def test_most_variable_takes_genes_seen_in_exactly_the_least_share() -> None:
    x = np.zeros((10, 3))
    x[:5, 0], x[:2, 1], x[:10, 2] = 1, 9, 2  # variances 0.25, 12.96 and 0
    assert ops.most_variable([moments(sp.csr_array(x))], 3, detected=0.5).tolist() == [0, 2]
    assert ops.most_variable([moments(sp.csr_array(x))], 3).tolist() == [1, 0, 2]
    other = x[:, [1, 0, 2]]  # there, the first gene is seen too seldom
    both = [moments(sp.csr_array(x)), moments(sp.csr_array(other))]
    assert ops.most_variable(both, 3, detected=0.5).tolist() == [2]


def test_sample_by_hand() -> None:
    maps = torch.arange(12.0).view(1, 3, 4)
    lattice = Lattice((10.0, 20.0), 2.0, (3, 4))
    points = np.array([[10.0, 20.0], [13.0, 20.0], [10.0, 23.0], [15.0, 22.0], [99.0, 99.0], [-99.0, 20.0]])
    values = ops.sample(torch.cat([maps, -maps]), lattice, points)
    expected = torch.tensor([0.0, 1.5, 6.0, 6.5, 11.0, 0.0])
    torch.testing.assert_close(values, torch.stack([expected, -expected], dim=1))
    one_row = Lattice((10.0, 20.0), 2.0, (1, 4))
    torch.testing.assert_close(ops.sample(maps[:, :1], one_row, points[:2]), torch.tensor([[0.0], [1.5]]))
    one_column = Lattice((10.0, 20.0), 2.0, (3, 1))
    torch.testing.assert_close(ops.sample(maps[:, :, :1], one_column, points[[0, 2]]), torch.tensor([[0.0], [6.0]]))


def test_taps_run_row_by_row() -> None:
    assert ops.taps(1) == [(0, 0)]
    assert ops.taps(9) == [(-1, -1), (0, -1), (1, -1), (-1, 0), (0, 0), (1, 0), (-1, 1), (0, 1), (1, 1)]


@pytest.mark.parametrize("brightness", [1e-3, 1.0, 1e3])
def test_sobel_magnitude_takes_a_millionth_of_the_brightness_for_rounding(brightness: float) -> None:
    image = torch.full((1, 6, 6), brightness, dtype=torch.float64)
    image[:, :, 3:] *= 1 + 1e-6  # the amplitude is half the step
    assert (ops.sobel_magnitude(image) == 0).all()
    image[:, :, 3:] *= 1 + 1e-5
    assert (ops.sobel_magnitude(image)[:, 2:4] == 1).all()


def test_sobel_magnitude_is_one_at_the_99th_percentile() -> None:
    x = torch.arange(202.0, dtype=torch.float64)
    magnitude = ops.sobel_magnitude((x**2).view(1, 1, 202))
    # the amplitude is 2x but at both ends: of 202 values, number 1 + ceil(0.99 · 201) is the last but two, 396
    torch.testing.assert_close(magnitude[0, 1:199], x[1:199] / 198)
    assert (magnitude[0, 199:201] == 1).all()


def test_pearson_graph_as_printed_divides_by_squared_norms() -> None:
    values = np.random.default_rng(0).random((30, 4))
    deviation = values - values.mean(axis=0)
    expected = deviation.T @ deviation / np.outer(*[(deviation**2).sum(axis=0)] * 2) * len(values)
    np.fill_diagonal(expected, 0)
    found = ops.pearson_graph([values], [1.0], 3, power=2).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
