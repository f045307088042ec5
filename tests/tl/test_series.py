"""A whole series, filled to an even spacing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from scipy.spatial import KDTree

import c2sti
from c2sti.datasets import Phantom
from c2sti.models import components
from c2sti.tl._series import MOST_SECTIONS, described_together
from c2sti.tl._series_z import places_of, z_wanted


def fill(slices: list[AnnData], **keywords: object) -> AnnData:
    return c2sti.tl.interpolate_series(slices, **{"model": "linear", "show_progress_bar": False, **keywords})


def values_of(stack: AnnData, name: str) -> AnnData:
    return stack[(stack.obs["section"] == name).to_numpy()]


@pytest.fixture
def uneven(series: list[AnnData]) -> list[AnnData]:
    """Three sections at 0, 150 and 450 µm, with labels."""
    for section in series:
        section.uns["domain_colors"] = [f"#{40 * i:02x}4080" for i in range(len(section.obs["domain"].cat.categories))]
    return [series[0], series[1], series[3]]


def test_the_whole_stack(uneven: list[AnnData]) -> None:
    stack = fill(uneven, spacing=75.0, obs_keys=("domain",))
    record = stack.uns["c2sti"]
    names = ["slice_0", "c2sti_1", "slice_1", "c2sti_2", "c2sti_3", "c2sti_4", "slice_2"]
    assert list(stack.obs["section"].cat.categories) == list(record["sections"]) == names
    np.testing.assert_allclose(record["z"], np.arange(7) * 75.0)
    assert record["synthetic"] is True
    assert list(record["inserted"]) == [name for name in names if name.startswith("c2sti")]
    np.testing.assert_allclose(record["neighbours"]["position"], [0.5, 0.25, 0.5, 0.75])
    assert record["neighbours"]["a"].tolist() == [0, 1, 1, 1]
    assert set(record["inputs"]) == {"slices[0]", "slices[1]", "slices[2]"}
    assert stack.X.dtype == np.float32
    assert np.isfinite(stack.X).all()
    assert stack.obs_names.is_unique
    np.testing.assert_array_equal(stack.obs["inserted"], stack.obs["section"].astype(str).str.startswith("c2sti"))
    np.testing.assert_array_equal(stack.obs["support"] == "measured", ~stack.obs["inserted"])
    np.testing.assert_array_equal(stack.obsm["spatial_3d"][:, :2], stack.obsm["spatial"])
    np.testing.assert_array_equal(stack.obsm["spatial_3d"][:, 2], stack.obs["z"])
    # one lattice through all sections
    lattice = record["lattice"]
    at = np.column_stack([stack.obs["array_col"], stack.obs["array_row"]]) * lattice["pitch"] + lattice["origin"]
    np.testing.assert_allclose(at, stack.obsm["spatial"])
    np.testing.assert_allclose(stack.obsm["domain"].sum(axis=1), 1, atol=1e-5)
    assert list(stack.uns["domain_colors"]) == list(uneven[0].uns["domain_colors"])
    assert list(stack.uns["spatial"]) == names


def test_a_section_is_that_of_interpolate_and_a_measured_one_is_passed_on(uneven: list[AnnData]) -> None:
    stack = fill(uneven, at_z=[150.0, 210.0], model="lowrank", n_context=1, obs_keys="domain")
    pair = c2sti.tl.interpolate(
        uneven[1],
        uneven[2],
        positions=[0.2],
        context={-0.5: uneven[0]},
        at=values_of(stack, "c2sti_1").obsm["spatial"],
        model="lowrank",
        obs_keys="domain",
        show_progress_bar=False,
    )
    np.testing.assert_allclose(values_of(stack, "c2sti_1").X, pair.X, atol=1e-4)
    assert (values_of(stack, "c2sti_1").obs["domain"].to_numpy() == pair.obs["c2sti_1_domain"].to_numpy()).all()
    measured = uneven[1]
    sc.pp.normalize_total(measured, target_sum=1e4)
    sc.pp.log1p(measured)
    found = values_of(stack, "slice_1")
    # the lattice lies on the array, so a bin of the tissue is a spot
    order, spots = np.lexsort(found.obsm["spatial"].T.round()), np.lexsort(measured.obsm["spatial"].T.round())
    where = pd.MultiIndex.from_arrays(found.obsm["spatial"][order].T.round(3))
    keep = where.isin(pd.MultiIndex.from_arrays(measured.obsm["spatial"][spots].T.round(3)))
    np.testing.assert_allclose(found.X[order][keep], measured.X.toarray()[spots], rtol=1e-4, atol=1e-5)
    assert (found.obs["domain"].to_numpy()[order][keep] == measured.obs["domain"].to_numpy()[spots]).all()


def test_the_rest_of_the_series_is_context(series: list[AnnData]) -> None:
    alone, around = (fill(series, at_z=[225.0], model="lowrank", n_context=n) for n in (0, 1))
    assert np.abs(alone.X - around.X).max() > 1e-3
    np.testing.assert_array_equal(fill(series, at_z=[225.0]).X, fill(series[1:3], at_z=[225.0], pitch=100.0).X)


@pytest.mark.parametrize("n_context", [0, 1, 2, 7])
@pytest.mark.parametrize("n_sections", [2, 3, 6, 12, 13, 40])
def test_every_gap_is_read_from_a_description_of_its_neighbours(n_sections: int, n_context: int) -> None:
    gaps = [gap for gap in range(n_sections - 1) if gap % 5 != 3]
    found = list(described_together(gaps, n_sections, n_context))
    assert [gap for of_window, _ in found for gap in of_window] == gaps
    for of_window, window in found:
        for gap in of_window:
            around = range(max(gap - n_context, 0), min(gap + 2 + n_context, n_sections))
            assert set(around) <= set(window)
        assert len(window) <= max(MOST_SECTIONS, 2 + 2 * n_context)
        assert n_context or len(window) == 2  # nothing else is to be looked at
    if n_context and n_sections <= MOST_SECTIONS:
        assert len(found) == 1


def test_a_series_is_described_once(series: list[AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gaps say what each pair says with the others as context, but for the unit of lengths."""
    made = []
    original = components.describe
    monkeypatch.setattr("c2sti.tl._series.describe", lambda *a, **k: made.append(len(a[0])) or original(*a, **k))
    stack = fill(series, spacing=75.0, model="c2sti")
    assert made == [len(series)]
    z = [float(s.obs["z_um"].iloc[0]) for s in series]
    scale = [(one - z[1]) / (z[2] - z[1]) for one in z]
    around = {q: s for q, s in zip(scale, series, strict=True) if q not in (0, 1)}
    part = next(
        values_of(stack, n)
        for n, at in zip(stack.uns["c2sti"]["sections"], stack.uns["c2sti"]["z"], strict=True)
        if z[1] < at < z[2]
    )
    p = (float(part.obs["z"].iloc[0]) - z[1]) / (z[2] - z[1])
    alone = c2sti.tl.interpolate(
        series[1], series[2], positions=[p], context=around, at=part.obsm["spatial"], show_progress_bar=False
    )
    assert np.corrcoef(alone.layers["c2sti_1"].ravel(), np.asarray(part.X).ravel())[0, 1] > 0.999


