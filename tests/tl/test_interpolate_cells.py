from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti.datasets import phantom

QUIET: dict[str, Any] = {"show_progress_bar": False, "model": "linear", "on_misfit": "ignore"}


@pytest.fixture(scope="module")
def _cells() -> list[AnnData]:
    tissue = phantom(seed=0, size=8, n_genes=20)
    return tissue.series([0.0, 50.0, 100.0], layout="cells", image=False, library_size=60.0)


@pytest.fixture
def cells(_cells: list[AnnData]) -> list[AnnData]:
    """Three sections of single cells, 50 µm apart; a fresh copy for every test."""
    return [section.copy() for section in _cells]


def between(cells: list[AnnData], **given: Any) -> AnnData:
    return c2sti.tl.interpolate_cells(cells[0], cells[2], **{**QUIET, **given})


def test_rows_are_cells_of_the_sections_with_their_own_types(cells: list[AnnData]) -> None:
    out = between(cells, labels="domain", n_slices=2)
    assert list(out.obs["section"].cat.categories) == ["c2sti_1", "c2sti_2"]
    assert out.obs["inserted"].all()
    assert sorted(out.obs["z"].unique().round(3)) == [33.333, 66.667]
    for name, section in (("slice_a", cells[0]), ("slice_b", cells[2])):
        own = out.obs[out.obs["from_section"] == name]
        assert (own["domain"].astype(str).to_numpy() == section.obs.loc[own["from_cell"], "domain"].astype(str)).all()
    assert not out.obs.duplicated(["section", "from_section", "from_cell"]).any()
    near_b = (out.obs["from_section"] == "slice_b").groupby(out.obs["section"], observed=True).mean()
    assert near_b["c2sti_1"] < 0.5 < near_b["c2sti_2"]
    assert out.X.dtype == np.float32
    assert out.X.min() >= 0
    assert out.n_obs == pytest.approx(cells[0].n_obs + cells[2].n_obs, rel=0.05)
    np.testing.assert_array_equal(out.obsm["spatial_3d"][:, :2], out.obsm["spatial"])


def test_the_result_says_that_it_is_synthetic_and_how_it_was_made(cells: list[AnnData], tmp_path: Path) -> None:
    out = between(cells, labels="domain", seed=3)
    assert out.uns["c2sti"]["synthetic"]
    assert out.uns["c2sti"]["sections"] == ["slice_a", "c2sti_1", "slice_b"]
    text = c2sti.tl.describe(out)
    assert "computed, not measured" in text
    assert "cells" in text
    assert "bins" not in text
    assert "interpolate_cells(slice_a, slice_b, labels='domain', model='linear'" in text
    out.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert c2sti.tl.describe(again) == text
    with pytest.raises(ValueError, match="cells.*counts=True"):
        c2sti.tl.sample_counts(out)


def test_counts_are_whole_and_as_many_as_measured(cells: list[AnnData]) -> None:
    out = between(cells, counts=True)
    assert sp.issparse(out.X)
    assert out.X.dtype == np.float32
    assert (out.X.data % 1 == 0).all()
    found, measured = (np.asarray(adata.X.mean(axis=0)).ravel() for adata in (out, cells[1]))
    assert np.corrcoef(found, measured)[0, 1] > 0.98
    assert found.sum() == pytest.approx(measured.sum(), rel=0.1)
    np.testing.assert_allclose(out.obs["total_counts"], np.asarray(out.X.sum(axis=1)).ravel())
    assert "log1p" not in out.uns
    logged = between(cells)
    sc.pp.normalize_total(out, target_sum=1e4)
    sc.pp.log1p(out)
    np.testing.assert_allclose(out.X.toarray(), logged.X.toarray(), atol=1e-3)


def test_genes_are_those_asked_for(cells: list[AnnData]) -> None:
    names = list(cells[0].var_names[[7, 2]])
    whole, some = between(cells), between(cells, genes=names)
    assert list(some.var_names) == names
    np.testing.assert_allclose(some.X.toarray(), whole[:, names].X.toarray(), atol=1e-5)


def test_normalised_expression_is_moved_by_what_the_model_says(cells: list[AnnData]) -> None:
    for section in cells:
        sc.pp.normalize_total(section, target_sum=1e4)
        sc.pp.log1p(section)
    out = between(cells)
    assert out.X.min() >= 0
    np.testing.assert_allclose(out.X.mean(axis=0), cells[1].X.mean(axis=0), atol=0.5)
    with pytest.raises(ValueError, match="slice_a.*counts=True"):
        between(cells, counts=True)


