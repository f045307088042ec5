from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from c2sti import field
from c2sti.field import Detail, Field, Kernel, Observed, _field, _kernel


def test_kernel_by_hand() -> None:
    kernel = Kernel(2.0, 0.5, 0.9)
    x, z = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64), torch.tensor([0.0, 3.0], dtype=torch.float64)
    expected = [[1.0, 0.5 * 0.9**9 * np.exp(-0.5)], [0.5 * 0.9**9 * np.exp(-0.5), 1.0]]
    np.testing.assert_allclose(kernel(x, z, x, z).numpy(), expected)
    rough = Kernel(2.0, 0.5, 0.9, gaussian=False)
    between = 0.5 * 0.9**9 * (1 + 3**0.5) * np.exp(-(3**0.5))
    np.testing.assert_allclose(rough(x, z, x, z).numpy(), [[1.0, between], [between, 1.0]])


def observed(x: np.ndarray, z: np.ndarray | float, values: np.ndarray, variance: np.ndarray | float = 1.0) -> Observed:
    ones = np.ones(len(x))
    return Observed.of(x, z * ones, values, variance * ones, "cpu")


def one_length(seen: Observed, kernel: Kernel, noise: np.ndarray, scale: np.ndarray | float = 1.0) -> Field:
    r = torch.as_tensor(noise, dtype=torch.float64)
    one = torch.ones_like(r)
    return Field((field.Part(seen, kernel, r, one * torch.as_tensor(scale), one),))


def test_the_spectrum_solves_the_linear_system_of_every_map() -> None:
    kernel = Kernel(1.5, 0.8, 0.7)
    rng = np.random.default_rng(0)
    seen = observed(
        rng.random((40, 2)) * 5, np.repeat([0.0, 1.0], 20), rng.standard_normal((40, 3)), rng.random(40) + 0.5
    )
    noise = torch.tensor([0.1, 2.0, 0.1], dtype=torch.float64)
    weights = field.Spectrum.of(kernel, seen).solve(seen.values, noise)
    covariance = kernel(seen.x, seen.z, seen.x, seen.z)
    for k in range(3):
        restored = (covariance + noise[k] * torch.diag(seen.variance)) @ weights[:, k]
        torch.testing.assert_close(restored, seen.values[:, k])


@pytest.mark.parametrize("n", [2, 30])
def test_evidence_is_that_of_the_dense_gaussian(n: int) -> None:
    kernel = Kernel(1.5, 0.8, 0.7)
    rng = np.random.default_rng(0)
    x, z = torch.as_tensor(rng.random((n, 2)) * 5), torch.zeros(n, dtype=torch.float64)
    values = torch.as_tensor(rng.standard_normal((n, 2)))
    found = _kernel.misfits_of(kernel, Observed(x, z, values, torch.ones(n, dtype=torch.float64)))
    for r in (0, 10, 19):
        covariance = kernel(x, z, x, z) + field.NOISES[r] * torch.eye(n)
        for k in range(2):
            f = values[:, k]
            variance = f @ torch.linalg.solve(covariance, f) / n
            expected = 0.5 * n * torch.log(variance) + 0.5 * torch.logdet(covariance)
            torch.testing.assert_close(found[r, k], expected, rtol=1e-6, atol=1e-6)


def test_every_target_is_in_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_field, "MOST", 10)
    x = np.random.default_rng(0).random((900, 2)) * 60
    target = np.concatenate([x, [[1e4, 1e4]]])  # one beyond all spots belongs to the nearest tile
    tiles = list(_field.tiles_of(x, target, 1.0))
    assert len(tiles) > 20
    assert sorted(np.concatenate([tile.here for tile in tiles])) == list(range(901))
    for tile in tiles:
        assert ((tile.weight > 0) & (tile.weight <= 1)).all()
        assert set(tile.here) - {900} <= set(tile.near)  # places that are spots see themselves, in full
        np.testing.assert_array_equal(tile.weight[np.isin(tile.near, tile.here)], 1)


def test_a_tile_is_halved_only_where_that_is_less_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_field, "MOST", 10)
    x = np.random.default_rng(0).random((300, 2)) * 10
    assert len(list(_field.tiles_of(x, x, 20.0))) == 1  # all see all
    assert len(list(_field.tiles_of(x, x, 0.5))) > 1


