"""Measured series in a folder, and what networks are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from c2sti import benchmark, io
from c2sti.benchmark import _series


def test_series_by_study_and_patient() -> None:
    names = [s.name for s in benchmark.series_of(["stahl", "her2st"], without="BD")]
    assert names == ["her2st A", "her2st C", "stahl"]  # in their own order, whatever was asked for first
    (heart,) = benchmark.series_of(["heart"])
    assert (heart.group, heart.patient, len(heart.files)) == ("heart", "", 8)
    with pytest.raises(
        ValueError, match="there is no series 'liver'; those that exist are her2st, heart, stahl, dlpfc, starmap"
    ):
        benchmark.series_of(["liver"])


def test_a_folder_is_searched_for_whole_series(tmp_path: Path) -> None:
    message = r"measured series; looked for her2st/her2st_A1.h5ad … her2st_A6.h5ad, .*BC1.h5ad … BC4.h5ad, .*673.h5ad"
    with pytest.raises(FileNotFoundError, match=message):
        _series.find_series(tmp_path)
    for i in range(1, 5):
        (tmp_path / "stahl_bc").mkdir(exist_ok=True)
        (tmp_path / "stahl_bc" / f"BC{i}.h5ad").touch()
    assert [s.name for s in _series.find_series(tmp_path)] == ["stahl"]
    (tmp_path / "stahl_bc" / "BC2.h5ad").unlink()  # three of four are no series
    with pytest.raises(FileNotFoundError, match="looked for"):
        _series.find_series(tmp_path)


def test_made_cases_are_the_same_again_and_know_their_motion() -> None:
    (one,), (other,) = (benchmark.simulated_cases(1, size=(8, 11), n_genes=40) for _ in range(2))
    assert one.name == "simulated tissue 0"
    np.testing.assert_array_equal(one.points, other.points)
    assert (one.truth != other.truth).nnz == 0
    to_a, to_b = one.motion(one.points)
    assert to_a.shape == to_b.shape == one.points.shape


def test_a_series_is_trained_on_as_it_is_and_moved(series) -> None:
    grids = [io.read_slice(s, name=f"s{i}") for i, s in enumerate(series)]
    cases = _series.series_cases(grids)
    # Four sections: one hidden twice, each with and without the section beyond; two hidden once, nothing beyond.
    assert [bool(case.pair.context) for case in cases[:6]] == [False, True, False, True, False, False]
    assert [case.name for case in cases[6:]] == [f"{n} moved" for n in ("s1", "s1", "s2", "s2", "s1", "s1", "s2", "s2")]
    assert len(cases) == 14


def test_measured_sections_lie_in_one_frame(real: Path) -> None:
    (stahl,) = benchmark.series_of(["stahl"])
    assert stahl in _series.find_series(real)
    grids = benchmark.read_series(_series.Series("stahl", stahl.files[:2]), real)
    assert [g.name for g in grids] == ["BC1", "BC2"]
    centres = np.stack([g.xy.mean(axis=0) for g in grids])
    assert np.abs(centres - centres.mean(axis=0)).max() < 400.0  # µm; two pitches


def test_a_registered_series_is_read_in_its_own_frame(series: list[AnnData], tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    for i, section in enumerate(series):
        xy = section.obsm["spatial"]
        section.obsm["spatial_3d"] = np.column_stack([xy[:, 1] + 7, xy[:, 0], np.full(len(xy), 12.0 * i)])
        section.write_h5ad(tmp_path / "h" / f"{i}.h5ad")
    grids = benchmark.read_series(_series.Series("heart", ("h/2", "h/3"), in_register=True), tmp_path)
    assert [(g.name, g.z, g.image) for g in grids] == [("2", 24.0, None), ("3", 36.0, None)]
    np.testing.assert_allclose(grids[0].xy, series[2].obsm["spatial"][:, ::-1] + [7, 0])


def test_slabs_are_read_in_the_frame_of_their_block(series: list[AnnData], tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for i, section in enumerate(series[:2], start=1):
        del section.obs["z_um"]
        section.uns["section"] = {"slab": i, "slab_thickness_units": 10.0}
        section.write_h5ad(tmp_path / "s" / f"{i}.h5ad")
    grids = benchmark.read_series(_series.Series("starmap", ("s/1", "s/2"), in_register=True), tmp_path)
    assert [(g.name, g.z) for g in grids] == [("1", 10.0), ("2", 20.0)]
    np.testing.assert_array_equal(grids[1].xy, series[1].obsm["spatial"])


def test_measured_slabs_and_cortex_are_found(real: Path) -> None:
    dlpfc, starmap = benchmark.series_of(["dlpfc", "starmap"])
    assert {dlpfc, starmap} <= set(_series.find_series(real))
    slabs = benchmark.read_series(starmap, real)
    assert [g.z for g in slabs] == [10.0 * i for i in range(1, 9)]
    assert {g.layout for g in slabs} == {"cells"}


def test_networks_are_taught_by_every_series_of_a_study_and_by_made_tissue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_series, "read_series", lambda one, data: [f"{data}/{one.name}"])
    monkeypatch.setattr(_series, "series_cases", lambda grids: [f"{grids[0]} hidden", f"{grids[0]} moved"])
    monkeypatch.setattr(_series, "simulated_cases", lambda: ["made"])
    found = benchmark.training_cases("d", ["her2st", "stahl"], without="BCD")
    assert found == ["d/her2st A hidden", "d/her2st A moved", "d/stahl hidden", "d/stahl moved", "made"]
