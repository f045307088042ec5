"""The description of very large sections: what is gathered in blocks, and how near it comes to the exact one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

import c2sti
from c2sti import _stored, grid
from c2sti._types import Section, SlicePair
from c2sti.field import Field, Kernel, Observed
from c2sti.model import streamed
from c2sti.model.programmes import describe
from c2sti.model.streamed import Seen, describe_large, is_large
from tests.conftest import interpolate


@pytest.fixture(scope="module")
def tissue() -> c2sti.datasets.Phantom:
    return c2sti.datasets.phantom(seed=1, size=20, n_genes=120)


@pytest.fixture(scope="module")
def pair(tissue: c2sti.datasets.Phantom) -> SlicePair:
    a, b = (grid.read_slice(s) for s in tissue.series([0.0, 200.0]))
    return grid.make_pair(a, b)[0]


def _section(counts: np.ndarray, library: np.ndarray) -> Section:
    xy = np.column_stack(np.divmod(np.arange(len(counts)), 5)).astype(float)
    values = sp.csr_array(counts.astype(np.float32))
    return Section(xy, grid.log_normalise(values, library), 0.0, counts=values, library=library)


def test_views_of_counts() -> None:
    counts = np.random.default_rng(0).poisson(2.0, (50, 30))
    counts[7] = 0
    library = np.where(counts.sum(axis=1) > 0, counts.sum(axis=1) + 100.0, 0)
    seen = streamed._counted(_section(counts, library))
    assert seen.n_views == 3
    assert seen.depth is not None
    assert seen.share is not None
    assert seen.depth[7] == library[library > 0].min()
    np.testing.assert_allclose(seen.share, counts.sum(axis=0) / seen.depth.sum())
    ((_, (logs, log_counts, residuals)),) = seen.blocks()
    np.testing.assert_allclose(logs.toarray(), np.log1p(counts * (1e4 / np.maximum(library, 1))[:, None]), rtol=1e-5)
    np.testing.assert_allclose(log_counts.toarray(), np.log1p(counts), rtol=1e-5)
    expected = np.sqrt(seen.depth[:, None] * seen.share[None])
    np.testing.assert_allclose(residuals.toarray(), np.minimum(counts / expected, 10), rtol=1e-5)


def test_values_that_are_no_counts_are_taken_as_they_are() -> None:
    values = sp.csr_array(np.random.default_rng(0).gamma(1.0, 1.0, (40, 6)).astype(np.float32))
    seen = streamed._counted(Section(np.random.default_rng(1).random((40, 2)), values, 0.0))
    assert seen.n_views == 1
    ((_, (only,)),) = seen.blocks()
    assert only is values


def test_axes_are_the_principal_axes_of_the_patches(pair: SlicePair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "PATCHES", 60)
    monkeypatch.setattr(streamed, "CHUNK", 50)
    seen = [Seen(s) for s in pair.sections]
    means, axes = streamed._axes(seen, 5)
    rows = []
    for s, mean in zip(pair.sections, means, strict=True):
        patch = streamed.patches(s.xy, 60)
        dense = s.expression.toarray()
        np.testing.assert_allclose(mean, dense.mean(axis=0), rtol=1e-5)
        size = np.bincount(patch)
        rows.append(
            np.stack([dense[patch == p].mean(axis=0) - mean for p in range(len(size))]) * np.sqrt(size)[:, None]
        )
    _, _, wanted = np.linalg.svd(np.concatenate(rows), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(axes * wanted[:5], axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(axes @ axes.T, np.eye(5), atol=1e-5)
    scores, size = streamed._project(seen[0], means[0], axes)
    centred = pair.a.expression.toarray() - means[0]
    np.testing.assert_allclose(scores, centred @ axes.T, atol=1e-4)
    np.testing.assert_allclose(size, np.square(centred).sum(axis=1), rtol=1e-4)


def test_the_answer_does_not_depend_on_the_blocks(pair: SlicePair, monkeypatch: pytest.MonkeyPatch) -> None:
    def maps() -> np.ndarray:
        (found,) = describe_large(pair, n_programmes=8, views=True, rough=True, device="cpu", seed=0)
        (at,) = found.at(pair.a.xy, [0.5], pair.spacing)
        return at @ found.loadings

    whole = maps()
    monkeypatch.setattr(_stored, "BLOCK", 500)
    np.testing.assert_allclose(maps(), whole, atol=1e-4 * np.abs(whole).max())


@pytest.mark.parametrize("views", [True, False])
def test_it_comes_near_to_the_exact_description(pair: SlicePair, tissue: c2sti.datasets.Phantom, views: bool) -> None:
    options = {"n_programmes": 20, "views": views, "rough": True, "device": "cpu", "seed": 0}
    truth = tissue.expression(pair.a.xy, 100.0)
    truth = truth - truth.mean(axis=0)

    def agreement(programmes: list) -> float:
        found = np.mean([p.at(pair.a.xy, [0.5], pair.spacing)[0] @ p.loadings for p in programmes], axis=0)
        return float(np.mean([np.corrcoef(f, t)[0, 1] for f, t in zip(found.T, truth.T, strict=True) if t.std() > 0]))

    exact, large = agreement(describe(pair, n_splits=0, **options)), agreement(describe_large(pair, **options))
    assert exact > 0.5
    assert large > exact - 0.02


def test_shallow_spots_are_found_to_be_noisier(pair: SlicePair) -> None:
    seen = [streamed._counted(s) for s in pair.sections]
    depths = [s.depth for s in seen]
    means, axes = streamed._axes(seen, 10)
    scores, sizes = zip(*(streamed._project(s, m, axes) for s, m in zip(seen, means, strict=True)), strict=True)
    field = Field.learn(
        streamed.observe([s.xy / pair.spacing for s in pair.sections], [0.0, 1.0], scores, device="cpu"), 0
    )
    found = streamed._noise_by_depth(field, sizes, depths, 0)
    assert [len(f) for f in found] == [len(s.xy) for s in pair.sections]
    np.testing.assert_allclose(np.mean(np.log(np.concatenate(found))), 0, atol=1e-9)
    order = np.argsort(depths[0])
    assert found[0][order[:20]].mean() > found[0][order[-20:]].mean()


def test_spots_are_gathered_where_maps_vary_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "EXACT", 3)
    x = torch.tensor([[0.2, 0.0], [1.4, 0.0], [2.5, 0.0], [0.5, 0.0]], dtype=torch.float64)
    seen = Observed(
        x,
        torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64),
        torch.tensor([[1.0], [4.0], [7.0], [9.0]], dtype=torch.float64),
        torch.tensor([1.0, 2.0, 1.0, 1.0], dtype=torch.float64),
    )
    one = torch.ones(1, dtype=torch.float64)
    fine = Field(seen, Kernel(2.2, 0.5, 0.5), one, one)
    assert streamed._gathered(fine) is fine
    found = streamed._gathered(Field(seen, Kernel(3.2, 0.5, 0.5), one, one)).observed
    np.testing.assert_allclose(found.values[:, 0], [2.0, 7.0, 9.0])  # (1/1·1 + 1/2·4) / (1 + 1/2)
    np.testing.assert_allclose(found.variance, [2 / 3, 1.0, 1.0])
    np.testing.assert_allclose(found.x[:, 0], [0.6, 2.5, 0.5])
    np.testing.assert_allclose(found.z, [0, 0, 1])


def test_what_is_large(pair: SlicePair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_large(pair)
    monkeypatch.setattr(streamed, "MANY", 100)
    assert is_large(pair)


def test_a_line_of_spots_that_all_say_the_same_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its extent is no area, and there is no axis."""
    monkeypatch.setattr(streamed, "MANY", 0)
    flat = AnnData(np.full((30, 4), 1.5), obsm={"spatial": np.column_stack([np.arange(30.0), np.zeros(30)])})
    out = interpolate(flat, flat.copy(), model="c2sti", on_misfit="ignore")
    np.testing.assert_allclose(out.layers["c2sti_1"], 1.5, rtol=1e-5)


def test_spots_without_counts_have_the_least_library_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole blocks of them too, unless their library size is known from other genes."""
    monkeypatch.setattr(_stored, "BLOCK", 30)  # some rows of ten genes
    counts = np.random.default_rng(0).poisson(3.0, (60, 10))
    counts[20:40] = 0
    library = np.where(counts.sum(axis=1) > 0, np.arange(60) + 100.0, 0.0)
    library[39] = 7.0
    seen = streamed._counted(_section(counts, library))
    assert seen.depth is not None and seen.share is not None
    expected = np.where(library > 0, library, 7.0)
    np.testing.assert_array_equal(seen.depth, expected)
    np.testing.assert_allclose(seen.share, counts.sum(axis=0) / expected.sum())
    assert streamed._counted(dataclasses.replace(_section(counts, library), counts=None)).n_views == 1