def test_what_a_tile_sees_fades_out() -> None:
    """A spot that crosses the end of what is seen changes nothing at once."""
    low, high, line = (
        np.zeros(2),
        np.ones(2),
        np.column_stack([np.linspace(1, 1 + _field.HALO + 0.5, 400), np.full(400, 0.5)]),
    )
    near, weight = _field._in_reach(line, np.arange(400), low, high, 1.0)
    assert line[near[-1], 0] < 1 + _field.HALO
    assert np.abs(np.diff(weight)).max() < 0.02
    assert weight[-1] < 1e-3


def test_noisier_spots_count_for_less() -> None:
    x = np.array([[0.0, 0.0], [0.0, 1e-6]] * 8) + np.repeat(np.arange(8), 2)[:, None] * [9.0, 0.0]
    values = np.tile([[1.0], [-1.0]], (8, 1))
    made = one_length(observed(x, 0.0, values, np.tile([0.5, 4.0], 8)), Kernel(1.0, 0.5, 0.5), np.ones(1), 2.0)
    # Two spots at one place: precision-weighted mean (1/0.5 - 1/4) / (1/0.5 + 1/4 + 1) of a unit-variance field.
    np.testing.assert_allclose(made.at(x[:1], [0.0])[0], (2 - 0.25) / (2 + 0.25 + 1), atol=1e-5)
    # And its posterior variance, σ² = 2 times 1 / (1 + 1/0.5 + 1/4); far away from everything, σ².
    np.testing.assert_allclose(made.variance_at(x[:1], [0.0]), 2 / 3.25, atol=1e-5)
    np.testing.assert_allclose(made.variance_at(x[:1] - 50, [0.0]), 2)


def test_posterior_variance_is_that_of_the_dense_gaussian() -> None:
    rng = np.random.default_rng(1)
    v = np.concatenate([np.linspace(0.5, 2, 9), np.linspace(2, 0.5, 8)])
    seen = observed(rng.random((17, 2)) * 4, np.repeat([0.0, 1.0], [9, 8]), rng.random((17, 3)), v)
    kernel, r, scale = Kernel(1.5, 0.8, 0.7), np.array([0.3, 2.0, 0.3]), np.array([1.0, 5.0, 2.0])
    made = one_length(seen, kernel, r, scale)
    at, z = rng.random((4, 2)) * 4, torch.full((4,), 0.5, dtype=torch.float64)
    cross = kernel(torch.as_tensor(at), z, seen.x, seen.z).numpy()
    for k in range(3):
        covariance = kernel(seen.x, seen.z, seen.x, seen.z).numpy() + r[k] * np.diag(v)
        expected = scale[k] * (1 - np.einsum("ij,jk,ik->i", cross, np.linalg.inv(covariance), cross))
        np.testing.assert_allclose(made.variance_at(at, [0.5])[0, :, k], expected, rtol=1e-5)


def test_a_map_is_a_mean_over_length_scales_by_its_evidence() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack(np.divmod(np.arange(400), 20)).astype(float)
    coarse, fine = (gaussian_filter(rng.standard_normal((20, 20)), width, mode="wrap").ravel() for width in (4.0, 0.8))
    values = np.column_stack([m / m.std() for m in (coarse, fine)]) + 0.1 * rng.standard_normal((400, 2))
    made = Field.learn(observed(x, 0.0, values), Kernel(3.0, 0.75, 0.7, gaussian=False), 0, own_lengths=True)
    shares = torch.stack([part.share for part in made.parts])
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(2, dtype=torch.float64))
    length = torch.tensor([part.kernel.length for part in made.parts], dtype=torch.float64) @ shares
    assert length[0] > length[1]
    mixed = sum(
        part.share.numpy() * one_length(part.observed, part.kernel, part.noise.numpy()).at(x, [0.0])[0]
        for part in made.parts
    )
    np.testing.assert_allclose(made.at(x, [0.0])[0], mixed, atol=1e-5)


