from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from c2sti import field
from c2sti.field import Field, Kernel, Observed, observe


def test_kernel_by_hand() -> None:
    kernel = Kernel(2.0, 0.5, 0.9)
    x, z = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64), torch.tensor([0.0, 3.0], dtype=torch.float64)
    expected = [[1.0, 0.5 * 0.9**9 * np.exp(-0.5)], [0.5 * 0.9**9 * np.exp(-0.5), 1.0]]
    np.testing.assert_allclose(kernel(x, z, x, z).numpy(), expected)
    rough = Kernel(2.0, 0.5, 0.9, gaussian=False)
    between = 0.5 * 0.9**9 * (1 + 3**0.5) * np.exp(-(3**0.5))
    np.testing.assert_allclose(rough(x, z, x, z).numpy(), [[1.0, between], [between, 1.0]])


def test_posterior_solves_the_linear_system_of_every_axis() -> None:
    kernel = Kernel(1.5, 0.8, 0.7)
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.random((40, 2)) * 5)
    z = torch.as_tensor(np.repeat([0.0, 1.0], 20))
    values, noise = torch.as_tensor(rng.standard_normal((40, 3))), torch.tensor([0.1, 2.0, 0.1], dtype=torch.float64)
    variance = torch.as_tensor(rng.random(40) + 0.5)
    weights = field._posterior(kernel, Observed(x, z, values, variance), noise)
    covariance = kernel(x, z, x, z)
    for k in range(3):
        restored = (covariance + noise[k] * torch.diag(variance)) @ weights[:, k]
        torch.testing.assert_close(restored, values[:, k])


@pytest.mark.parametrize("n", [2, 30])
def test_evidence_is_that_of_the_dense_gaussian(n: int) -> None:
    kernel = Kernel(1.5, 0.8, 0.7)
    rng = np.random.default_rng(0)
    x, z = torch.as_tensor(rng.random((n, 2)) * 5), torch.zeros(n, dtype=torch.float64)
    values = torch.as_tensor(rng.standard_normal((n, 2)))
    found = field._misfit(kernel(x, z, x, z), Observed(x, z, values, torch.ones(n, dtype=torch.float64)))
    for r in (0, 10, 19):
        covariance = kernel(x, z, x, z) + field.NOISES[r] * torch.eye(n)
        for k in range(2):
            f = values[:, k]
            variance = f @ torch.linalg.solve(covariance, f) / n
            expected = 0.5 * n * torch.log(variance) + 0.5 * torch.logdet(covariance)
            torch.testing.assert_close(found[r, k], expected, rtol=1e-6, atol=1e-6)


def test_every_target_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "EXACT", 10)
    x = torch.as_tensor(np.random.default_rng(0).random((300, 2)) * 40)
    observed = Observed(
        x, torch.zeros(300, dtype=torch.float64), torch.zeros((300, 1), dtype=torch.float64), torch.ones(300)
    )
    tiles = list(field._tiles(observed, x, Kernel(1.0, 0.5, 0.5)))
    assert len(tiles) > 20
    assert sorted(np.concatenate([here for here, *_ in tiles])) == list(range(300))
    assert sum(share for *_, share in tiles) == pytest.approx(1)


def test_targets_far_from_every_spot_are_in_no_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "EXACT", 10)
    x = torch.as_tensor(np.random.default_rng(0).random((30, 2)))
    zeros = torch.zeros((30, 1), dtype=torch.float64)
    observed = Observed(x, zeros[:, 0], zeros, torch.ones(30, dtype=torch.float64))
    target = torch.tensor([[0.5, 0.5], [1e4, 1e4]], dtype=torch.float64)
    ((here, near, share),) = field._tiles(observed, target, Kernel(1.0, 0.5, 0.5))
    assert (here.tolist(), sorted(near), share) == ([0], list(range(30)), 0.5)


def test_noisier_spots_count_for_less() -> None:
    x = np.array([[0.0, 0.0], [0.0, 1e-6]] * 8) + np.repeat(np.arange(8), 2)[:, None] * [9.0, 0.0]
    values = np.tile([[1.0], [-1.0]], (8, 1))
    made = Field(
        observe([x], [0.0], [values], variances=[np.tile([0.5, 4.0], 8)], device="cpu"),
        Kernel(1.0, 0.5, 0.5),
        torch.ones(1, dtype=torch.float64),
        torch.full((1,), 2.0, dtype=torch.float64),
    )
    # Two spots at one place: precision-weighted mean (1/0.5 - 1/4) / (1/0.5 + 1/4 + 1) of a unit-variance field.
    np.testing.assert_allclose(made.at(x[:1], [0.0])[0], (2 - 0.25) / (2 + 0.25 + 1), atol=1e-5)
    # And its posterior variance, σ² = 2 times 1 / (1 + 1/0.5 + 1/4); far away from everything, σ².
    np.testing.assert_allclose(made.variance_at(x[:1], [0.0]), 2 / 3.25, atol=1e-5)
    np.testing.assert_allclose(made.variance_at(x[:1] - 50, [0.0]), 2)


