from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti.models import cells
from c2sti.models.cells import Candidates, chosen, moved_counts, moved_expression, nearest_cell, spacing


def section(seed: int) -> NDArray[np.float64]:
    """Cells on a shaken lattice 40 wide, three tenths of which are missing: no two are near each other."""
    rng = np.random.default_rng(seed)
    xy = np.stack(np.meshgrid(np.arange(40.0), np.arange(40.0)), axis=-1).reshape(-1, 2)
    return (xy + rng.uniform(-0.25, 0.25, xy.shape))[rng.random(len(xy)) >= 0.3]


def candidates(p: float, types: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None, seed: int = 0) -> Candidates:
    a, b = section(2 * seed), section(2 * seed + 1)
    second = np.repeat([False, True], [len(a), len(b)])
    codes = np.zeros(len(second), np.intp) if types is None else np.concatenate(types)
    distances = np.concatenate([nearest_cell(a), nearest_cell(b)])
    return Candidates(np.concatenate([a, b]), second, codes, np.where(second, p, 1 - p), distances)


def test_spacing_is_that_of_a_lattice() -> None:
    assert spacing(np.stack(np.meshgrid(np.arange(30.0), np.arange(30.0)), axis=-1).reshape(-1, 2)) == pytest.approx(
        1.0, rel=0.1
    )


def test_right_beside_a_section_its_own_cells_stand() -> None:
    given = candidates(1e-9)
    kept, xy = chosen(given, np.random.default_rng(0))
    assert not given.second[kept].any()
    assert len(kept) == (~given.second).sum()
    np.testing.assert_allclose(xy, given.xy[kept], atol=1e-6)


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_density_and_spacing_are_between_those_of_the_sections(p: float) -> None:
    given = candidates(p)
    kept, xy = chosen(given, np.random.default_rng(0))
    assert len(kept) == pytest.approx(given.share.sum(), rel=0.03)
    assert given.second[kept].mean() == pytest.approx(p, abs=0.07)
    within = np.concatenate([nearest_cell(given.xy[given.second == second]) for second in (False, True)])
    np.testing.assert_allclose(
        np.quantile(nearest_cell(xy), [0.1, 0.5, 0.9]), np.quantile(within, [0.1, 0.5, 0.9]), rtol=0.1
    )
    mixed = given.xy[np.random.default_rng(1).random(len(given.xy)) < given.share]
    assert nearest_cell(mixed).mean() < 0.9 * nearest_cell(xy).mean()


