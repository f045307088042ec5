"""Sections as components: axes, scores, noise of spots, the same at every size and in every order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from scipy.spatial import KDTree

import c2sti
from c2sti import _backed, io, metrics
from c2sti._types import Section, SlicePair
from c2sti.models import _registry, components
from c2sti.models import block as of_block
from c2sti.models.block import Block, known_library, noise_by_size
from c2sti.models.components import Settings, describe
from c2sti.models.description import Description
from c2sti.models.gp import Baseline, Descriptions, blended_mean, gp
from tests.conftest import interpolate

DEFAULT, PLAIN = Settings(), Settings(counts=False)


@pytest.fixture(scope="module")
def tissue() -> c2sti.datasets.Phantom:
    return c2sti.datasets.phantom(seed=1, size=20, n_genes=120)


@pytest.fixture(scope="module")
def pair(tissue: c2sti.datasets.Phantom) -> SlicePair:
    a, b = (io.read_slice(s) for s in tissue.series([0.0, 200.0]))
    return io.make_pair(a, b)[0]


def described(pair: SlicePair, settings: Settings = DEFAULT, **how: object) -> Description:
    return describe(pair.sections, pair.spacing, pair.keys, settings, **how)


def predicted(pair: SlicePair, settings: Settings = DEFAULT, **how: object) -> np.ndarray:
    return Baseline(settings)(pair, pair.a.xy, [0.5], **how).slices[0].expression()


def section(counts: np.ndarray, library: np.ndarray) -> Section:
    xy = np.column_stack(np.divmod(np.arange(len(counts)), 5)).astype(float)
    values = sp.csr_array(counts.astype(np.float32))
    return Section(xy, io.log_normalise(values, library), 0.0, counts=values, library=library)


def test_axes_are_the_principal_axes_of_the_patches(pair: SlicePair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_block, "PATCHES", 200)
    monkeypatch.setattr(components, "CHUNK", 50)
    block = Block(pair.sections, pair.spacing, use_counts=False)
    variance = np.exp(np.random.default_rng(0).standard_normal(len(block.x)))
    (axes,), (scores,), _ = components._components(block, pair.keys, variance, 5, ())
    rows, centred = [], []
    for s, own, patch in zip(pair.sections, block.rows(), block.patches(), strict=True):
        dense = s.expression.toarray() - s.expression.toarray().mean(axis=0)
        centred.append(dense)
        precision = 1 / variance[own]
        for p in range(patch.max() + 1):
            of = precision * (patch == p)
            rows.append(of @ dense / np.sqrt(of.sum()))
    assert len(rows) == pytest.approx(200, abs=2)
    _, _, wanted = np.linalg.svd(np.array(rows), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(axes * wanted[:5], axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(axes @ axes.T, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(scores, np.concatenate(centred) @ axes.T, atol=1e-4)


def test_parts_of_a_split_are_seen_on_each_others_axes(pair: SlicePair) -> None:
    block = Block(pair.sections, pair.spacing, use_counts=True)
    ones = np.ones(len(block.x))
    axes, scores, _ = components._components(block, pair.keys, ones, 4, (0, 0))
    halves = []
    for s, library in zip(pair.sections, block.libraries, strict=True):
        ((_, parts),) = components._split_expression(s, library, pair.keys, (0, 0))
        halves.append([part.toarray() - part.toarray().mean(axis=0) for part in parts])
        both = [np.expm1(part.toarray()) * library[:, None] / 2e4 for part in parts]
        np.testing.assert_allclose(both[0] + both[1], s.counts.toarray(), atol=1e-3)
    for k in (0, 1):
        other = np.concatenate([half[1 - k] for half in halves])
        np.testing.assert_allclose(scores[k], other @ axes[k].T, atol=1e-3)


def test_the_plainest_settings_are_gp(pair: SlicePair) -> None:
    made = described(pair, gp.settings)
    maps = made.at(pair.a.xy, [0.4])[0]
    found = np.maximum(maps @ made.basis + blended_mean(pair.sections, 0.4), 0)
    np.testing.assert_allclose(found, gp(pair, pair.a.xy, [0.4]).slices[0].expression(), atol=1e-5)


def test_counts_come_nearer_to_the_truth_than_gp(tissue: c2sti.datasets.Phantom, pair: SlicePair) -> None:
    truth = tissue.expression(pair.a.xy, 100.0)
    found, plain = predicted(pair), gp(pair, pair.a.xy, [0.5]).slices[0].expression()
    assert metrics.pcc(found, truth) > metrics.pcc(plain, truth)
    made = described(pair, Settings(n_splits=2))
    assert made.loadings.shape == (5, 60, pair.n_genes)
    assert made.shares.sum() == pytest.approx(1)
    assert made.shares[0] == pytest.approx(len(pair.a.xy) * 2 / (len(pair.a.xy) * 2 + 120), abs=0.1)
    np.testing.assert_allclose(made.shares[1:], made.shares[1])


def test_coarser_patches_cells_and_windows_come_near_to_single_spots(
    tissue: c2sti.datasets.Phantom, pair: SlicePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = tissue.expression(pair.a.xy, 100.0)
    exact = metrics.pcc(predicted(pair), truth)
    monkeypatch.setattr(of_block, "PATCHES", 300)
    monkeypatch.setattr(of_block, "WHOLE", 100)
    monkeypatch.setattr("c2sti.field._field.MOST", 150)
    monkeypatch.setattr("c2sti.field._field.WINDOW", 200)
    monkeypatch.setattr(of_block, "WINDOW", 200)
    assert exact > 0.5
    assert metrics.pcc(predicted(pair), truth) > exact - 0.02


def test_one_spot_more_than_patches_changes_next_to_nothing(pair: SlicePair, monkeypatch: pytest.MonkeyPatch) -> None:
    n = sum(len(s.xy) for s in pair.sections)
    whole = predicted(pair)
    monkeypatch.setattr(of_block, "PATCHES", n - 1)
    change = predicted(pair) - whole
    assert 0 < np.abs(change).max()
    assert change.std() < 0.05 * whole.std(axis=0).mean()


def test_order_changes_nothing(pair: SlicePair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of genes, spots and stored entries; also where spots are summed and the tissue is solved in tiles."""
    rng = np.random.default_rng(0)
    genes, spots = rng.permutation(pair.n_genes), rng.permutation(len(pair.a.xy))

    def shuffled(x: sp.csr_array) -> sp.csr_array:
        moved = sp.coo_array(x[spots])
        return sp.csr_array((moved.data[::-1], (moved.row[::-1], moved.col[::-1])), shape=x.shape)

    a = dataclasses.replace(pair.a.each(shuffled), xy=pair.a.xy[spots], library=pair.a.library[spots])
    other = dataclasses.replace(pair, a=a).subset(genes)
    for patches, most, whole in ((10**4, 10**4, 10**4), (300, 150, 100)):
        monkeypatch.setattr(of_block, "PATCHES", patches)
        monkeypatch.setattr(of_block, "WHOLE", whole)
        monkeypatch.setattr("c2sti.field._field.MOST", most)
        found, again = (Baseline()(p, pair.b.xy, [0.5]).slices[0].expression() for p in (pair, other))
        np.testing.assert_allclose(again, found[:, genes], atol=1e-5 * np.abs(found).max())