def test_noise_lies_between_the_steps_of_its_grid() -> None:
    """The evidence is a curve: a little more noise is found to be a little more, not nothing or a step."""
    rng = np.random.default_rng(3)
    x = np.column_stack(np.divmod(np.arange(400), 20)).astype(float)
    smooth = gaussian_filter(rng.standard_normal((20, 20)), 2.0, mode="wrap").ravel()
    noise = rng.standard_normal(400)
    kernel = Kernel(2.2, 0.75, 0.7, gaussian=False)
    found = []
    for size in np.linspace(0.5, 0.7, 21):
        values = (smooth / smooth.std() + size * noise)[:, None]
        found.append(float(Field.learn(observed(x, 0.0, values), kernel, 0, own_lengths=False).parts[0].noise[0]))
    steps = np.diff(np.log(found))
    assert (steps > 0).all()
    assert steps.max() < 0.25 * np.log(field.NOISES[1] / field.NOISES[0])


def test_a_field_that_keeps_what_it_has_solved_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_field, "MOST", 30)
    rng = np.random.default_rng(0)
    x = rng.random((300, 2)) * 40
    made = one_length(
        observed(x, np.repeat([0.0, 1.0], 150), rng.standard_normal((300, 2))),
        Kernel(1.0, 0.75, 0.7),
        np.array([0.5, 1.0]),
    )
    kept = made.keeping()
    for places, z in ((x[:50], 0.3), (x[40:], 0.8), (x + 1, 0.3)):
        np.testing.assert_array_equal(kept.at(places, [z]), made.at(places, [z]))
    solved = []
    monkeypatch.setattr("c2sti.field._field.Spectrum.of", lambda *_: solved.append(1))
    kept.at(x, [0.1])
    assert not solved


@pytest.mark.parametrize(("ratio", "most"), [(0.1, 0.001), (20.0, 0.02)])
def test_tiles_leave_no_seams(ratio: float, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a tile does not see of the tissue beyond makes it differ from the exact answer, most where noise calls for
    # wide means; no step at a border may be told from the map itself.
    side, kernel = 40, Kernel(2.2, 0.75, 0.7, gaussian=False)
    x = np.column_stack(np.divmod(np.arange(side**2), side)).astype(float)
    rng = np.random.default_rng(0)
    values = gaussian_filter(rng.standard_normal((side, side)), 2.0, mode="wrap").reshape(-1, 1)
    values = values / values.std() + np.sqrt(ratio) * rng.standard_normal(values.shape)
    seen = observed(x, 0.0, values)
    exact = one_length(seen, kernel, np.array([ratio])).at(x, [0.5])[0].reshape(side, side)
    monkeypatch.setattr("c2sti.field._field.MOST", 10)
    off = one_length(seen, kernel, np.array([ratio])).at(x, [0.5])[0].reshape(side, side) - exact
    assert 0 < np.abs(np.diff(off, axis=0)).max() < most * exact.std()
    assert np.abs(off).max() < most * exact.std()


def test_weak_maps_take_the_length_scale_of_most() -> None:
    misfits = torch.tensor([[0.0] * 9 + [0.0, 5.0], [4.0] * 9 + [0.0, 0.0]], dtype=torch.float64)
    shares = _field._posterior(misfits)
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(11, dtype=torch.float64))
    usual = shares.mean(dim=1)
    torch.testing.assert_close(shares[0, 9], usual[0], atol=1e-3, rtol=0)  # says nothing itself
    assert usual[0] > 0.85
    assert shares[1, 10] > 0.9  # says enough


def test_sections_that_are_nearly_the_same_are_told_from_those_that_are_alike() -> None:
    x = np.stack(np.meshgrid(np.arange(12), np.arange(12)), axis=-1).reshape(-1, 2).astype(float)
    places, rng = torch.as_tensor(x), np.random.default_rng(0)
    covariance = Kernel(2.5, 1.0, 1.0, gaussian=False).within(places, places) + 1e-8 * torch.eye(len(x))
    first, other = torch.linalg.cholesky(covariance).numpy() @ rng.standard_normal((2, len(x), 20))
    found = []
    for b in (0.9, 0.99):
        values = np.concatenate([first, b * first + (1 - b**2) ** 0.5 * other])
        seen = [
            observed(
                np.concatenate([x, x]), np.repeat([0.0, 1.0], len(x)), values + 0.3 * rng.standard_normal(values.shape)
            )
        ]
        kernel = Kernel(2.5, 0.75, 0.7, gaussian=False)
        best = field.best_sharing(kernel, seen, field.NEARLY_SAME)
        found.append(best.correlation)
        assert field.log_evidence(best, seen) > field.log_evidence(kernel, seen)
    assert found[0] == pytest.approx(0.9, abs=0.03)
    assert found[1] > 0.97


