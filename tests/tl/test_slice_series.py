"""A section at any angle through a series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData

import c2sti
from c2sti.datasets import Phantom
from c2sti.tl import _slice_series
from c2sti.tl._slice_series import Plane

HOW = {"model": "linear", "show_progress_bar": False}
OBLIQUE = ((1000.0, 1000.0, 225.0), (0.3, 0.1, 1.0))


def cut(slices: list[AnnData], plane: Any, **keywords: Any) -> AnnData:
    return c2sti.tl.slice_series(slices, plane=plane, **(HOW | keywords))


@pytest.mark.parametrize(
    ("plane", "axes"),
    [
        ({"x": 3000.0}, [[0, 1, 0], [0, 0, 1]]),
        ({"y": -2.0}, [[1, 0, 0], [0, 0, 1]]),
        ({"z": 10.0}, [[1, 0, 0], [0, 1, 0]]),
        (((1, 2, 3), (0, 0, -2)), [[1, 0, 0], [0, 1, 0]]),
        (((1, 2, 3), (0, -1, 1)), [[1, 0, 0], [0, 0.5**0.5, 0.5**0.5]]),
    ],
)
def test_directions_of_a_plane(plane: Any, axes: list[list[float]]) -> None:
    np.testing.assert_allclose(Plane.of(plane).axes, axes, atol=1e-12)


def test_a_plane_has_one_frame_whichever_way_its_normal_points() -> None:
    for normal in np.random.default_rng(0).normal(size=(20, 3)):
        plane, turned = Plane.of(((1, 2, 3), normal)), Plane.of(((1, 2, 3), -3 * normal))
        np.testing.assert_allclose(plane.axes, turned.axes, atol=1e-12)
        np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-12)
        np.testing.assert_allclose(plane.axes @ normal, 0, atol=1e-12)
        assert plane.axes[0, 2] == 0  # a row of bins has one z
        assert plane.axes[1, 2] > 0
        assert np.cross(*plane.axes)[2] > 0  # seen as the sections are, not mirrored
        uv = np.random.default_rng(1).normal(size=(5, 2))
        np.testing.assert_allclose((plane.places(uv) - plane.point) @ plane.axes.T, uv, atol=1e-12)


def test_a_box_is_cut_at_its_edges() -> None:
    low, high = np.zeros(3), np.array([4.0, 2.0, 1.0])
    assert len(Plane.of({"x": 4.5}).cut(low, high)) == 0
    assert len(Plane.of({"z": 1.0}).cut(low, high)) == 4  # a face
    corner = Plane.of(((1, 0, 0), (1, 1, 1)))
    assert len(corner.cut(low, high)) == 3
    np.testing.assert_allclose(np.ptp(Plane.of({"x": 1.0}).cut(low, high), axis=0), [2, 1])


def test_the_section_and_its_record(series: list[AnnData]) -> None:
    section = cut(series, OBLIQUE, obs_keys="domain", std=True, interval=0.9)
    record = section.uns["c2sti"]
    assert record["synthetic"] is True
    assert list(record["sections"]) == list(record["inserted"]) == ["c2sti_1"]
    assert section.obs["inserted"].all()
    assert section.obs_names.is_unique
    assert section.X.dtype == np.float32
    assert np.isfinite(section.X).all()
    assert set(section.layers) == {"std", "lower", "upper"}
    assert section.obs["confidence"].between(0, 1).all()
    np.testing.assert_allclose(section.obsm["domain"].sum(axis=1), 1, atol=1e-5)
    xyz, plane = section.obsm["spatial_3d"], record["plane"]
    np.testing.assert_array_equal(xyz[:, 2], section.obs["z"])
    np.testing.assert_allclose((xyz - plane["point"]) @ plane["normal"], 0, atol=1e-6)
    np.testing.assert_allclose((xyz - plane["point"]) @ plane["axes"].T, section.obsm["spatial"], atol=1e-6)
    lattice = record["lattice"]
    at = np.column_stack([section.obs["array_col"], section.obs["array_row"]]) * lattice["pitch"] + lattice["origin"]
    np.testing.assert_allclose(at, section.obsm["spatial"])
    assert xyz[:, 2].min() >= 0
    assert xyz[:, 2].max() <= 450
    assert len(np.unique(xyz[:, 2])) == section.obs["array_row"].nunique() > 3


@pytest.mark.parametrize(
    ("plane", "model"),
    [
        (OBLIQUE, "lowrank"),
        ({"x": 1000.0}, "lowrank"),
        ({"z": 100.0}, "lowrank"),
        ({"z": 150.0}, "lowrank"),
        ({"x": 1000.0}, "c2sti"),
    ],
    ids=str,
)
def test_a_row_is_what_interpolation_gives_at_its_z(series: list[AnnData], plane: Any, model: str) -> None:
    section = cut(series, plane, model=model, n_context=1, pitch=60.0)
    z = np.unique(section.obs["z"])
    z = z[(z >= 150) & (z < 300)] if len(z) > 1 else z
    gap = 1 if z[0] >= 150 else 0
    at = (section.obs["z"] == z[0]).to_numpy()
    beside = {0: {2.0: series[2]}, 1: {-1.0: series[0], 2.0: series[3]}}[gap]
    pair = c2sti.tl.interpolate(
        series[gap],
        series[gap + 1],
        positions=[max(z[0] / 150 - gap, 1e-6)],
        context=beside,
        at=section.obsm["spatial_3d"][at, :2],
        model=model,
        show_progress_bar=False,
    )
    # described with further sections of the series, and on bins of its own
    assert np.sqrt(np.mean((section.X[at] - pair.X) ** 2)) < (1e-3 if model == "lowrank" else 0.05) * pair.X.std()


def test_rows_may_be_asked_for_one_by_one(series: list[AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    together = cut(series, OBLIQUE, model="lowrank")
    monkeypatch.setattr(_slice_series, "ROWS", 1)
    alone = cut(series, OBLIQUE, model="lowrank")
    assert list(alone.obs_names) == list(together.obs_names)
    np.testing.assert_allclose(alone.X, together.X, atol=1e-2)


def test_it_is_nearer_to_the_truth_than_a_copy(tissue: Phantom, series: list[AnnData]) -> None:
    found = {}
    for model in ("copy", "lowrank", "c2sti"):
        section = cut(series, {"x": 980.0}, model=model, pitch=50.0)
        z = section.obs["z"].to_numpy()
        truth = np.empty_like(section.X)
        inside = np.empty(len(z), dtype=bool)
        for one in np.unique(z):
            xy = section.obsm["spatial_3d"][z == one, :2]
            truth[z == one], inside[z == one] = tissue.expression(xy, one), tissue.inside(xy, one)
        assert inside.mean() > 0.85
        found[model] = c2sti.metrics.pcc(section.X, truth, mask=inside)
    assert found["copy"] < found["lowrank"]
    assert found["copy"] < found["c2sti"]


def test_few_genes_and_other_containers(series: list[AnnData]) -> None:
    whole = cut(series, OBLIQUE)
    few = cut(series, OBLIQUE, genes=list(whole.var_names[[7, 3]]))
    np.testing.assert_allclose(few.X, whole.X[:, [7, 3]], rtol=1e-5)
    together = ad.concat(series, label="section", keys=list("abcd"), index_unique="-")
    np.testing.assert_allclose(cut(together, OBLIQUE, library_key="section").X, whole.X, rtol=1e-5)
    for section in series:
        del section.obs["z_um"]
    np.testing.assert_array_equal(cut(series, OBLIQUE, z=[0.0, 150.0, 300.0, 450.0]).X, whole.X)


def test_it_is_written_drawn_and_described(series: list[AnnData], tmp_path: Path) -> None:
    section = cut(series, {"y": 900.0}, std=True)
    section.write_h5ad(tmp_path / "section.h5ad")
    back = ad.read_h5ad(tmp_path / "section.h5ad")
    assert c2sti.tl.describe(back) == c2sti.tl.describe(section)
    text = c2sti.tl.describe(section)
    assert "c2sti_1 lies in the plane through (0, 900, 0) with normal (0, 1, 0), across slice_0, slice_1" in text
    assert "c2sti.tl.slice_series(slices, plane={'y': 900.0}, model='linear'" in text
    assert [ax.get_title() for ax in c2sti.pl.sections(back, "gene_001")] == ["c2sti_1\ninterpolated, oblique"]
    c2sti.pl.spread(back, "gene_001")
    with pytest.raises(ValueError, match="without the measured sections that the noise of counts is"):
        c2sti.tl.sample_counts(back)


def test_values_of_a_large_section_are_lazy(series: list[AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    dense = cut(series, OBLIQUE, std=True)
    monkeypatch.setattr("c2sti.io.is_dense", lambda *_: False)
    lazy = cut(series, OBLIQUE, std=True)
    np.testing.assert_array_equal(lazy.X.compute(), dense.X)
    np.testing.assert_allclose(lazy.obs["confidence"], dense.obs["confidence"], rtol=1e-5)


BAD: dict[str, tuple[Any, str]] = {
    "misses": ({"x": 9000.0}, r"plane through \(9000, 0, 0\) with normal \(1, 0, 0\) lies outside .* x from"),
    "below": ({"z": 451.0}, r"lies outside of the series, .* z from 0 to 450"),
    "glass": (((470.0, 270.0, 225.0), (1.0, 1.0, 0.0)), "meets no tissue between the sections"),
    "no normal": (((0, 0, 0), (0, 0, 0)), "normal of plane is zero"),
    "normal of two": (((0, 0, 0), (0, 1)), r"the normal of plane is \(0, 1\); three finite numbers"),
    "NaN": (((0, np.nan, 0), (0, 0, 1)), "the point of plane is"),
    "one part": (((0, 0, 0),), r"plane holds 1 part\(s\); a point and a normal"),
    "two axes": ({"x": 1.0, "y": 2.0}, r"plane = .* must name one of x, y and z"),
    "other axis": ({"t": 1.0}, r"plane = .* must name one of x, y and z"),
    "infinite": ({"x": np.inf}, r"plane\['x'\] = inf must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_plane_through_the_series_is_named(series: list[AnnData], case: str) -> None:
    plane, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        cut(series, plane)


WRONG: dict[str, tuple[Callable[[list[AnnData]], Any], str]] = {
    "one section": (lambda s: cut(s[:1], OBLIQUE), "slices holds 1 section"),
    "fine bins": (lambda s: cut(s, OBLIQUE, pitch=0.01), "pitch = 0.01 makes .* bins .* in one unit"),
    "pitch": (lambda s: cut(s, OBLIQUE, pitch=0.0), "pitch = 0.0 must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_wrong_calls_are_named(series: list[AnnData], case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(series)


def test_a_gap_is_complained_of_once(series: list[AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_slice_series, "ROWS", 1)
    monkeypatch.setattr("c2sti.pair_check.measure", lambda *_: {"spatial_concordance": 0.0})
    with pytest.warns(UserWarning, match=r"^slices\[0\] and slices\[1\] do not seem to match") as caught:
        cut(series[:2], {"x": 1000.0}, pitch=20.0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