def test_the_seed_decides(cells: list[AnnData]) -> None:
    first, again, other = (between(cells, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())
    np.testing.assert_array_equal(first.obsm["spatial"], again.obsm["spatial"])
    assert list(first.obs["from_cell"]) != list(other.obs["from_cell"])


def test_cells_move_with_the_tissue() -> None:
    """Halfway between a section and the same one, bent: cells lie where the registration says."""
    tissue = phantom(seed=0, size=10, n_genes=60, change=0.0)
    a, b = tissue.series([0.0, 120.0], layout="cells", image=False, library_size=120.0)
    out = c2sti.tl.interpolate_cells(a, b, show_progress_bar=False, on_misfit="ignore")
    own = (out.obs["from_section"] == "slice_a").to_numpy()
    before = a[out.obs["from_cell"][own]].obsm["spatial"]
    moved = before + tissue.displacement(before, 0.0, 60.0)
    left = np.linalg.norm(out.obsm["spatial"][own] - moved, axis=1).mean()
    assert left < 0.8 * np.linalg.norm(before - moved, axis=1).mean()


def test_a_type_of_one_section_is_said_and_fades(cells: list[AnnData], caplog: pytest.LogCaptureFixture) -> None:
    types = cells[2].obs["domain"].astype(str)
    types[cells[2].obsm["spatial"][:, 0] < np.median(cells[2].obsm["spatial"][:, 0])] = "new"
    cells[2].obs["domain"] = types
    out = between(cells, labels="domain", positions=[0.2, 0.8])
    assert out.uns["c2sti"]["cells"]["types_in_one_section"] == {"new": "slice_b"}
    found = (out.obs["domain"] == "new").groupby(out.obs["section"], observed=True).sum()
    assert found["c2sti_1"] == pytest.approx(0.2 * (types == "new").sum(), rel=0.2)
    assert found["c2sti_2"] == pytest.approx(0.8 * (types == "new").sum(), rel=0.2)


def test_unknown_types_stay_unknown(cells: list[AnnData]) -> None:
    cells[0].obs["domain"] = cells[0].obs["domain"].where(np.arange(cells[0].n_obs) >= 30)
    out = between(cells, labels="domain")
    assert 0 < out.obs["domain"].isna().sum() <= 30


def test_what_cannot_be_used_is_refused(cells: list[AnnData]) -> None:
    a, _, b = cells
    with pytest.raises(ValueError, match="slice_b has 49 cells; at least 50"):
        between([a, a, b[:49].copy()])
    with pytest.raises(KeyError, match="nothing.*Types of both sections"):
        between(cells, labels="nothing")
    with pytest.raises(ValueError, match="labels='from_cell'"):
        between(cells, labels="from_cell")
    b.obs["number"] = a.obs["number"] = 0.5
    with pytest.raises(ValueError, match="numbers"):
        between(cells, labels="number")
    del b.obs["domain"]
    with pytest.raises(KeyError, match="slice_b.*domain.*labels=None"):
        between(cells, labels="domain")
    spots = phantom(seed=0, size=8, n_genes=20).section(0.0, image=False)
    with pytest.raises(ValueError, match="slice_a is a square array of spots.*interpolate"):
        between([spots, a, b])


def test_evaluate_scores_cells(cells: list[AnnData]) -> None:
    how: dict[str, Any] = {"methods": ["linear"], "on_misfit": "ignore", "show_progress_bar": False}
    table = c2sti.tl.evaluate(cells, output="cells", labels="domain", **how).set_index("method")
    assert list(table.index) == ["copy", "mixture", "linear", "half"]
    assert np.isfinite(table.select_dtypes("number").to_numpy()).all()
    assert table.loc["linear", "density_rmse"] < table.loc["mixture", "density_rmse"]
    assert table.loc["linear", "spacing"] < table.loc["mixture", "spacing"]
    plain = c2sti.tl.evaluate(cells, output="cells", **how)
    assert plain["type_pcc"].isna().all()
    assert np.isfinite(plain["local_pcc"]).all()
    with pytest.raises(ValueError, match="output='bins'"):
        c2sti.tl.evaluate(cells, output="bins")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels="):
        c2sti.tl.evaluate(cells, labels="domain")
    with pytest.raises(ValueError, match="intervals="):
        c2sti.tl.evaluate(cells, output="cells", intervals=[0.5])