def test_a_few_genes_are_made_from_all(uneven: list[AnnData]) -> None:
    every = fill(uneven, at_z=[75.0, 150.0], model="lowrank")
    gene = every.var_names[4]
    one = fill(uneven, at_z=[75.0, 150.0], model="lowrank", genes=[gene])
    np.testing.assert_allclose(one.X, every[:, gene].X, rtol=1e-6)


def test_it_follows_the_tissue_through_depth(tissue: Phantom, uneven: list[AnnData]) -> None:
    stack = fill(uneven, at_z=[75.0, 300.0], model="lowrank")
    for name, z in (("c2sti_1", 75.0), ("c2sti_2", 300.0)):
        section = values_of(stack, name)
        inside = tissue.inside(section.obsm["spatial"], z)
        assert inside.mean() > 0.85
        truth = tissue.expression(section.obsm["spatial"], z)
        assert c2sti.metrics.pcc(section.X, truth, mask=inside) > 0.35


def test_depths_may_be_given(uneven: list[AnnData]) -> None:
    expected = fill(uneven, n_slices=1)
    for section in uneven:
        del section.obs["z_um"]
    given = fill(uneven, z=[0.0, 150.0, 450.0], spacing=150.0)
    np.testing.assert_array_equal(given.uns["c2sti"]["z"], [0, 150, 300, 450])
    np.testing.assert_array_equal(values_of(given, "c2sti_1").X, values_of(expected, "c2sti_2").X)


