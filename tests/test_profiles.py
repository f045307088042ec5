from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from c2sti import profiles
from c2sti.profiles import Profiles, View


def made(*, n: tuple[int, ...] = (30, 25), n_genes: int = 90, seed: int = 0) -> list[View]:
    """Two views with a few strong directions."""
    rng = np.random.default_rng(seed)
    views = []
    for _ in range(2):
        loadings = rng.gamma(1.0, 1.0, (5, n_genes)) * (rng.random((5, n_genes)) < 0.6)
        sections = [rng.gamma(1.0, 1.0, (size, 5)) @ loadings * (rng.random((size, n_genes)) < 0.4) for size in n]
        views.append(View([sp.csr_array(s) for s in sections]))
    return views


def dense(views: list[View]) -> np.ndarray:
    """(n, M) centred."""
    sections = [np.hstack([v.sections[i].toarray() for v in views]) for i in range(len(views[0].sections))]
    return np.vstack([s - s.mean(axis=0) for s in sections])


@pytest.mark.parametrize("single", [False, True])
def test_axes_and_scores_are_those_of_the_dense_matrix(single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "DOUBLE", 0 if single else 2**22)
    views, atol = made(), 2e-5 if single else 1e-9
    weight = sp.diags_array(np.linspace(0.5, 2, 55)).tocsr()
    centred = dense(views)
    axes, scores = Profiles(views).principal(6, weight)
    expected = np.linalg.svd(weight @ centred, full_matrices=False)[2][:6]
    np.testing.assert_allclose(np.abs((axes * expected).sum(axis=1)), 1, atol=atol)
    np.testing.assert_allclose(axes @ axes.T, np.eye(6), atol=atol)
    assert (np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1) > 0).all()
    np.testing.assert_allclose(scores, centred @ axes.T, atol=50 * atol)
    np.testing.assert_allclose(Profiles(views).sizes(), (centred**2).sum(axis=1), rtol=1e-5)
    others = made(seed=1)
    np.testing.assert_allclose(Profiles(others).scores(axes), dense(others) @ axes.T, atol=50 * atol)


@pytest.mark.parametrize("dense_up_to", [0, 256])
def test_inner_products_lanczos_and_all_axes_find_the_same(dense_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Profiles(made())
    axes, scores = few.principal(5)
    monkeypatch.setattr(profiles, "GRAM", 0)
    monkeypatch.setattr(profiles, "DENSE", dense_up_to)
    many = Profiles(made())
    assert not many.few
    for one, other in zip((axes, scores, few.sizes()), (*many.principal(5), many.sizes()), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_axes_that_are_not_there_are_zero_and_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanczos has to start again once it has found all three, from where scipy's own random numbers say."""
    rng = np.random.default_rng(0)
    values = rng.random((80, 3)) @ rng.random((3, 40))
    for dense_up_to in (0, 256):
        monkeypatch.setattr(profiles, "DENSE", dense_up_to)
        one, other = (Profiles([View([sp.csr_array(values)])]).axes(6) for _ in range(2))
        assert (one.any(axis=1) == [True] * 3 + [False] * 3).all()
        np.testing.assert_allclose(one, other, atol=1e-12)
    np.testing.assert_array_equal(one, other)


def test_blocks_of_genes_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    axes, scores = Profiles(made()).principal(5)
    for name, value in (("BLOCK", 55 * 7), ("CHUNK", 4)):
        monkeypatch.setattr(profiles, name, value)
    again, scores_again = Profiles(made()).principal(5)
    np.testing.assert_allclose(again, axes, atol=1e-8)
    np.testing.assert_allclose(scores_again, scores, atol=1e-8)


@pytest.mark.parametrize("single", [False, True])
def test_an_axis_without_variance_is_zero(single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "DOUBLE", 0 if single else 2**22)
    rows = np.random.default_rng(0).random((3, 40))
    view = View([sp.csr_array(rows[[0, 0, 1, 1, 0, 1]]), sp.csr_array(rows[[0, 1, 2, 0, 1, 2]])])
    axes, scores = Profiles([view]).principal(8)
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), [1, 1, 0, 0, 0, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(scores[:, 2:], 0, atol=1e-6)


def test_a_view_is_multiplied_once() -> None:
    first, second = made()
    gram = first.gram
    np.testing.assert_allclose(
        gram, np.vstack([s.toarray() for s in first.sections]) @ np.vstack([s.toarray() for s in first.sections]).T
    )
    assert Profiles([first]).beside([second]).views[0].gram is gram
