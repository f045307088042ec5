from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from c2sti._types import InterpolatedSection, Prediction
from c2sti.factors import compressed, on_one_basis


def values_of(prediction: Prediction) -> np.ndarray:
    return np.stack([s.weights @ s.basis + s.offset for s in prediction.slices])


def prediction(n_rows: int = 50, n_sections: int = 3) -> Prediction:
    rng = np.random.default_rng(0)
    basis = (rng.standard_normal((40, 30)) * np.logspace(0, -8, 40)[:, None]).astype(np.float32)
    return Prediction(
        tuple(
            InterpolatedSection(rng.standard_normal((n_rows, 40)).astype(np.float32), basis, 3 + rng.random(30))
            for _ in range(n_sections)
        )
    )


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_values_are_the_same_to_the_tolerance_and_the_rank_is_the_least(tolerance: float) -> None:
    given = prediction()
    found = compressed(given, tolerance)
    wanted = values_of(given)
    spread = np.square(wanted - wanted.mean(axis=(0, 1))).sum()
    assert np.square(values_of(found) - wanted).sum() <= tolerance**2 * spread
    assert all(s.basis is found.slices[0].basis and not s.offset.any() for s in found.slices)
    size = np.linalg.svd(wanted.reshape(-1, 30), compute_uv=False)
    lost = np.cumsum(size[::-1] ** 2)[::-1]
    assert len(found.slices[0].basis) == (lost > tolerance**2 * spread).sum() < 30


def test_sparse_weights_and_sections_without_an_offset_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    basis = sp.csr_array(rng.random((6, 5), dtype=np.float32))
    slices = tuple(
        InterpolatedSection(sp.random_array((4, 6), density=0.5, format="csr", rng=rng), basis, np.zeros(5))
        for _ in "ab"
    )
    found = compressed(Prediction(slices))
    for section, own in zip(found.slices, slices, strict=True):
        assert section.weights is own.weights and section.basis is basis


def test_sections_on_bases_of_their_own_come_onto_one() -> None:
    rng = np.random.default_rng(0)
    slices = tuple(
        InterpolatedSection(sp.csr_array(rng.random((4, 6))), sp.csr_array(rng.random((6, 5))), rng.random(5))
        for _ in "ab"
    )
    weights, basis = on_one_basis(slices)
    for w, section in zip(weights, slices, strict=True):
        np.testing.assert_allclose(
            (w @ basis).toarray(), (section.weights @ section.basis).toarray() + section.offset, rtol=1e-6
        )


def test_sections_that_do_not_vary() -> None:
    flat = Prediction((InterpolatedSection(np.zeros((4, 2)), np.ones((2, 3)), np.array([1.0, 0.0, 2.0])),))
    np.testing.assert_allclose(values_of(compressed(flat))[0], np.tile([1.0, 0.0, 2.0], (4, 1)), atol=1e-6)
    nothing = Prediction((InterpolatedSection(np.zeros((4, 2)), np.ones((2, 3)), np.zeros(3)),))
    np.testing.assert_array_equal(values_of(compressed(nothing))[0], 0)