def test_measured_sections_are_kept_at_any_spacing() -> None:
    """z of eight measured hearts: steps of 20 µm from the first one pass seven of them by."""
    depths = np.array([0.0, 49.7, 101.3, 150.0, 210.6, 240.4, 300.1, 345.0])
    for spacing in (3.0, 7.5, 20.0, 33.0, 40.0):
        wanted = z_wanted(depths, spacing=spacing)
        assert np.isin(depths, wanted).all()
        assert (np.diff(wanted) > 0.66 * spacing).all()
        assert (np.diff(wanted) < 1.51 * spacing).all() or spacing > 30
        inside = wanted[~np.isin(wanted, depths)]
        assert np.abs(inside[:, None] - depths).min() >= spacing / 2
    assert z_wanted(np.array([0.0, 30.0, 40.0]), spacing=20.0).tolist() == [0.0, 15.0, 30.0, 40.0]


def test_each_gap_has_the_number_of_sections_asked_for() -> None:
    depths = np.array([0.0, 10.0, 30.0, 40.0])
    assert z_wanted(depths, n_slices=1).tolist() == [0.0, 5.0, 10.0, 20.0, 30.0, 35.0, 40.0]
    assert z_wanted(depths, n_slices=(0, 3, 1)).tolist() == [0.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0]


