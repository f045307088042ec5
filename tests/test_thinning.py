"""Count splitting: binomial, independent, and the same in whatever order things are stored."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti.thinning import row_hashes, split


@pytest.fixture
def counts() -> sp.csr_array:
    return sp.csr_array(np.random.default_rng(0).poisson(0.8, (300, 400)).astype(np.float32))


@pytest.fixture
def keys() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**63, 400).astype(np.uint64)


def test_molecules_go_either_way(counts: sp.csr_array, keys: np.ndarray) -> None:
    first = split(counts, keys, 0)
    for size in (1, 2, 3):
        drawn = first[counts.data == size]
        assert set(drawn) == set(range(size + 1))
        assert drawn.mean() == pytest.approx(size / 2, abs=4 * np.sqrt(size / 4 / len(drawn)))
        assert drawn.var() == pytest.approx(size / 4, rel=0.1)


@pytest.mark.parametrize("size", [0, 63, 64, 65, 128, 129, 5000])
def test_counts_of_any_size(size: int) -> None:
    many = sp.csr_array((np.full(2000, size, np.float32), (np.arange(2000), np.arange(2000))))
    first = split(many, np.arange(2000, dtype=np.uint64), 3)
    assert (0 <= first).all() and (first <= size).all()
    assert first.mean() == pytest.approx(size / 2, abs=4 * np.sqrt(size / 4 / 2000) + 1e-9)
    assert first.std() == pytest.approx(np.sqrt(size / 4), rel=0.1)


def test_both_parts_are_independent_where_counts_are_poisson(counts: sp.csr_array, keys: np.ndarray) -> None:
    first = sp.csr_array((split(counts, keys, 0), counts.indices, counts.indptr), counts.shape).toarray()
    second = counts.toarray() - first
    together = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert abs(together) < 4 / np.sqrt(first.size)
    assert np.corrcoef(first[:, 0], first[:, 1])[0, 1] == pytest.approx(0, abs=4 / np.sqrt(300))


def test_another_seed_is_another_draw(counts: sp.csr_array, keys: np.ndarray) -> None:
    draws = [split(counts, keys, *seeds) - counts.data / 2 for seeds in ((0, 0), (0, 1), (1, 0))]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(draws[i], draws[j])[0, 1]) < 4 / np.sqrt(counts.nnz)


def test_order_does_not_matter(counts: sp.csr_array, keys: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    genes, spots = rng.permutation(400), rng.permutation(300)
    other = sp.csr_array(counts.toarray()[np.ix_(spots, genes)])
    np.testing.assert_array_equal(row_hashes(other, keys[genes]), row_hashes(counts, keys)[spots])
    one = sp.csr_array((split(counts, keys, 0), counts.indices, counts.indptr), counts.shape).toarray()
    two = sp.csr_array((split(other, keys[genes], 0), other.indices, other.indptr), other.shape).toarray()
    np.testing.assert_array_equal(two, one[np.ix_(spots, genes)])


def test_the_default_model_gives_the_same_in_another_order_of_genes(pair: tuple[AnnData, AnnData]) -> None:
    out = c2sti.tl.interpolate(*pair, show_progress_bar=False)
    order = np.random.default_rng(3).permutation(out.n_vars)
    other = c2sti.tl.interpolate(*(section[:, order].copy() for section in pair), show_progress_bar=False)
    np.testing.assert_allclose(other[:, out.var_names].layers["c2sti_1"], out.layers["c2sti_1"], atol=1e-5)
