"""One section of a result in the hands of scanpy and squidpy."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
import squidpy as sq
from anndata import AnnData

import c2sti
from c2sti.datasets import phantom

QUIET = {"model": "linear", "show_progress_bar": False}


@pytest.fixture(scope="module")
def slices() -> list[AnnData]:
    """Three sections with labels and their colours."""
    sections = phantom(seed=1, size=14, n_genes=20).series([0.0, 200.0, 400.0])
    for section in sections:
        labels = section.obs["domain"].cat.categories
        section.uns["domain_colors"] = [f"#{40 * i:02x}4080" for i in range(len(labels))]
    return sections


@pytest.fixture(scope="module")
def pair(slices: list[AnnData]) -> AnnData:
    return c2sti.tl.interpolate(slices[0], slices[2], n_slices=2, std=True, obs_keys="domain", **QUIET)


@pytest.fixture(scope="module")
def stack(slices: list[AnnData]) -> AnnData:
    return c2sti.tl.interpolate_series(slices, n_slices=1, std=True, obs_keys="domain", **QUIET)


def test_an_interpolated_section_is_that_of_the_result(pair: AnnData) -> None:
    one = c2sti.tl.get_section(pair, "c2sti_2")
    inside = pair.obs["c2sti_2_tissue"].to_numpy()
    np.testing.assert_array_equal(one.X, pair.layers["c2sti_2"][inside])
    np.testing.assert_array_equal(one.layers["std"], pair.layers["c2sti_2_std"][inside])
    np.testing.assert_array_equal(one.obsm["spatial"], pair.obsm["spatial"][inside])
    assert (one.obs["domain"].to_numpy() == pair.obs["c2sti_2_domain"][inside].to_numpy()).all()
    assert list(one.var_names) == list(pair.var_names)
    assert one.obs["z"].unique().round(3).tolist() == [266.667]
    assert one.uns["log1p"] == pair.uns["log1p"]
    assert list(one.uns["spatial"]) == ["c2sti_2"]
    assert len(one.uns["domain_colors"]) == len(one.obs["domain"].cat.categories)
    record = one.uns["c2sti"]
    assert record["sections"] == record["inserted"] == ["c2sti_2"]
    assert c2sti.tl.describe(one).startswith("1 section was computed, not measured. c2sti_2 at z 266.667, 0.667")


@pytest.mark.parametrize("form", ["pair", "stack", "of pair"])
def test_a_measured_section_holds_what_was_measured(pair: AnnData, stack: AnnData, form: str) -> None:
    given = {"pair": pair, "stack": stack, "of pair": c2sti.tl.to_slices(pair)}[form]
    name = "slice_2" if form == "stack" else "slice_b"
    one = c2sti.tl.get_section(given, name)
    assert not one.layers and "confidence" not in one.obs
    assert not one.obs["inserted"].any()
    assert one.obs["library_size"].notna().all()
    assert not one.uns["c2sti"]["synthetic"]
    assert c2sti.tl.describe(one).startswith("All sections were measured.")


@pytest.mark.parametrize("name", ["c2sti_2", "slice_1"])
def test_scanpy_and_squidpy_take_it_as_it_is(stack: AnnData, name: str, tmp_path: Path) -> None:
    one = c2sti.tl.get_section(stack, name)
    sc.pp.pca(one, n_comps=5)
    sc.tl.rank_genes_groups(one, "domain")
    sq.gr.spatial_neighbors(one)
    sq.gr.spatial_autocorr(one, mode="moran", show_progress_bar=False)
    with np.errstate(divide="ignore", invalid="ignore"):  # domains that no permutation brings together
        sq.gr.nhood_enrichment(one, cluster_key="domain", n_perms=20, show_progress_bar=False)
    sq.pl.spatial_scatter(one, color=["domain", one.var_names[0]])
    plt.close("all")
    one.write_h5ad(tmp_path / "one.h5ad")
    assert list(ad.read_h5ad(tmp_path / "one.h5ad").uns["spatial"]) == [name]


@pytest.mark.parametrize("move", [0.0, -900.0, -3000.0, 40_000.0])
def test_squidpy_fits_its_axes_to_the_tissue(
    slices: list[AnnData], move: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(c2sti._logging, "warning", said.append)
    first, second = (section.copy() for section in slices[:2])
    for section in (first, second):
        section.obsm["spatial"] = section.obsm["spatial"] + move
        del section.uns["spatial"]
    one = c2sti.tl.get_section(c2sti.tl.interpolate(first, second, **QUIET), "c2sti_1")
    assert any("img=False" in text for text in said) == (move in (-3000.0, 40_000.0))

    def filled(**how: bool) -> float:
        """Share of the axes that the tissue takes, by its extent."""
        _, ax = plt.subplots()
        sq.pl.spatial_scatter(one, color=one.var_names[0], ax=ax, **how)
        scale = one.uns["spatial"]["c2sti_1"]["scalefactors"]["tissue_hires_scalef"]
        shares = np.ptp(one.obsm["spatial"], axis=0) * scale / np.abs([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])
        plt.close()
        return float(np.prod(shares))

    assert filled(img=False) > 0.6
    assert (filled() > 0.2) == (move in (0.0, -900.0))  # squidpy's axes begin at the origin


def test_it_is_the_same_from_lazy_and_stored_results(slices: list[AnnData], stack: AnnData, tmp_path: Path) -> None:
    how = {"std": True, "obs_keys": "domain", **QUIET}
    stored = {
        "pair": c2sti.tl.interpolate(*slices[:2], out=tmp_path / "pair.zarr", **how),
        "stack": c2sti.tl.interpolate_series(slices, n_slices=1, out=tmp_path / "stack.zarr", **how),
    }
    wanted = {"pair": c2sti.tl.interpolate(*slices[:2], **how), "stack": stack}
    for form, names in {"pair": ["c2sti_1", "slice_b"], "stack": ["c2sti_2", "slice_1"]}.items():
        for given in (stored[form], ad.read_zarr(tmp_path / f"{form}.zarr")):
            for name in names:
                one, expected = (c2sti.tl.get_section(x, name) for x in (given, wanted[form]))
                assert isinstance(one.X, np.ndarray)
                np.testing.assert_allclose(one.X, expected.X, rtol=1e-5, atol=2e-5)
                assert (one.obs["domain"].to_numpy() == expected.obs["domain"].to_numpy()).all()
                assert set(one.obsm) == set(expected.obsm) and not one.varm
                assert list(one.layers) == list(expected.layers)


def test_of_counts_and_of_a_plane(slices: list[AnnData], pair: AnnData) -> None:
    drawn = c2sti.tl.get_section(c2sti.tl.sample_counts(pair), "c2sti_1")
    assert (drawn.X.data % 1 == 0).all() and "log1p" not in drawn.uns
    cut = c2sti.tl.slice_series(slices, plane={"x": 800.0}, **QUIET)
    one = c2sti.tl.get_section(cut, "c2sti_1")
    np.testing.assert_array_equal(one.X, cut.X)
    assert one.obs["z"].nunique() > 2


def test_z_that_nobody_knows_is_left_out(slices: list[AnnData]) -> None:
    first, second = (section.copy() for section in slices[:2])
    del first.obs["z_um"], second.obs["z_um"]
    one = c2sti.tl.get_section(c2sti.tl.interpolate(first, second, **QUIET), "c2sti_1")
    assert "z" not in one.obs and "spatial_3d" not in one.obsm


def test_a_section_that_is_not_there_is_named(pair: AnnData, stack: AnnData) -> None:
    with pytest.raises(KeyError, match="no section 'c2sti_9' in the result; it has slice_a, c2sti_1, c2sti_2, slice_b"):
        c2sti.tl.get_section(pair, "c2sti_9")
    part = stack[(stack.obs["section"] == "slice_1").to_numpy()]
    with pytest.raises(KeyError, match="no section 'c2sti_1' in the result; it has slice_1\""):
        c2sti.tl.get_section(part, "c2sti_1")
    with pytest.raises(TypeError, match="section"):
        c2sti.tl.get_section(pair, 1)
    bare = stack.copy()
    bare.X = None
    with pytest.raises(KeyError, match="X is missing from the stack"):
        c2sti.tl.get_section(bare, "c2sti_1")