def test_density_is_nearer_to_the_interpolated_one_than_by_chance() -> None:
    given, rng = candidates(0.5), np.random.default_rng(0)
    kept = chosen(given, rng)[0]

    def error(weights: NDArray[np.float64]) -> float:
        bins = (given.xy // 4 + 1).astype(int) @ [1, 12]
        return float(np.square(np.bincount(bins, weights - given.share)).mean())

    by_chance = error((rng.random(len(given.xy)) < given.share).astype(float))
    assert error(np.isin(np.arange(len(given.xy)), kept).astype(float)) < 0.5 * by_chance


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_a_type_of_one_section_fades(p: float) -> None:
    plain = candidates(p)
    types = np.where(plain.second & (plain.xy[:, 0] < 10), 1, 0)
    given = Candidates(plain.xy, plain.second, types, plain.share, plain.nearest)
    kept = chosen(given, np.random.default_rng(0))[0]
    assert (types[kept] == 1).sum() == pytest.approx(p * types.sum(), rel=0.15)


def test_pairs_of_types_are_kept() -> None:
    """Two types in stripes of both sections: few cells of one lie beside the other, as in both."""
    plain = candidates(0.5)
    types = (plain.xy[:, 0] // 5 % 2).astype(np.intp)
    given = Candidates(plain.xy, plain.second, types, plain.share, plain.nearest)
    kept, xy = chosen(given, np.random.default_rng(0))

    def apart(xy: NDArray[np.float64], types: NDArray[np.intp]) -> float:
        return float((types[KDTree(xy).query(xy, k=5)[1][:, 1:]] != types[:, None]).mean())

    own = np.mean([apart(given.xy[given.second == s], types[given.second == s]) for s in (False, True)])
    assert apart(xy, types[kept]) == pytest.approx(own, rel=0.15)


def test_what_lies_outside_is_never_kept_and_what_one_section_has_stays() -> None:
    plain = candidates(0.5)
    outside, alone = plain.xy[:, 1] < 8, plain.second & (plain.xy[:, 1] > 30)
    share = np.where(outside, 0.0, np.where(alone, 1.0, plain.share))
    share[~plain.second & (plain.xy[:, 1] > 30)] = 0.0
    given = Candidates(plain.xy, plain.second, plain.types, share, plain.nearest)
    kept = chosen(given, np.random.default_rng(0))[0]
    assert not outside[kept].any()
    assert np.isin(np.flatnonzero(alone), kept).mean() > 0.9


def test_the_seed_decides() -> None:
    given = candidates(0.5)
    first, again, other = (chosen(given, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_the_same_section_twice_gives_one() -> None:
    a = section(0)
    second = np.repeat([False, True], len(a))
    given = Candidates(
        np.concatenate([a, a]),
        second,
        np.zeros(2 * len(a), np.intp),
        np.full(2 * len(a), 0.5),
        np.tile(nearest_cell(a), 2),
    )
    kept, xy = chosen(given, np.random.default_rng(0))
    assert len(kept) == pytest.approx(len(a), rel=0.03)
    assert np.isfinite(xy).all()
    assert nearest_cell(xy).min() > 0


def test_work_grows_with_the_number_of_cells_not_with_its_square() -> None:
    given = candidates(0.5)
    n = len(given.xy)
    assert cells._alike(given, 1.0).nnz < n * 300
    far = np.concatenate([given.xy, given.xy + 1000.0])
    twice = Candidates(
        far, np.tile(given.second, 2), np.tile(given.types, 2), np.tile(given.share, 2), np.tile(given.nearest, 2)
    )
    assert cells._alike(twice, 1.0).nnz == 2 * cells._alike(given, 1.0).nnz


def test_counts_stay_where_nothing_changes() -> None:
    rng = np.random.default_rng(0)
    counts = sp.csr_array(rng.poisson(2.0, (50, 8)).astype(np.float32))
    np.testing.assert_array_equal(moved_counts(counts, np.zeros((50, 8)), rng).toarray(), counts.toarray())


@pytest.mark.parametrize("ratio", [1e-9, 0.3, 1.5])
def test_counts_follow_what_is_expected(ratio: float) -> None:
    rng, n = np.random.default_rng(0), 4000
    counts = sp.csr_array(np.column_stack([rng.poisson(2.0, n), np.full(n, 10**6)]).astype(np.float32))
    found = moved_counts(counts, np.tile([np.log(ratio), 0.0], (n, 1)), rng).toarray()
    assert (found % 1 == 0).all()
    first = found[:, 0]
    assert (first[counts.toarray()[:, 0] == 0] == 0).all()
    assert first.mean() == pytest.approx(2.0 * ratio, rel=0.05, abs=1e-6)
    assert first.var() == pytest.approx(2.0 * max(ratio, ratio**2 + ratio - 1), rel=0.1, abs=1e-6)


def test_a_cell_keeps_its_library_size() -> None:
    rng = np.random.default_rng(0)
    counts = sp.csr_array(rng.poisson(200.0, (500, 4)).astype(np.float32))
    found = moved_counts(counts, np.tile([1.0, 0.5, 0.0, -1.0], (500, 1)), rng)
    assert found.sum() == pytest.approx(counts.sum(), rel=0.01)
    shares = found.sum(axis=0) / found.sum()
    np.testing.assert_allclose(shares, np.exp([1.0, 0.5, 0.0, -1.0]) / np.exp([1.0, 0.5, 0.0, -1.0]).sum(), rtol=0.02)


def test_expression_is_moved_by_what_is_expected() -> None:
    expression = sp.csr_array(np.array([[0.0, 1.0, 2.0]], dtype=np.float32))
    found = moved_expression(expression, np.array([[1.0, -3.0, 0.5]]))
    np.testing.assert_array_equal(found.toarray(), [[0.0, 0.0, 2.5]])
    assert found.nnz == 1