# ---- detail


ROUGH = Kernel(3.0, 0.9, 0.9, gaussian=False)


def sections(shared: float, seed: int = 0, n: int = 18, n_maps: int = 40) -> tuple[Observed, np.ndarray]:
    """Maps of three sections and detail on top, the middle one held out; with the (n², K) values of that one.

    Detail follows a chain from section to section with the correlation `shared`.
    """
    rng = np.random.default_rng(seed)
    x = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)
    places, z = torch.as_tensor(np.tile(x, (3, 1))), torch.as_tensor(np.repeat([0.0, 0.5, 1.0], n * n))
    covariance = ROUGH(places, z, places, z) + 1e-8 * torch.eye(3 * n * n)
    maps = (torch.linalg.cholesky(covariance).numpy() @ rng.standard_normal((3 * n * n, n_maps))).reshape(3, n * n, -1)
    own = [rng.standard_normal((n * n, n_maps))]
    for _ in range(2):
        own.append(shared * own[-1] + (1 - shared**2) ** 0.5 * rng.standard_normal((n * n, n_maps)))
    a, held_out, b = maps + 0.7 * np.stack(own)
    return observed(np.concatenate([x, x]), np.repeat([0.0, 1.0], n * n), np.concatenate([a, b])), held_out


def learnt(seen: Observed, **how: object) -> Field:
    return Field.learn(seen, ROUGH, 0, own_lengths=False, **how)


def detail_of(seen: Observed) -> Detail:
    maps = [(part.kernel, part.scale, part.noise * part.scale) for part in learnt(seen).parts]
    return Detail.of([seen], maps)


def test_the_correlation_of_detail_is_that_of_the_sections() -> None:
    none, some, much = (detail_of(sections(shared)[0]) for shared in (0.0, 0.5, 0.9))
    assert none.correlation == pytest.approx(0, abs=0.03)
    assert none.shown == 0
    assert some.correlation == pytest.approx(0.5**2, abs=0.05)
    assert some.correlation - 0.02 < some.shown < some.correlation
    assert some.kernel.decay == pytest.approx(some.shown**0.5)
    assert 1 / (1 + some.noise) == pytest.approx(some.shown**0.5)
    assert much.shown > 0.8
    assert {found.gap for found in (none, some, much)} == {1}


def test_shared_detail_brings_the_answer_nearer() -> None:
    seen, truth = sections(0.9)
    x = seen.x[seen.z == 0].numpy()
    detailed = learnt(
        seen, spots=lambda rows: seen[np.arange(len(seen.x))[rows]], windows_of_spots=[np.arange(len(seen.x))]
    )
    assert len(detailed.parts) == 2
    before, after = (np.square(made.at(x, [0.5])[0] - truth).mean() for made in (learnt(seen), detailed))
    assert after < 0.8 * before
    assert (detailed.variance_at(x, [0.5]) > 0).all()


def test_detail_at_one_spot_by_hand() -> None:
    seen = observed(np.zeros((2, 2)), np.array([0.0, 1.0]), np.array([[1.0], [3.0]]))
    flat = one_length(seen, Kernel(3.0, 0.5, 0.5), np.array([1e12]), 0.0)  # says nothing
    shared = Detail(0.25, 0.0, 1.0)  # s and ρ are 1/2
    found = flat.with_detail(seen, shared).at(np.zeros((1, 2)), [0.5])[0]
    # (C + V) w = c with C = s [[1, ρ], [ρ, 1]], V = (1 - s) I, c = s ρ^(1/2)
    weight = 0.5 * 0.5**0.5 / (0.5 * 1.5 + 0.5)
    assert found.item() == pytest.approx(4 * weight, rel=1e-5)


def test_too_few_spots_say_nothing() -> None:
    seen = sections(0.9)[0]
    maps = [(ROUGH, torch.ones(40), 0.49 * torch.ones(40))]
    assert Detail.of([seen[np.r_[0:6, 324:330]]], maps) == Detail()
    assert Detail.of([seen], maps).shown > 0
    seen.x[seen.z == 1] += 100
    assert Detail.of([seen], maps) == Detail()
