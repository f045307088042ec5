from __future__ import annotations

import numpy as np
import pytest

from c2sti import metrics

rng = np.random.default_rng(0)
X = rng.random((30, 6))


def test_pcc_is_numpys_signed_and_counts_the_undefined_as_zero() -> None:
    y = rng.random((30, 6))
    expected = [np.corrcoef(X[:, j], y[:, j])[0, 1] for j in range(6)]
    np.testing.assert_allclose(metrics.gene_pcc(X, y), expected, atol=1e-12)
    assert metrics.pcc(X, -X) == pytest.approx(-1)
    flat = X.copy()
    flat[:, :3] = 1.0
    assert metrics.pcc(flat, X) == pytest.approx(0.5)


def test_scores_ignore_shift_and_scale_where_they_should() -> None:
    assert metrics.pcc(3 * X + 2, X) == pytest.approx(1)
    assert metrics.rv(3 * X + 2, X) == pytest.approx(1)
    assert metrics.pcc(1e-4 * X, X) == pytest.approx(1)  # faint is not flat
    assert metrics.rmse(X + 2, X) == pytest.approx(2)


def test_mask_leaves_rows_out() -> None:
    y = X.copy()
    y[:10] = 99.0
    mask = np.arange(30) >= 10
    assert metrics.rmse(y, X, mask=mask) == 0
    assert metrics.pcc(y, X, mask=mask) == pytest.approx(1)


def test_psnr_by_hand_and_of_identical_matrices() -> None:
    assert metrics.psnr(np.zeros((4, 4)), np.full((4, 4), 0.1), data_range=1.0) == pytest.approx(20)
    assert metrics.psnr(X, X, data_range=1.0) == float("inf")


def test_psnr_changes_with_the_range_so_it_must_be_given() -> None:
    y = X + 0.1
    assert metrics.psnr(X, y, data_range=10.0) - metrics.psnr(X, y, data_range=1.0) == pytest.approx(20)
    with pytest.raises(TypeError, match="data_range"):
        metrics.psnr(X, y)  # type: ignore[call-arg]


def test_ssim_is_one_for_equal_maps_and_falls_with_noise() -> None:
    maps = rng.random((3, 16, 16))
    noisy = maps + 0.3 * rng.standard_normal(maps.shape)
    assert metrics.ssim(maps, maps, data_range=1.0) == pytest.approx(1)
    assert metrics.ssim(noisy, maps, data_range=1.0) < 0.9
    assert metrics.ssim(maps[:, :9], maps[:, :9], data_range=1.0) == pytest.approx(1)
    mask = np.zeros((16, 16), dtype=bool)
    mask[:4] = True
    half = noisy.copy()
    half[:, :10] = maps[:, :10]  # the window of the local similarity reaches three rows further
    assert metrics.ssim(half, maps, data_range=1.0, mask=mask) == pytest.approx(1)


def test_ceiling_rises_with_depth_and_bounds_a_perfect_prediction() -> None:
    rates = np.exp(rng.standard_normal((300, 20)))
    scores, reached = [], []
    for depth in (20, 200, 20_000):
        counts = rng.poisson(rates / rates.sum(axis=1, keepdims=True) * depth)
        scores.append(metrics.ceiling(counts))
        truth = np.log1p(rates / rates.sum(axis=1, keepdims=True) * 1e4)
        reached.append(metrics.pcc(truth, metrics._log_normalise(counts)))
    assert scores == sorted(scores)
    assert scores[-1] > 0.97
    assert all(r < c + 0.03 for r, c in zip(reached, scores, strict=True))


def test_ceiling_is_seeded_and_takes_a_choice_of_genes() -> None:
    counts = rng.poisson(3.0, (50, 8))
    assert metrics.ceiling(counts, seed=1) == metrics.ceiling(counts, seed=1)
    assert metrics.ceiling(counts, genes=np.array([0, 1])) != metrics.ceiling(counts)
    assert metrics.ceiling(np.zeros((20, 3))) == 0


def test_ceiling_is_the_mean_of_those_of_the_genes() -> None:
    patterns = np.exp(rng.standard_normal((200, 30)))
    counts = rng.poisson(patterns * np.repeat([0.1, 1.0, 50.0], 10))  # no gene makes up most of a spot's counts
    rare, some, many = metrics.gene_ceiling(counts).reshape(3, 10).mean(1)
    assert rare < some < 0.9 < many
    assert metrics.ceiling(counts) == metrics.gene_ceiling(counts).mean()


def test_rv_by_hand() -> None:
    up, bent = [-1.0, 0.0, 1.0], [1.0, -2.0, 1.0]  # these two do not correlate
    one_edge = np.array([up, up, bent]).T * [1.0, 10.0, 5.0]
    assert metrics.rv(one_edge, np.array([up, up, up]).T * [3.0, 1.0, 7.0]) == pytest.approx(2 / np.sqrt(2 * 6))
    assert metrics.rv(one_edge, np.array([up, bent, up]).T) == pytest.approx(0)
    assert metrics.rv(one_edge, np.array([up, np.negative(up), bent]).T) == pytest.approx(-1)


def test_ceiling_is_the_root_of_the_spearman_brown_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "gene_pcc", lambda *halves: np.array([0.5, -0.5, 1.0, 0.0]))
    # 2 · 0.5 / 1.5 of the first; halves that correlate negatively have nothing in common
    assert metrics.ceiling(np.ones((5, 4))) == pytest.approx((np.sqrt(2 / 3) + 0 + 1 + 0) / 4)