def test_posterior_variance_is_that_of_the_dense_gaussian() -> None:
    rng = np.random.default_rng(1)
    places, v = [rng.random((9, 2)) * 4, rng.random((8, 2)) * 4], [np.linspace(0.5, 2, 9), np.linspace(2, 0.5, 8)]
    seen = observe(places, [0.0, 1.0], [rng.random((9, 3)), rng.random((8, 3))], variances=v, device="cpu")
    kernel, r, scale = Kernel(1.5, 0.8, 0.7), np.array([0.3, 2.0, 0.3]), np.array([1.0, 5.0, 2.0])
    made = Field(seen, kernel, torch.as_tensor(r), torch.as_tensor(scale))
    at, z = rng.random((4, 2)) * 4, torch.full((4,), 0.5, dtype=torch.float64)
    cross = kernel(torch.as_tensor(at), z, seen.x, seen.z).numpy()
    for k in range(3):
        covariance = kernel(seen.x, seen.z, seen.x, seen.z).numpy() + r[k] * np.diag(np.concatenate(v))
        expected = scale[k] * (1 - np.einsum("ij,jk,ik->i", cross, np.linalg.inv(covariance), cross))
        np.testing.assert_allclose(made.variance_at(at, [0.5])[0, :, k], expected, rtol=1e-8)


def test_the_spectrum_solves_what_the_tiles_factorise() -> None:
    rng = np.random.default_rng(2)
    seen = observe(
        [rng.random((9, 2)) * 4], [0.0], [rng.random((9, 4))], variances=[np.linspace(0.5, 2, 9)], device="cpu"
    )
    kernel, noise = Kernel(1.5, 0.8, 0.7), torch.tensor([0.1, 2.0, 0.1, 30.0], dtype=torch.float64)
    spectrum = field._spectrum(kernel, seen)
    torch.testing.assert_close(spectrum.weights(seen.values, noise), field._posterior(kernel, seen, noise))


def test_parts_of_a_field_put_together_are_the_field() -> None:
    rng = np.random.default_rng(3)
    places = [rng.random((20, 2)) * 6, rng.random((25, 2)) * 6]
    seen = observe(places, [0.0, 1.0], [rng.standard_normal((20, 5)), rng.standard_normal((25, 5))], device="cpu")
    made = Field.with_kernel(seen, Kernel(1.5, 0.75, 0.7), 0)
    parts = made.split([2, 3])
    whole = made.at(places[0], [0.3])
    np.testing.assert_allclose(np.concatenate([p.at(places[0], [0.3]) for p in parts], axis=2), whole, rtol=1e-10)
    np.testing.assert_array_equal(Field.joined(parts).at(places[0], [0.3]), whole)
    # Each map chooses its noise by itself.
    alone = Field.with_kernel(parts[1].observed, made.kernel, 0)
    torch.testing.assert_close(alone.noise, parts[1].noise)
    torch.testing.assert_close(alone.scale, parts[1].scale)


@pytest.mark.parametrize(("ratio", "most"), [(0.1, 0.001), (20.0, 0.02)])
def test_tiles_leave_no_seams(ratio: float, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a tile does not see of the tissue beyond makes it differ from the exact answer, most where noise calls for
    # wide means; no step at a border may be told from the map itself.
    side, kernel = 28, Kernel(2.2, 0.75, 0.7, gaussian=False)
    x = np.column_stack(np.divmod(np.arange(side**2), side)).astype(float)
    rng = np.random.default_rng(0)
    values = gaussian_filter(rng.standard_normal((side, side)), 2.0, mode="wrap").reshape(-1, 1)
    values = values / values.std() + np.sqrt(ratio) * rng.standard_normal(values.shape)
    observed = observe([x], [0.0], [values], device="cpu")
    one = torch.ones(1, dtype=torch.float64)
    exact = Field(observed, kernel, ratio * one, one).at(x, [0.5])[0].reshape(side, side)
    monkeypatch.setattr("c2sti.field.EXACT", 10)
    off = Field(observed, kernel, ratio * one, one).at(x, [0.5])[0].reshape(side, side) - exact
    assert 0 < np.abs(np.diff(off, axis=0)).max() < most * exact.std()
    assert np.abs(off).max() < most * exact.std()