def test_the_answer_does_not_depend_on_the_blocks(pair: SlicePair, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predicted(pair)
    monkeypatch.setattr(_backed, "BLOCK", 500)
    np.testing.assert_allclose(predicted(pair), whole, atol=1e-5 * np.abs(whole).max())


def test_spots_of_small_library_size_are_noisier(pair: SlicePair) -> None:
    block = Block(pair.sections, pair.spacing, use_counts=True)
    variance = block.variance(np.arange(len(block.x)))
    library = np.concatenate([s.library for s in pair.sections])
    assert np.corrcoef(np.log(library), np.log(variance))[0, 1] < -0.5
    assert np.log(variance).mean() == pytest.approx(0, abs=1e-9)
    np.testing.assert_array_equal(Block(pair.sections, pair.spacing, use_counts=False).variance(np.arange(3)), 1)


def test_two_sizes_are_told_apart_by_a_line() -> None:
    size, noise = np.array([1.0, 1.0, 2.0, 2.0]), np.exp([0.0, 0.0, 3.0, 3.0])
    np.testing.assert_allclose(np.log(noise_by_size(size, noise, np.array([1.0, 2.0]))), [-1.5, 1.5], rtol=1e-9)


def test_a_spot_without_a_count_has_the_least_library_size() -> None:
    counts = np.random.default_rng(0).poisson(3.0, (60, 10))
    counts[20:40] = 0
    library = np.where(counts.sum(axis=1) > 0, np.arange(60) + 100.0, 0.0)
    one = section(counts, library)
    np.testing.assert_array_equal(known_library(one), np.where(library > 0, library, 100.0))
    assert known_library(dataclasses.replace(one, counts=None)) is None
    assert known_library(section(np.zeros((60, 10)), np.zeros(60))) is None


def test_counts_are_used_where_all_sections_have_them(pair: SlicePair) -> None:
    mixed = dataclasses.replace(pair, b=dataclasses.replace(pair.b, counts=None, library=None))
    assert len(described(pair).loadings) == 3
    assert len(described(mixed).loadings) == 1
    np.testing.assert_array_equal(described(mixed).loadings, described(mixed, PLAIN).loadings)


@pytest.mark.parametrize("n_genes", [1, 2])
def test_few_genes_are_described(n_genes: int, pair: SlicePair) -> None:
    few = pair.subset(np.arange(n_genes))
    found = predicted(few)
    assert found.shape == (len(pair.a.xy), n_genes)
    assert np.isfinite(found).all()


def test_library_sizes_over_four_orders_of_magnitude(pair: SlicePair) -> None:
    rng = np.random.default_rng(0)
    size = 10 ** rng.uniform(1, 5, len(pair.a.xy))
    share = np.full((1, 50), 1 / 50)
    a, b = (section(rng.poisson(s[:, None] * share), s) for s in (size, rng.permutation(size)))
    pair = dataclasses.replace(pair, a=a, b=dataclasses.replace(b, position=1.0), spacing=1.0, gene_keys=None)
    found = predicted(pair)
    assert np.isfinite(found).all()
    assert found.std(axis=0).mean() < 0.5 * a.expression.toarray().std(axis=0).mean()


def test_a_line_of_spots_that_all_say_the_same_is_described() -> None:
    """Its extent is no area, and there is no component."""
    flat = AnnData(np.full((30, 4), 1.5), obsm={"spatial": np.column_stack([np.arange(30.0), np.zeros(30)])})
    out = interpolate(flat, flat.copy(), model="c2sti", on_misfit="ignore")
    np.testing.assert_allclose(out.layers["c2sti_1"], 1.5, rtol=1e-5)


# ---- one description, several uses


def test_a_gap_of_a_series_is_read_from_the_description_of_all(pair: SlicePair) -> None:
    """On the scale of z the pair says what it says on its own scale."""
    moved = [dataclasses.replace(s, position=300.0 + 40 * s.position) for s in pair.sections]
    of_series = describe(moved, pair.spacing, pair.keys, Settings())
    own = described(pair)
    found, expected = of_series.between(300.0, 340.0).at(pair.a.xy, [0.0, 0.3]), own.at(pair.a.xy, [0.0, 0.3])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    noise, wanted = of_series.between(300.0, 340.0).noise(pair.a.xy, [0.3]), own.noise(pair.a.xy, [0.3])
    np.testing.assert_allclose(noise.weights(), wanted.weights(), rtol=1e-3)


def test_methods_of_one_baseline_describe_a_pair_once(pair: SlicePair, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = components.describe
    monkeypatch.setattr("c2sti.models.gp.describe", lambda *a, **k: made.append(a) or original(*a, **k))
    known = Descriptions(pair, device="cpu", seed=0)
    config = c2sti.C2STiConfig(channels=4, n_components=8, n_splits=1)
    for one in (config, dataclasses.replace(config, graph=False)):
        model = c2sti.C2STi(one)
        shares: list[float] = []
        found = known.bound(model)(pair, pair.a.xy, [0.5], device="cpu", seed=0, progress=shares.append)
        assert sum(shares) == pytest.approx(1)  # what was done before is told, too
        assert known.seconds(model) > 0
    assert len(made) == 1
    expected = model(pair, pair.a.xy, [0.5])
    np.testing.assert_array_equal(found.slices[0].expression(), expected.slices[0].expression())
    linear = _registry.METHODS["linear"]
    assert known.bound(linear) is linear
    assert known.seconds(linear) == 0


def test_detail_is_used_where_sections_share_it(pair: SlicePair) -> None:
    own = dataclasses.replace(DEFAULT, registered=False)  # detail is added at the same places, so nothing may move
    without = dataclasses.replace(own, detail=False)
    detail = np.random.default_rng(0).standard_normal(pair.a.expression.shape)

    def more(s: Section) -> Section:
        near = KDTree(pair.a.xy).query(s.xy)[1]
        return dataclasses.replace(s, expression=sp.csr_array(s.expression.toarray() + detail[near]), counts=None)

    shared = dataclasses.replace(pair, a=more(pair.a), b=more(pair.b))
    apart = dataclasses.replace(pair, a=more(pair.a), b=dataclasses.replace(pair.b, counts=None))
    assert len(described(shared, own).field.parts) == len(described(shared, without).field.parts) + 1
    np.testing.assert_array_equal(predicted(apart, own), predicted(apart, without))
