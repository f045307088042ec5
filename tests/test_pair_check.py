"""Whether two sections match, and what is said where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti import pair_check
from c2sti._types import Lattice, Section
from c2sti.cli import main
from c2sti.models import _registry
from tests.conftest import square_array

SIDE = 20
XY = square_array(SIDE)
NAMES = [
    "overlap",
    "spatial_concordance",
    "spatial_concordance_z",
    "expression_similarity",
    "level",
    "shared_detail",
]


def waves(seed: int, noise: float = 0.0) -> np.ndarray:
    """(n, 30) maps of genes: each a slanted wave over the array, of its own height; noise differs from call to call."""
    rng = np.random.default_rng(5)
    slants, phases, heights = rng.uniform(-0.6, 0.6, (2, 30)), rng.uniform(0, 6, 30), rng.uniform(1, 4, 30)
    scatter = np.random.default_rng(seed).standard_normal((len(XY), 30))
    return heights + np.sin(XY @ slants + phases) + noise * scatter


def section(values: np.ndarray, xy: np.ndarray = XY) -> Section:
    return Section(xy, sp.csr_array(values.astype(np.float32)), 0.0)


def told(a: Section, b: Section) -> dict[str, float]:
    return pair_check.measure(a, b, 1.0, 1.0)


def test_the_same_maps_through_noise_agree_and_the_noise_cancels() -> None:
    for noise in (0.2, 0.8):
        found = told(section(waves(0, noise)), section(waves(1, noise)))
        assert list(found) == NAMES
        assert 0.95 < found["spatial_concordance"] <= 1
        assert found["spatial_concordance_z"] > 2
        assert found["expression_similarity"] > 0.99
    raw = np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(waves(0, 0.8).T, waves(1, 0.8).T, strict=True)])
    assert raw < 0.6  # what a plain correlation of the spots makes of it


def test_it_is_the_same_whichever_comes_first_and_each_time() -> None:
    a, b = section(waves(0, 0.5)), section(waves(1, 0.5)[:-7], XY[:-7] + 0.3)
    assert told(a, b) == pytest.approx(told(b, a), rel=1e-9, nan_ok=True)
    assert told(a, b) == pytest.approx(told(a, b), rel=0, abs=0, nan_ok=True)


def test_sections_are_left_as_they_are_stored() -> None:
    values = sp.csr_array(waves(0).astype(np.float32))[:, ::-1]  # entries of a row are not in order
    before = values.indices.copy()
    assert (np.diff(before[:30]) < 0).all()
    pair_check.measure(Section(XY, values, 0.0), section(waves(1)), 1.0, 1.0)
    np.testing.assert_array_equal(values.indices, before)


MOVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "shuffled": lambda v: v[np.random.default_rng(3).permutation(len(v))],
    "mirrored": lambda v: v.reshape(SIDE, SIDE, -1)[:, ::-1].reshape(len(v), -1),
    "turned": lambda v: v[::-1],
}


@pytest.mark.parametrize("how", MOVES)
def test_a_section_that_lies_wrong_disagrees_and_looks_alike(how: str) -> None:
    found = told(section(waves(0, 0.2)), section(MOVES[how](waves(1, 0.2))))
    assert found["spatial_concordance"] < 0.3
    assert found["spatial_concordance_z"] < 1.5
    assert found["expression_similarity"] > 0.99
    assert pair_check.misfits(found) == ["spatial_concordance"]


def test_expression_similarity_is_the_correlation_of_the_means_of_genes_that_are_seen() -> None:
    first, second = np.zeros((2, len(XY), 40))
    first[:, :25] = np.arange(25)
    second[:, :25] = np.arange(25)[::-1]
    first[:3, 30] = 99  # in too few spots to count
    assert told(section(first), section(second))["expression_similarity"] == pytest.approx(-1)
    second[:, 30:] = 5.0  # seen in the second section only, and counted
    seen = np.r_[:25, 30:40]
    by_hand = np.corrcoef(first[:, seen].mean(axis=0), second[:, seen].mean(axis=0))[0, 1]
    assert told(section(first), section(second))["expression_similarity"] == pytest.approx(by_hand)
    first[:, 19:] = 0
    assert np.isnan(told(section(first), section(first))["expression_similarity"])  # 19 genes


def test_what_cannot_be_told_is_unknown_and_fits() -> None:
    noise = [section(np.random.default_rng(i).random((len(XY), 40))) for i in (0, 1)]
    few_genes = section(waves(0)[:, :10])
    apart = section(waves(0), XY + [SIDE - 1, 0])
    for a, b in (noise, (few_genes, few_genes), (section(waves(0)), section(waves(0), XY + 100.0))):
        found = told(a, b)
        assert np.isnan(found["spatial_concordance"])
        pair_check.complain(found, "a", "b", "raise")
    assert not np.isnan(told(section(waves(0)), apart)["spatial_concordance"])  # two columns of spots are in both


def test_a_strip_that_is_turned_away_from_the_other_tells_nothing() -> None:
    """Thirty spots in a row: rotated by 60 degrees about their middle, three lie within a side of the other row."""
    row = np.column_stack([np.arange(30.0), np.zeros(30)])
    _, still, _, rotated, *_ = pair_check._correlations(row, row[:, :1], row, row[:, :1], 1.0)
    assert still > 0.99
    assert np.isnan(rotated)


def test_a_large_section_is_looked_at_in_patches() -> None:
    xy = square_array(80)
    places = np.minimum((xy / 4).astype(int), SIDE - 1) @ [1, SIDE]
    rng = np.random.default_rng(0)
    a, b = (section(waves(0)[places] + rng.standard_normal((len(xy), 30)), xy) for _ in range(2))
    assert told(a, b)["spatial_concordance"] > 0.9


LATTICE = Lattice((0.0, 0.0), 2.0, (6, 6))


def test_folded_bins_are_the_share_of_bins_turned_inside_out() -> None:
    x = LATTICE.centres.reshape(6, 6, 2)[..., 0]
    field = np.stack([-x, 0 * x])  # halfway d / (2 · ½) = d: x - x = 0 folds everywhere, x + x nowhere
    assert pair_check.folded_bins(field[None], LATTICE, [0.5]) == 0.5
    assert pair_check.folded_bins(0.9 * field[None], LATTICE, [0.5]) == 0
    assert pair_check.folded_bins(0.9 * field[None], LATTICE, [0.75]) == 0.5  # the way to the first is 1.8 d there
    assert pair_check.folded_bins(np.stack([0 * field, field]), LATTICE, [0.25, 0.5]) == 0.25
    wide = field[:, ::2, ::2]  # bins of twice the side: the same map
    assert pair_check.folded_bins(wide[None], LATTICE, [0.5]) == 0.5
    assert np.isnan(pair_check.folded_bins(None, LATTICE, [0.5]))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("overlap", 0.3, r"one and two do not .* overlap 0\.30, and at least 0\.50 is expected: .*c2sti\.pp\.align"),
        (
            "spatial_concordance",
            0.1,
            r"spatial concordance 0\.10, and at least 0\.40 is expected: .*c2sti\.pp\.align.*flip=True",
        ),
        (
            "expression_similarity",
            0.7,
            r"expression similarity 0\.70, and at least 0\.90 is expected: .*two patients: take sections of one block",
        ),
        ("folded_bins", 0.2, r"folded bins 0\.20, and at most 0\.05 is expected: .*nearer to each other"),
    ],
)
def test_a_complaint_names_the_sections_the_number_its_limit_and_the_mend(name: str, value: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pair_check.complain({name: value}, "one", "two", "raise")


# ---- through the public face


def shuffled(section: AnnData) -> AnnData:
    wrong = section.copy()
    wrong.obsm["spatial"] = wrong.obsm["spatial"][np.random.default_rng(0).permutation(len(wrong))]
    return wrong


@pytest.fixture(scope="module")
def large() -> list[AnnData]:
    return c2sti.datasets.phantom(seed=0).series([0.0, 100.0, 200.0])


def insert(a: AnnData, b: AnnData, **how: object) -> AnnData:
    return c2sti.tl.interpolate(a, b, model="linear", show_progress_bar=False, **how)


def test_made_neighbours_fit_and_the_numbers_stay_with_the_result(large: list[AnnData], tmp_path: Path) -> None:
    table = c2sti.pp.check_pair(large[0], large[1])
    assert list(table.index) == NAMES
    assert table["passes"].all()
    assert table["passes"].isna().tolist() == [False, False, True, False, True, True]  # counts have no level
    out = insert(large[0], large[1])  # warnings are errors here
    kept = out.uns["c2sti"]["pair_check"]
    assert {name: kept[name] for name in NAMES} == pytest.approx(table["value"].to_dict(), nan_ok=True)
    assert np.isnan(kept["folded_bins"])  # the linear blend moves nothing
    out.write_h5ad(tmp_path / "out.h5ad")
    again = ad.read_h5ad(tmp_path / "out.h5ad").uns["c2sti"]["pair_check"]
    assert {name: float(value) for name, value in again.items()} == pytest.approx(kept, nan_ok=True)


def test_a_misfit_warns_raises_or_is_ignored(large: list[AnnData]) -> None:
    a, b = large[0], shuffled(large[1])
    said = r"spatial concordance -?0\.\d\d, .*pp\.check_pair.*on_misfit='ignore'"
    words = rf"slice_a and slice_b do not seem to match\. {said}"
    with pytest.warns(UserWarning, match=words) as caught:
        warned = insert(a, b)
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match=words):
        insert(a, b, on_misfit="raise")
    ignored = insert(a, b, on_misfit="ignore")
    assert ignored.uns["c2sti"]["pair_check"] == pytest.approx(warned.uns["c2sti"]["pair_check"], nan_ok=True)
    with pytest.raises(ValueError, match="on_misfit='stop' is not known; choose one of warn, raise, ignore"):
        insert(a, b, on_misfit="stop")


def test_folded_tissue_is_a_misfit_too(large: list[AnnData]) -> None:
    def folds(pair: object, at: np.ndarray, positions: list[float], **_: object) -> c2sti._types.Prediction:
        made = _registry.METHODS["copy"](pair, at, positions)
        field = np.zeros((len(positions), 2, *pair.lattice.shape))
        field[:, 0] = -np.arange(pair.lattice.shape[1]) * pair.lattice.pitch
        return replace(made, notes={"displacement": field})

    with pytest.raises(ValueError, match=r"folded bins 0\.50, and at most 0\.05 is expected"):
        c2sti.tl.interpolate(large[0], large[1], model=folds, on_misfit="raise", show_progress_bar=False)


def test_a_series_names_the_gap(large: list[AnnData]) -> None:
    series = [large[0], large[1], shuffled(large[2])]
    how = {"at_z": [50.0, 150.0], "model": "linear", "show_progress_bar": False}
    with pytest.warns(UserWarning, match=r"^slices\[1\] and slices\[2\] do not seem to match") as caught:
        stack = c2sti.tl.interpolate_series(series, **how)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    kept = stack.uns["c2sti"]["pair_check"]
    assert isinstance(kept, pd.DataFrame)
    assert list(kept.index) == ["slice_0 to slice_1", "slice_1 to slice_2"]
    assert kept["spatial_concordance"].iloc[0] > 0.9
    assert kept["spatial_concordance"].iloc[1] < 0.3
    with pytest.raises(ValueError, match=r"^slices\[1\] and slices\[2\]"):
        c2sti.tl.interpolate_series(series, on_misfit="raise", **how)


def test_the_command_line_refuses_if_told_to(
    large: list[AnnData], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, one in (("a", large[0]), ("b", shuffled(large[1]))):
        one.write_h5ad(tmp_path / f"{name}.h5ad")
    files = [str(tmp_path / f"{name}.h5ad") for name in "ab"]
    command = ["interpolate", *files, "-o", str(tmp_path / "out.h5ad"), "--model", "linear", "-q"]
    assert main([*command, "--on-misfit", "raise"]) == 1
    assert "do not seem to match" in capsys.readouterr().err
    assert not (tmp_path / "out.h5ad").exists()
    assert main([*command, "--on-misfit", "ignore"]) == 0


# ---- measured sections


@pytest.fixture(scope="module")
def patients(real: Path) -> dict[str, AnnData]:
    return {name: ad.read_h5ad(real / "her2st" / f"her2st_{name}.h5ad") for name in ("C3", "C4", "D4")}


def misfitting(a: AnnData, b: AnnData) -> list[str]:
    table = c2sti.pp.check_pair(a, b, spatial_key="spatial_aligned")
    return list(table.index[table["passes"].eq(False)])


def test_neighbours_fit_and_another_patient_does_not(patients: dict[str, AnnData]) -> None:
    a, b, other = (patients[name] for name in ("C3", "C4", "D4"))
    c2sti.pp.align(a, b, use="expression")
    assert misfitting(a, b) == []
    mirrored = b.copy()
    mirrored.obsm["spatial_aligned"] = b.obsm["spatial_aligned"] * [-1, 1] + [2 * a.obsm["spatial"][:, 0].mean(), 0]
    assert misfitting(a, mirrored) == ["spatial_concordance"]
    # The other patient as a user would bring it there by hand: centred, and stretched to the same extent.
    place = other.obsm["spatial"] - other.obsm["spatial"].mean(axis=0)
    extent = np.ptp(a.obsm["spatial"], axis=0) / np.ptp(place, axis=0)
    other.obsm["spatial_aligned"] = place * extent + a.obsm["spatial"].mean(axis=0)
    assert "expression_similarity" in misfitting(a, other)


def test_neighbours_that_were_normalised_alike_have_a_level_of_one(patients: dict[str, AnnData]) -> None:
    pair = [patients[name].copy() for name in ("C3", "C4")]
    for section in pair:
        sc.pp.normalize_total(section, target_sum=1e4)
        sc.pp.log1p(section)
    genes = pair[0].var_names.intersection(pair[1].var_names)
    table = c2sti.pp.check_pair(*pair, spatial_key="spatial")
    assert table.loc["level", "value"] == pytest.approx(1, abs=0.02)
    mean = pair[0][:, genes].X.mean(axis=0).A1
    panel = [section[:, genes[np.argsort(-mean)[:300]]].copy() for section in pair]  # cut afterwards
    assert c2sti.pp.check_pair(*panel, spatial_key="spatial").loc["level", "value"] == 1
    panel[1].X = panel[1].X / np.log(2)
    assert c2sti.pp.check_pair(*panel, spatial_key="spatial").loc["level", "value"] < 0.7
