"""Counts of interpolated sections: the model on arrays by hand, and the tool on simulated tissues."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import squidpy as sq
from anndata import AnnData
from scipy.stats import nbinom, poisson

import c2sti
from c2sti import counts
from c2sti.counts import Shares, shrunk


def place_of(
    shares: np.ndarray, rng: np.random.Generator, *, dispersion: float = 0.0, sizes: tuple[float, float] = (2e3, 8e3)
) -> counts.Place:
    """A section without structure: every row has the same shares, values are what such counts give on average."""
    side = 20
    xy = np.indices((side, side)).reshape(2, -1).T.astype(float)
    measured = []
    for size in sizes:
        library = rng.uniform(0.5, 1.5, len(xy)) * size
        mean = library[:, None] * shares
        if dispersion:
            mean = mean * rng.gamma(1 / dispersion, dispersion, mean.shape)
        drawn = rng.poisson(mean).astype(float)
        library = drawn.sum(axis=1)  # a gene that takes more leaves less to the others
        measured.append(counts.Measured(np.arange(len(xy)), library, lambda g, c=drawn: c[:, g], 0.5))
    library = np.concatenate([m.library for m in measured])
    values = np.array([counts.expected_log(np.array([s]), dispersion, library)[0] for s in shares])
    genes = [f"gene_{i}" for i in range(len(shares))]
    return counts.Place("c2sti_1", xy, genes, lambda g: np.tile(values[g], (len(xy), 1)), (measured[0], measured[1]))


# ---- the model


def test_expected_logarithm_by_summing_over_all_counts() -> None:
    k = np.arange(4000)
    for share, library, d in ((1e-4, 500.0, 0.0), (1e-3, 4000.0, 0.5), (0.1, 3000.0, 2.0)):
        mean = share * library
        p = poisson.pmf(k, mean) if d == 0 else nbinom.pmf(k, 1 / d, 1 / (1 + d * mean))
        by_hand = (p * np.log1p(1e4 * k / library)).sum() / p.sum()
        assert counts.expected_log(np.array([share]), d, np.array([library]))[0] == pytest.approx(by_hand, rel=1e-3)


def test_shares_are_read_off_the_values_that_they_give() -> None:
    library = np.array([500.0, 1000.0, 4000.0])
    table = Shares(library, n_libraries=200)
    levels = np.quantile(library, (np.arange(200) + 0.5) / 200)
    share = np.array([0.0, 1e-10, 1e-6, 1e-3, 0.2])
    for d in (0.0, 0.5):
        values = np.concatenate([[0.0], counts.expected_log(share[1:], d, levels)])
        np.testing.assert_allclose(table.of(values, d), share, rtol=0.02)


def test_a_rare_gene_is_not_as_rare_as_its_logarithm_says() -> None:
    # One count in ten spots of 1,000: log1p(10) / 10 = 0.24 on average, of which expm1 makes 0.27 and not 1 in 1e4.
    value = np.log1p(10.0) / 10
    assert Shares(np.array([1000.0])).of(np.array([value]), 0.0)[0] == pytest.approx(1e-4, rel=0.06)


def test_dispersions_are_drawn_to_the_trend_as_far_as_they_are_uncertain() -> None:
    n = 200  # all of one mean; half of them much seen, half seldom
    squares = np.repeat([1e4, 1.0], n // 2)
    own = np.tile([0.3, 0.5], n // 2)
    powers = np.stack([squares, squares, squares, squares])
    found = shrunk(np.ones(n), own * squares, squares, powers)
    trend = (own * squares)[: n // 2].sum() / squares[: n // 2].sum()
    assert trend == pytest.approx(0.4)
    np.testing.assert_allclose(found[: n // 2], own[: n // 2], atol=0.02)
    np.testing.assert_allclose(found[n // 2 :], 0.4, atol=0.02)
    nothing = shrunk(np.zeros(3), np.zeros(3), np.zeros(3), np.zeros((4, 3)))
    np.testing.assert_array_equal(nothing, 0)


def test_libraries_follow_both_sections() -> None:
    rng = np.random.default_rng(0)
    place = place_of(np.array([0.5, 0.5]), rng)
    library, spot = counts.draw_libraries(place)
    # level (1 − p) : p on the logarithm: 2,000 and 8,000 give 4,000; ranks are those of either
    assert np.median(library) == pytest.approx(4000, rel=0.05)
    assert library.min() > 0.5 * 4000 * 0.95
    assert library.max() < 1.5 * 4000 * 1.05
    assert 0.4 < (spot < 400).mean() < 0.6
    first = dataclasses.replace(place.neighbours[0], weight=1.0)
    none = counts.Measured(np.arange(0), np.zeros(0), lambda g: np.zeros((0, len(g))), 0.0)
    alone, spot = counts.draw_libraries(dataclasses.replace(place, neighbours=(first, none)))
    assert np.median(alone) == pytest.approx(np.median(first.library), rel=0.1)
    assert spot.max() < 400


def test_counts_are_as_many_and_as_noisy_as_those_that_were_measured() -> None:
    rng = np.random.default_rng(1)
    shares = np.concatenate([np.full(20, 1e-4), np.full(20, 2e-3), np.full(20, 0.0479)])
    place = place_of(shares, rng, dispersion=0.5, sizes=(4e3, 4e3))
    model = counts.fit(place)
    np.testing.assert_allclose(np.median(model.dispersion[20:]), 0.5, rtol=0.15)
    np.testing.assert_allclose(np.median(model.gene_factor * model.row_factor.mean()), 1, atol=0.1)
    drawn, library = counts.draw(place, model)
    dense = drawn.toarray()
    np.testing.assert_array_equal(dense, np.rint(dense))
    measured = np.concatenate([side.counts(np.arange(60)) for side in place.neighbours])
    for group in (slice(0, 20), slice(20, 40), slice(40, 60)):
        assert dense[:, group].mean() == pytest.approx(measured[:, group].mean(), rel=0.1)
        assert (dense[:, group] == 0).mean() == pytest.approx((measured[:, group] == 0).mean(), abs=0.02)
        spread = [x[:, group].var(axis=0).mean() for x in (dense, measured)]
        assert spread[0] == pytest.approx(spread[1], rel=0.25)
    np.testing.assert_allclose(dense.sum(axis=1) / library, 1, atol=0.1)  # the library comes out as it was drawn


def test_what_genes_share_is_kept_and_what_they_do_not_is_not_invented() -> None:
    rng = np.random.default_rng(2)
    shares = np.full(60, 1 / 60)
    place = place_of(shares, rng, sizes=(3e3, 3e3))

    def together(matrix: np.ndarray) -> float:
        r = np.corrcoef((matrix / matrix.sum(axis=1, keepdims=True)).T)
        return float(r[:20, :20][np.triu_indices(20, 1)].mean())

    assert len(counts.fit(place).loadings) == 0
    sides, seen = [], []
    for side in place.neighbours:
        common = np.exp(0.6 * rng.standard_normal(len(place.xy)) - 0.18)
        mean = side.library[:, None] * shares * np.where(np.arange(60) < 20, common[:, None], 1)
        seen.append(rng.poisson(mean).astype(float))
        sides.append(dataclasses.replace(side, counts=lambda g, c=seen[-1]: c[:, g]))
    place = dataclasses.replace(place, neighbours=(sides[0], sides[1]))
    model = counts.fit(place)
    assert len(model.loadings) >= 1
    drawn = counts.draw(place, model)[0].toarray()
    plain = counts.draw(place, dataclasses.replace(model, loadings=model.loadings[:0], scores=model.scores[:, :0]))[0]
    assert together(drawn) == pytest.approx(np.mean([together(x) for x in seen]), abs=0.15)
    assert together(plain.toarray()) < 0.1


def test_too_little_in_common_is_refused() -> None:
    place = place_of(np.array([0.5, 0.5]), np.random.default_rng(0))
    few = tuple(
        counts.Measured(np.arange(5), side.library[:5], lambda g: np.ones((5, len(g))), 0.5)
        for side in place.neighbours
    )
    with pytest.raises(ValueError, match="cover 10 rows of the section; 20 are needed"):
        counts.fit(dataclasses.replace(place, neighbours=(few[0], few[1])))


# ---- the tool


@pytest.fixture(scope="module")
def out() -> AnnData:
    a, b = c2sti.datasets.phantom(seed=3, size=13, n_genes=80).series([0.0, 300.0])
    return c2sti.tl.interpolate(a, b, n_slices=2, model="lowrank", show_progress_bar=False)


@pytest.fixture(scope="module")
def drawn(out: AnnData) -> AnnData:
    return c2sti.tl.sample_counts(out)


def test_the_whole_sample(out: AnnData, drawn: AnnData) -> None:
    assert sp.issparse(drawn.X)
    assert drawn.X.format == "csr"
    assert drawn.X.dtype == np.float32
    assert (drawn.X.data >= 1).all()
    assert (drawn.X.data % 1 == 0).all()
    assert list(drawn.obs["section"].cat.categories) == ["c2sti_1", "c2sti_2"]
    assert drawn.n_obs == out.obs["c2sti_1_tissue"].sum() + out.obs["c2sti_2_tissue"].sum()
    assert drawn.obs["inserted"].all()
    np.testing.assert_array_equal(drawn.obs["total_counts"], drawn.X.sum(axis=1).A1)
    record = drawn.uns["c2sti"]
    assert record["synthetic"] is True
    assert record["counts"]["seed"] == 0
    assert list(record["sections"]) == ["c2sti_1", "c2sti_2"]
    np.testing.assert_allclose(record["z"], [100, 200])
    measured = np.concatenate([out.obs[f"slice_{s}_library_size"].dropna() for s in "ab"])
    assert drawn.obs["library_size"].median() == pytest.approx(np.median(measured), rel=0.15)
    assert drawn.obs["library_size"].max() <= measured.max()
    np.testing.assert_allclose(drawn.obs["total_counts"].sum() / drawn.obs["library_size"].sum(), 1, atol=0.03)
    a_counts = np.expm1(out.layers["slice_a"]) * out.obs["slice_a_library_size"].to_numpy()[:, None] / 1e4
    share = np.nansum(a_counts, axis=0) / np.nansum(a_counts)
    mine = drawn.X.sum(axis=0).A1 / drawn.X.sum()
    assert np.corrcoef(share, mine)[0, 1] > 0.95


def test_the_same_for_a_seed_whatever_is_asked_for(
    out: AnnData, drawn: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    genes = list(out.var_names[[41, 7]])
    monkeypatch.setattr(counts, "GENE_CHUNK", 7)
    two = c2sti.tl.sample_counts(out, genes=genes, sections="c2sti_2")
    expected = drawn[(drawn.obs["section"] == "c2sti_2").to_numpy(), genes]
    np.testing.assert_array_equal(two.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(two.obs["library_size"], expected.obs["library_size"])
    assert list(two.obs_names) == list(expected.obs_names)
    other = c2sti.tl.sample_counts(out, genes=genes, sections="c2sti_2", seed=1)
    assert (other.X != two.X).nnz > 0


def test_of_a_stack_it_is_the_same(out: AnnData, drawn: AnnData) -> None:
    stack = c2sti.tl.to_slices(out)
    np.testing.assert_array_equal(c2sti.tl.sample_counts(stack).X.toarray(), drawn.X.toarray())
    stack.X = sp.csr_matrix(stack.X)
    np.testing.assert_array_equal(c2sti.tl.sample_counts(stack).X.toarray(), drawn.X.toarray())


def test_of_a_series(series: list[AnnData]) -> None:
    def fill(**where: object) -> AnnData:
        return c2sti.tl.interpolate_series(series, model="linear", show_progress_bar=False, **where)

    drawn = c2sti.tl.sample_counts(fill(at_z=[0.0, 75.0, 150.0, 200.0, 300.0]))
    assert list(drawn.obs["section"].cat.categories) == ["c2sti_1", "c2sti_2"]
    assert list(drawn.uns["c2sti"]["neighbours"]["a"]) == [0, 1]
    assert (drawn.X.data % 1 == 0).all()
    with pytest.raises(ValueError, match=r"'slice_2', beside 'c2sti_1', is not in the stack.*at_z="):
        c2sti.tl.sample_counts(fill(at_z=[150.0, 200.0]))


def test_it_is_written_and_drawn(drawn: AnnData, tmp_path: Path) -> None:
    drawn.write_h5ad(tmp_path / "drawn.h5ad")
    back = ad.read_h5ad(tmp_path / "drawn.h5ad")
    assert back.uns["c2sti"]["synthetic"]
    assert int(back.uns["c2sti"]["counts"]["seed"]) == 0
    np.testing.assert_array_equal(back.X.toarray(), drawn.X.toarray())
    sq.pl.spatial_scatter(back, color=back.var_names[0], library_key="section", shape="square")
    plt.close("all")
    sc.pp.normalize_total(back)


def test_what_cannot_be_drawn(out: AnnData, drawn: AnnData) -> None:
    normalised = out.copy()
    normalised.uns["c2sti"] = {**out.uns["c2sti"], "expression": "as given"}
    with pytest.raises(ValueError, match="given as normalised expression.*from raw counts.*layer='counts'"):
        c2sti.tl.sample_counts(normalised)
    old = out.copy()
    old.obs = old.obs.drop(columns=[c for c in old.obs if c.endswith("library_size")])
    with pytest.raises(KeyError, match="make the result again"):
        c2sti.tl.sample_counts(old)
    with pytest.raises(ValueError, match="holds drawn counts already"):
        c2sti.tl.sample_counts(drawn)
    with pytest.raises(KeyError, match=r"'slice_a' is none of the interpolated sections, \['c2sti_1', 'c2sti_2'\]"):
        c2sti.tl.sample_counts(out, sections="slice_a")
    with pytest.raises(KeyError, match="1 of 1 genes= are not in var_names"):
        c2sti.tl.sample_counts(out, genes="nobody")
    with pytest.raises(KeyError, match="does not hold the result"):
        c2sti.tl.sample_counts(AnnData(np.ones((3, 3))))