def test_z_without_a_unit_is_said(uneven: list[AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("c2sti._logging.warning", said.append)
    fill(uneven, n_slices=1)
    assert said == []
    for section in uneven:
        section.obs = section.obs.rename(columns={"z_um": "z"})
    fill(uneven, n_slices=1)
    assert "obs['z'] of slices[0], slices[1], slices[2] names no unit" in said.pop()
    fill(uneven, n_slices=1, z=[0.0, 150.0, 450.0])
    assert said == []


def test_places_are_those_of_the_gaps() -> None:
    wanted = np.array([0.0, 4.0, 10.0 + 1e-9, 25.0, 30.0])
    places = places_of(np.array([0.0, 10.0, 30.0]), wanted, ["a", "b", "c"], "x")
    expected = {
        "a": (0.0, 0, 0.0),
        "x_1": (4.0, 0, 0.4),
        "b": (10.0, 1, 0.0),
        "x_2": (25.0, 1, 0.75),
        "c": (30.0, 2, 0.0),
    }
    assert {place.Index: (place.z, place.first, place.position) for place in places.itertuples()} == expected


@pytest.mark.parametrize("depths", [[75.0, 225.0], [0.0, 450.0]])
def test_it_survives_writing_and_is_drawn(uneven: list[AnnData], tmp_path: Path, depths: list[float]) -> None:
    stack = fill(uneven, at_z=depths, obs_keys=("domain",))
    stack.write_h5ad(tmp_path / "stack.h5ad")
    stack.write_zarr(tmp_path / "stack.zarr")
    for back in (ad.read_h5ad(tmp_path / "stack.h5ad"), ad.read_zarr(tmp_path / "stack.zarr")):
        np.testing.assert_array_equal(back.X, stack.X)
        pd.testing.assert_frame_equal(back.uns["c2sti"]["neighbours"], stack.uns["c2sti"]["neighbours"])
        assert list(back.obs["section"].cat.categories) == list(stack.obs["section"].cat.categories)
    axes = sc.pl.embedding(stack, basis="spatial_3d", projection="3d", color=["domain", stack.var_names[0]], show=False)
    assert [len(ax.collections[0]._offsets3d[2]) for ax in axes] == [stack.n_obs] * 2
    plt.close("all")


def without_z(slices: list[AnnData]) -> dict:
    del slices[1].obs["z_um"]
    return {"spacing": 50.0}


BAD = {
    "one": (lambda s: s.__delitem__(slice(1, None)) or {"spacing": 1.0}, "slices holds 1 section"),
    "no z": (without_z, r"slices\[1\] carry no z; give z="),
    "depths short": (lambda s: {"z": [0.0, 1.0], "spacing": 1.0}, r"z has shape \(2,\); one number for each of the 3"),
    "depths unsorted": (lambda s: s.reverse() or {"spacing": 1.0}, r"\[450.0, 150.0, 0.0\], must increase"),
    "depths twice": (lambda s: {"z": [0.0, 0.0, 1.0], "spacing": 1.0}, "must increase without repeats; put slices"),
    "nothing asked": (lambda s: {}, r"one of n_slices= .* spacing= \(the sections are 150 to 300 apart\) and at_z="),
    "both asked": (lambda s: {"spacing": 1.0, "at_z": [1.0]}, "give one of n_slices="),
    "n_slices 0": (lambda s: {"n_slices": 0}, "n_slices = 0 must be a whole number of at least 1"),
    "n_slices short": (lambda s: {"n_slices": [1]}, r"holds 1 number\(s\); one for each of the 2 gaps"),
    "n_slices many": (lambda s: {"n_slices": 10**6}, "n_slices = 1000000 makes 2000002 sections.*choose fewer"),
    "no room": (lambda s: {"spacing": 225.0}, "leaves no room for a section in any gap.*give spacing=150 or less"),
    "spacing 0": (lambda s: {"spacing": 0.0}, "spacing = 0 must be positive and at most 450"),
    "spacing wide": (lambda s: {"spacing": 451.0}, "at most 450, the whole series"),
    "spacing in mm": (lambda s: {"spacing": 0.001}, "makes 450000 sections.*unit of z"),
    "unsorted": (lambda s: {"at_z": [20.0, 10.0]}, r"at_z, \[20.0, 10.0\], must increase.*try \[10.0, 20.0\]"),
    "twice": (lambda s: {"at_z": [10.0, 10.0]}, "must increase without repeats"),
    "outside": (lambda s: {"at_z": [10.0, 500.0]}, r"at_z = \[500.0\] lie outside of the series, .* from 0 to 450"),
    "NaN": (lambda s: {"at_z": [np.nan]}, "must increase"),
    "empty": (lambda s: {"at_z": []}, r"at_z has shape \(0,\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_filled_is_named(uneven: list[AnnData], case: str) -> None:
    spoil, message = BAD[case]
    spoil: Callable[[list[AnnData]], dict]
    keywords = spoil(uneven)
    with pytest.raises(ValueError, match=message):
        fill(uneven, **keywords)


def test_labels_are_needed_in_some_section(uneven: list[AnnData]) -> None:
    for section in uneven:
        del section.obs["domain"]
    with pytest.raises(KeyError, match=r"has no obs\['domain'\]"):
        fill(uneven, spacing=75.0, obs_keys="domain")


def test_a_stack_is_not_stacked_again(uneven: list[AnnData]) -> None:
    with pytest.raises(ValueError, match="one row per section and bin already"):
        c2sti.tl.to_slices(fill(uneven, at_z=[75.0]))


def test_numbers_and_labels_of_normalised_sections(uneven: list[AnnData]) -> None:
    """Measured rows tell their nearest spot; where nobody counted and nobody chose colours, nothing is said of them."""
    for section in uneven:
        section.X = section.X.log1p()
        section.obs["half"] = pd.Categorical(np.where(section.obsm["spatial"][:, 0] > 500, "right", "left"))
        section.obs["x"] = section.obsm["spatial"][:, 0]
    stack = fill(uneven, spacing=100.0, obs_keys=["half", "x"])
    assert list(stack.uns["c2sti"]["obs_keys"]) == ["half", "x"]
    assert "library_size" not in stack.obs
    assert not [key for key in stack.uns if key.endswith("_colors")]
    rows = stack.obs["section"] == "slice_0"
    near = KDTree(uneven[0].obsm["spatial"]).query(stack.obsm["spatial"][rows])[1]
    assert rows.sum() > 50
    np.testing.assert_allclose(stack.obs["x"][rows], uneven[0].obs["x"].to_numpy()[near])
    assert stack.obs["half"][rows].tolist() == uneven[0].obs["half"].iloc[near].tolist()
    out = c2sti.tl.interpolate(*uneven[:2], model="linear", show_progress_bar=False)
    assert "library_size" not in c2sti.tl.to_slices(out).obs


# ---- measured rows are measured spots


def hexagonal(seed: int, z: float, n: int = 14) -> AnnData:
    """Spots of a hexagonal array, with what people have in obs."""
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(n * n), n)
    xy = np.column_stack([column + 0.5 * (row % 2), row * 3**0.5 / 2]) * 100.0
    level = 2 + np.sin(xy[:, :1] / 300) * np.linspace(-1, 1, 12)
    section = AnnData(sp.csr_matrix(rng.poisson(5 * level).astype(np.float32)), obsm={"spatial": xy})
    section.obs_names, section.var_names = [f"spot{i}" for i in range(n * n)], [f"g{i}" for i in range(12)]
    section.obs["z_um"], section.obs["in_tissue"] = z, 1
    section.obs["layer"] = pd.Categorical(np.where(xy[:, 0] > 600, "L1", "L2"))
    section.obs["good"] = rng.random(n * n) > 0.5
    return section[rng.permutation(n * n)].copy()


def test_rows_of_a_measured_section_are_its_spots(tmp_path: Path) -> None:
    sections = [hexagonal(i, 20.0 * i) for i in range(3)]
    sections[1].obs["only"] = np.arange(sections[1].n_obs)
    stack = fill(sections, spacing=10.0, model="linear", std=True)
    for i, section in enumerate(sections):
        rows = values_of(stack, f"slice_{i}")
        assert list(rows.obs_names) == [f"slice_{i}_{name}" for name in section.obs_names]  # alike in all sections
        np.testing.assert_array_equal(rows.obsm["spatial"], section.obsm["spatial"])
        library = np.asarray(section.X.sum(axis=1)).ravel()
        np.testing.assert_array_equal(rows.obs["library_size"], library)
        np.testing.assert_allclose(np.expm1(rows.X) * library[:, None] / 1e4, section.X.toarray(), atol=1e-3)
        assert list(rows.obs["layer"]) == list(section.obs["layer"])
        assert list(rows.obs["good"]) == list(section.obs["good"])
        assert np.isnan(rows.layers["std"]).all()
        assert rows.uns["spatial"][f"slice_{i}"]["scalefactors"]["spot_diameter_fullres"] == pytest.approx(100)
    np.testing.assert_array_equal(values_of(stack, "slice_1").obs["only"], sections[1].obs["only"])
    assert stack.obs.loc[stack.obs["inserted"], ["layer", "good", "only"]].isna().all(axis=None)
    assert stack.obs.loc[stack.obs["section"] == "slice_0", "only"].isna().all()
    stack.write_h5ad(tmp_path / "stack.h5ad")
    back = ad.read_h5ad(tmp_path / "stack.h5ad")
    np.testing.assert_array_equal(back.X, stack.X)
    assert list(back.obs["good"].dropna()) == list(stack.obs["good"].dropna())
    for i, section in enumerate(sections):
        section.obs_names = [f"{i}-{name}" for name in section.obs_names]
    own = fill(sections, spacing=10.0, model="copy")
    assert list(values_of(own, "slice_2").obs_names) == list(sections[2].obs_names)
    drawn = c2sti.tl.sample_counts(own)
    depth = np.median(drawn.obs["library_size"])
    assert depth == pytest.approx(np.median(own.obs["library_size"].dropna()), rel=0.1)


def test_cells_are_rows_of_their_own_and_counts_are_drawn_for_bins_of_them() -> None:
    rng = np.random.default_rng(0)
    sections = []
    for z in (0.0, 10.0):
        cells = AnnData(sp.csr_matrix(rng.poisson(2.0, (1500, 20)).astype(np.float32)))
        cells.obsm["spatial"], cells.obs["z_um"] = rng.uniform(0, 300, (1500, 2)), z
        sections.append(cells)
    stack = fill(sections, spacing=5.0, model="linear")
    assert values_of(stack, "slice_0").n_obs == 1500
    assert np.median(values_of(stack, "slice_0").obs["library_size"]) == 40
    drawn = c2sti.tl.sample_counts(stack)
    per_bin = 1500 / values_of(stack, "c2sti_1").n_obs
    assert np.median(drawn.obs["library_size"]) == pytest.approx(40 * per_bin, rel=0.2)


@pytest.mark.parametrize("model", ["gp", "linear"])  # dense factors and sparse ones
def test_a_stored_series_is_that_in_memory(series: list[AnnData], tmp_path: Path, model: str) -> None:
    how = {"spacing": 50.0, "model": model, "std": True, "interval": 0.9, "obs_keys": "domain"}
    wanted = fill(series, **how)
    stored, lazy = fill(series, out=tmp_path / "s.zarr", **how), fill(series, max_memory=1000, **how)
    plain = ad.read_zarr(tmp_path / "s.zarr")
    assert plain.X is None and list(plain.layers) == ["measured"]
    opened = c2sti.read_zarr(tmp_path / "s.zarr")
    for found in (stored, lazy, opened, c2sti.tl.materialize(plain)):
        assert list(found.obs_names) == list(wanted.obs_names)
        np.testing.assert_allclose(np.asarray(found.X), wanted.X, rtol=1e-5, atol=2e-5)
        assert list(found.layers) == ["std", "lower", "upper"]
        for name in found.layers:
            atol = 1e-4 if name == "std" else 1e-3
            np.testing.assert_allclose(np.asarray(found.layers[name]), wanted.layers[name], rtol=1e-5, atol=atol)
        assert (found.obs["domain"].to_numpy() == wanted.obs["domain"].to_numpy()).all()
    some = np.sort(np.random.default_rng(0).permutation(wanted.n_obs)[:200])
    few = c2sti.tl.materialize(plain[some].copy(), genes=list(wanted.var_names[[4, 1]]))
    np.testing.assert_allclose(few.X, wanted.X[some][:, [4, 1]], rtol=1e-5, atol=2e-5)
    assert not few.varm and set(few.obsm) == set(wanted.obsm)
    with pytest.raises(FileExistsError, match="s.zarr exists"):
        fill(series, out=tmp_path / "s.zarr", **how)
    measured = fill(series, at_z=[0.0, 150.0], model=model, out=tmp_path / "m.zarr")
    np.testing.assert_array_equal(np.asarray(measured.X), fill(series, at_z=[0.0, 150.0]).X)
