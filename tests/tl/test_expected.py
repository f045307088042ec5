"""The PCC that genes are expected to reach: by hand, against held-out sections, and in every form of a result."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti._types import InterpolatedSection, Lattice, Section, SlicePair
from c2sti.datasets import Phantom
from c2sti.models._registry import METHODS, bundled
from c2sti.tl._expected import expected_pcc, gives_means

GP = {"model": "gp", "show_progress_bar": False}


def pair_of(*values: np.ndarray) -> SlicePair:
    """Two sections on the same array, of (n, N) expression each."""
    side = int(np.sqrt(len(values[0])))
    xy = np.indices((side, side)).reshape(2, -1).T.astype(float)
    a, b = (Section(xy, sp.csr_array(v.astype(np.float32)), float(i)) for i, v in enumerate(values))
    return SlicePair(a, b, 1.0, Lattice((0.0, 0.0), 1.0, (side, side)))


def test_it_is_the_ratio_of_two_deviations() -> None:
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(2500) % 50 / 8)[:, None]
    pair = pair_of(*(np.c_[3 + wave + rng.normal(size=(2500, 1)), np.ones(2500)] for _ in range(2)))
    section = InterpolatedSection(wave, np.array([[0.5, 0.0]]), np.array([3.0, 1.0]))
    inside = np.ones(2500, dtype=bool)
    found = expected_pcc([section], [0.5], [inside], pair, seed=0)
    expected = 0.5 * wave.std() / np.sqrt(wave.var() + 1)
    assert found[0] == pytest.approx(expected, rel=0.05)
    assert np.isnan(found[1])  # it does not vary
    inside[19:] = False
    assert np.isnan(expected_pcc([section], [0.5], [inside], pair, seed=0)).all()


def test_what_one_section_alone_shows_is_not_expected_of_the_missing_one() -> None:
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(2500) % 50 / 8)
    noise = rng.normal(size=(2, 2500, 20))
    shared, own = (4 + np.repeat(w[:, None], 10, axis=1) for w in (wave, rng.permutation(wave)))
    pair = pair_of(np.c_[shared, shared] + noise[0], np.c_[shared, own] + noise[1])
    section = InterpolatedSection(wave[:, None], np.full((1, 20), 0.5), np.full(20, 4.0))
    found = expected_pcc([section], [0.5], [np.ones(2500, dtype=bool)], pair, seed=0)
    assert found[:10].min() > 0.25
    assert found[10:].max() < 0.5 * found[:10].min()


def test_genes_are_ranked_as_on_the_held_out_section(tissue: Phantom, series: list[AnnData]) -> None:
    a, held_out, b = series[:3]
    _, genes = c2sti.tl.evaluate([a, held_out, b], methods=["gp"], return_genes=True, show_progress_bar=False)
    reached = genes[genes["method"] == "gp"].set_index("gene")["pcc"]
    expected = c2sti.tl.interpolate(a, b, **GP).var["expected_pcc"].loc[reached.index]
    assert expected.corr(reached, method="spearman") > 0.6  # of 57 genes in 100 spots
    assert -0.15 < (expected - reached).mean() < 0.05


def test_only_conditional_means_have_it(series: list[AnnData]) -> None:
    assert gives_means(METHODS["gp"]) and gives_means(bundled())
    assert not gives_means(METHODS["lowrank"])
    assert not gives_means(c2sti.C2STi(c2sti.C2STiConfig(start="zero", deforms="features", channels=4)))
    a, b = (section.copy() for section in series[:2])
    for section in (a, b):
        section.var["expected_pcc"] = 0.5  # of another result: it says nothing of this one
    assert "expected_pcc" not in c2sti.tl.interpolate(a, b, model="linear", show_progress_bar=False).var


def test_every_form_of_a_result_has_it(series: list[AnnData], tmp_path: Path) -> None:
    pair = c2sti.tl.interpolate(*series[:2], n_slices=2, **GP)
    expected = pair.var["expected_pcc"]
    stored = c2sti.tl.interpolate(*series[:2], n_slices=2, out=tmp_path / "pair.zarr", **GP)
    forms = [stored, ad.read_zarr(tmp_path / "pair.zarr"), c2sti.tl.materialize(stored)]
    forms += [c2sti.tl.to_slices(pair), c2sti.tl.get_section(pair, "c2sti_1"), c2sti.tl.sample_counts(pair)]
    for form in forms:
        np.testing.assert_allclose(form.var["expected_pcc"], expected, rtol=1e-6)
    table = c2sti.tl.to_spatialdata(pair).tables["c2sti_1"]
    np.testing.assert_array_equal(table.var["expected_pcc"], expected)
    genes = ["gene_002", "gene_001"]
    stack = c2sti.tl.interpolate_series(series[:2], n_slices=2, genes=genes, out=tmp_path / "stack.zarr", **GP)
    np.testing.assert_allclose(stack.var.loc[genes, "expected_pcc"], expected[genes], rtol=1e-6)
