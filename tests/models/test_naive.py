from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from c2sti._types import InterpolatedSection, Section
from c2sti.models import naive
from c2sti.models._registry import METHODS
from tests.conftest import array_pair, square_array

SIDE = 8
rng = np.random.default_rng(0)
A, B = rng.random((2, SIDE**2, 12)) * 3
XY = square_array(SIDE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_slices", [1, 2, 4])
def test_every_method_gives_every_section_everywhere(method: str, n_slices: int) -> None:
    positions = np.arange(1, n_slices + 1) / (n_slices + 1)
    at = np.concatenate([XY, XY + 0.37, [[100.0, 100.0]]])
    seen = []
    answer = METHODS[method](array_pair(A, B, SIDE), at, positions.tolist(), device="cpu", seed=0, progress=seen.append)
    assert len(answer.slices) == n_slices
    for inserted in answer.slices:
        values = inserted.expression()
        assert values.shape == (len(at), 12)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert sum(seen) == pytest.approx(1)


@pytest.mark.parametrize("method", METHODS)
def test_swapping_the_sections_mirrors_the_positions(method: str) -> None:
    there = METHODS[method](array_pair(A, B, SIDE), XY, [0.3], device="cpu", seed=0, progress=lambda share: None)
    back = METHODS[method](array_pair(B, A, SIDE), XY, [0.7], device="cpu", seed=0, progress=lambda share: None)
    np.testing.assert_allclose(there.slices[0].expression(), back.slices[0].expression(), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_the_genes_permutes_the_answer(method: str) -> None:
    order = rng.permutation(12)
    run = lambda a, b: METHODS[method](
        array_pair(a, b, SIDE), XY, [0.4], device="cpu", seed=0, progress=lambda share: None
    )
    straight = run(A, B).slices[0].expression()[:, order]
    permuted = run(A[:, order], B[:, order]).slices[0].expression()
    np.testing.assert_allclose(straight, permuted, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_some_genes_are_the_same_columns_of_all(method: str) -> None:
    answer = METHODS[method](array_pair(A, B, SIDE), XY, [0.4], device="cpu", seed=0, progress=lambda share: None)
    whole = answer.slices[0].expression()
    np.testing.assert_allclose(answer.slices[0].expression(slice(3, 7)), whole[:, 3:7], atol=1e-6)
    np.testing.assert_allclose(answer.slices[0].expression(np.array([9, 0])), whole[:, [9, 0]], atol=1e-6)


def test_copy_takes_the_nearer_section() -> None:
    answer = naive.copy(array_pair(A, B, SIDE), XY + 0.2, [0.2, 0.5, 0.8])
    for inserted, expected in zip(answer.slices, [A, A, B], strict=True):
        np.testing.assert_allclose(inserted.expression(), expected, rtol=1e-6)


def test_linear_blends_constants_by_position() -> None:
    answer = naive.linear(array_pair(np.full((64, 2), 1.0), np.full((64, 2), 3.0), SIDE), XY, [0.25, 0.5])
    np.testing.assert_allclose(answer.slices[0].expression(), 1.5, rtol=1e-6)
    np.testing.assert_allclose(answer.slices[1].expression(), 2.0, rtol=1e-6)


def test_lowrank_keeps_a_rank_one_pattern_and_removes_noise() -> None:
    pattern = np.sin(XY[:, [0]] / 2) + 1.2
    loadings = np.linspace(0.5, 2, 40)[None]
    truth = pattern * loadings + 1
    noisy = [truth + np.random.default_rng(seed).normal(0, 0.7, truth.shape) for seed in (1, 2)]
    pair = array_pair(*noisy, SIDE)
    errors = {
        m: np.abs(
            METHODS[m](pair, XY, [0.5], device="cpu", seed=0, progress=lambda s: None).slices[0].expression() - truth
        ).mean()
        for m in ("copy", "linear", "lowrank")
    }
    assert errors["lowrank"] < 0.8 * errors["linear"] < 0.8 * errors["copy"]


def test_context_joins_the_blend_on_its_own_side() -> None:
    before = Section(XY, sp.csr_array((A * 0 + 2).astype(np.float32)), -1.0)
    lone = naive.lowrank(array_pair(A, B, SIDE), XY, [0.5]).slices[0]
    joined = naive.lowrank(array_pair(A, B, SIDE, before), XY, [0.5]).slices[0]
    # weights 0.5, 0.5 and 0.6 of 0.5; a section without variation adds none, so the others' variation shrinks by 1.3
    np.testing.assert_allclose(joined.weights @ joined.basis * 1.3, lone.weights @ lone.basis, atol=1e-4)


def test_sparse_factors_are_multiplied_as_dense_ones() -> None:
    draw = np.random.default_rng(4)
    weights = sp.random_array((30, 20), density=0.2, rng=draw, format="csr")
    basis = sp.random_array((20, 50), density=0.3, rng=draw, format="csr", dtype=np.float32)
    section = InterpolatedSection(weights, basis, draw.standard_normal(50) * 0.1)
    expected = np.maximum(weights.toarray() @ basis.toarray() + section.offset, 0)
    np.testing.assert_allclose(section.expression(), expected, atol=1e-6)
    some = np.array([7, 3, 40])
    np.testing.assert_allclose(section.expression(some), expected[:, some], atol=1e-6)
