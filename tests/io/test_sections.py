"""Sections as people keep them: several in one object, keys that differ, coordinates with and without a frame."""

from __future__ import annotations

import warnings
from io import StringIO
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import spatialdata as sd
import zarr
from anndata import AnnData
from spatialdata.models import ShapesModel, TableModel
from tqdm.auto import tqdm

import c2sti
from c2sti import io
from c2sti.cli import main
from c2sti.cli._files import read
from c2sti.models.block import known_library

QUIET = {"model": "linear", "show_progress_bar": False}
NAMES = ["C3", "C4", "C5", "C6"]


@pytest.fixture
def whole(series: list[AnnData]) -> AnnData:
    """The four sections of the series in one object, in the order of z, their rows mixed up."""
    for section in series:
        section.uns = {}
    both = ad.concat(dict(zip(NAMES, series, strict=True)), label="sample", index_unique="-")
    return both[np.random.default_rng(0).permutation(both.n_obs)].copy()


def same(one: AnnData, other: AnnData) -> None:
    """The same rows and the same values to 1e-5."""
    np.testing.assert_allclose(one.obsm["spatial"], other.obsm["spatial"], atol=1e-6)
    for layer in one.layers:
        np.testing.assert_allclose(one.layers[layer], other.layers[layer], atol=1e-5)


# ---- several sections in one object


def test_a_pair_in_one_object_is_the_pair(whole: AnnData, series: list[AnnData]) -> None:
    two = whole[whole.obs["sample"].isin(["C4", "C5"])].copy()
    out = c2sti.tl.interpolate(two, library_key="sample", **QUIET)
    same(out, c2sti.tl.interpolate(series[1], series[2], **QUIET))
    assert out.uns["c2sti"]["names"] == {"slice_a": "C4", "slice_b": "C5"}
    assert set(out.uns["c2sti"]["inputs"]) == {"C4", "C5"}
    assert out.uns["c2sti"]["parameters"]["library_key"] == "sample"
    assert "of the way from C4 to C5" in c2sti.tl.describe(out)


def test_context_by_name(whole: AnnData, series: list[AnnData]) -> None:
    out = c2sti.tl.interpolate(
        whole, library_key="sample", context={-1.0: "C3", 2.0: "C6"}, **{**QUIET, "model": "lowrank"}
    )
    expected = c2sti.tl.interpolate(
        series[1], series[2], context={-1.0: series[0], 2.0: series[3]}, **{**QUIET, "model": "lowrank"}
    )
    same(out, expected)
    with pytest.raises(KeyError, match="'C9'; those of library_key= are \\['C3', 'C4', 'C5', 'C6'\\]"):
        c2sti.tl.interpolate(whole, library_key="sample", context={-1.0: "C9"}, **QUIET)


def test_a_pair_is_of_two(whole: AnnData) -> None:
    with pytest.raises(ValueError, match="leaves 4 sections for the pair \\(C3, C4, C5, C6\\), and two are needed"):
        c2sti.tl.interpolate(whole, library_key="sample", **QUIET)
    with pytest.raises(TypeError, match="slice_b is missing; give two sections, or one object .* library_key="):
        c2sti.tl.interpolate(whole, **QUIET)
    with pytest.raises(KeyError, match="the object has no obs\\['samples'\\] \\(library_key=\\); its columns are"):
        c2sti.tl.interpolate(whole, library_key="samples", **QUIET)
    with pytest.raises(TypeError, match="slices is one object; name the column of obs .* library_key="):
        c2sti.tl.interpolate_series(whole, spacing=75.0, **QUIET)


def test_a_series_in_one_object_keeps_its_names(whole: AnnData, series: list[AnnData]) -> None:
    stack = c2sti.tl.interpolate_series(whole, library_key="sample", at_z=[0.0, 75.0, 150.0], **QUIET)
    assert list(stack.obs["section"].cat.categories) == ["C3", "c2sti_1", "C4"]
    assert list(stack.uns["c2sti"]["slices"]) == NAMES
    assert list(stack.uns["c2sti"]["pair_check"].index) == ["C3 to C4"]
    expected = c2sti.tl.interpolate_series(series, at_z=[0.0, 75.0, 150.0], **QUIET)
    for name, own in zip(stack.uns["c2sti"]["sections"], expected.uns["c2sti"]["sections"], strict=True):
        found, wanted = (s[(s.obs["section"] == n).to_numpy()] for s, n in ((stack, name), (expected, own)))
        order, other = (np.lexsort(s.obsm["spatial"].T.round(3)) for s in (found, wanted))
        np.testing.assert_allclose(found.X[order], wanted.X[other], atol=1e-5)
    assert "from C3 to C4" in c2sti.tl.describe(stack)
    clash = whole.copy()
    clash.obs["sample"] = clash.obs["sample"].cat.rename_categories({"C3": "c2sti_1"})
    with pytest.raises(ValueError, match="'c2sti_1' is called like an interpolated one"):
        c2sti.tl.interpolate_series(clash, library_key="sample", at_z=[0.0], **QUIET)


def test_evaluate_and_train_take_one_object(whole: AnnData, series: list[AnnData]) -> None:
    whole = whole[whole.obs["sample"] != "C6"].copy()
    table = c2sti.tl.evaluate(whole, library_key="sample", methods=(), show_progress_bar=False)
    expected = c2sti.tl.evaluate(series[:3], methods=(), show_progress_bar=False)
    np.testing.assert_allclose(table["pcc"], expected["pcc"], atol=1e-6)
    assert list(table["name"].unique()) == ["C4"]
    assert list(expected["name"].unique()) == ["slices[1]"]
    small = c2sti.C2STiConfig(channels=4, n_components=8, n_splits=0)
    how = c2sti.TrainConfig(steps=1)
    c2sti.tl.train(whole, library_key="sample", model=None, config=small, how=how, n_slices=1, show_progress_bar=False)


def test_alignment_of_one_object(whole: AnnData, series: list[AnnData]) -> None:
    whole, series = whole[whole.obs["sample"] != "C6"].copy(), series[:3]
    angle = np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    there = (whole.obs["sample"] == "C4").to_numpy()
    whole.obsm["spatial"][there] = whole.obsm["spatial"][there] @ turn.T
    series[1].obsm["spatial"] = series[1].obsm["spatial"] @ turn.T
    assert c2sti.pp.align_series(whole, library_key="sample") is None
    c2sti.pp.align_series(series)
    records = whole.uns["alignment"]
    assert set(records) == set(NAMES[:3])
    assert records["C3"]["method"] == "reference" == series[0].uns["alignment"]["method"]
    for name, section in zip(NAMES[:3], series, strict=True):
        assert records[name]["angle_deg"] == pytest.approx(section.uns["alignment"]["angle_deg"], abs=0.1)
        rows = (whole.obs["sample"] == name).to_numpy()
        order = whole.obs_names[rows].str.replace(f"-{name}", "")
        expected = pd.DataFrame(section.obsm["spatial_aligned"], index=section.obs_names).loc[order]
        np.testing.assert_allclose(whole.obsm["spatial_aligned"][rows], expected, atol=1.0)  # of 200
    two = whole[whole.obs["sample"].isin(["C3", "C4"])].copy()
    parts = [two[two.obs["sample"] == name].copy() for name in ("C3", "C4")]
    same(c2sti.tl.interpolate(two, library_key="sample", **QUIET), c2sti.tl.interpolate(*parts, **QUIET))
    (copied,) = c2sti.pp.align(two, library_key="sample", copy=True, key_added="again")
    assert "again" in copied.obsm and "again" not in two.obsm
    with pytest.raises(ValueError, match="names 3 sections .*align_series takes a series"):
        c2sti.pp.align(whole, library_key="sample")


def test_a_series_is_the_same_whatever_genes_its_sections_have_besides(series: list[AnnData]) -> None:
    """Genes of one section only are cut off, and what is cut is left as it was for the next gap."""
    rng, wider = np.random.default_rng(5), []
    for i, section in enumerate(series[:3]):
        own = AnnData(rng.poisson(1, (section.n_obs, 7)).astype(np.float32), var=pd.DataFrame(index=list("abcdefg")))
        own.obs_names, own.var_names = section.obs_names, [f"only_{i}_{name}" for name in own.var_names]
        more = ad.concat([own, section], axis=1, merge="first")
        wider.append(more[:, rng.permutation(more.n_vars)].copy())
        wider[-1].X = sp.csr_matrix(wider[-1].X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = c2sti.tl.interpolate_series(wider, at_z=[75.0, 225.0], model="gp", show_progress_bar=False)
    plain = [section[:, section.var_names.isin(found.var_names)].copy() for section in series[:3]]
    for section in plain:
        del section.uns["spatial"]
    expected = c2sti.tl.interpolate_series(plain, at_z=[75.0, 225.0], model="gp", show_progress_bar=False)
    np.testing.assert_allclose(found[:, expected.var_names].X, expected.X, atol=1e-5)


def test_order_of_sections(whole: AnnData) -> None:
    def order(**column: object) -> list[str]:
        adata = whole.copy()
        del adata.obs["z_um"]
        for key, values in column.items():
            adata.obs[key] = values
        return [source.name for source in io.sources(adata, library_key="sample")]

    name = whole.obs["sample"].astype(str)
    backwards = pd.Categorical(name, categories=NAMES[::-1])
    assert order(sample=backwards) == NAMES[::-1]
    assert order(sample=backwards, z=name.map({n: float(i) for i, n in enumerate(NAMES)})) == NAMES
    assert order(sample=name) == list(name.unique())  # text, in the order of the rows
    numbered = name.map({"C3": "s1", "C4": "s2", "C5": "s9", "C6": "s10"}).astype("category")
    with pytest.warns(UserWarning, match="in the order of text, s1, s10, s2, s9; if s1, s2, s9, s10 is the order"):
        order(sample=numbered)
    missing = name.where(name != "C3")
    with pytest.raises(ValueError, match="obs\\['sample'\\] of slices is missing for"):
        order(sample=missing)


# ---- keys of each section


def test_layers_of_each_section(series: list[AnnData]) -> None:
    a, b = series[:2]
    expected = c2sti.tl.interpolate(a, b, **QUIET)
    a.layers["raw"], b.layers["counts"] = a.X.copy(), b.X.copy()
    a.X, b.X = a.X * 0, b.X * 0
    for layer in (["raw", "counts"], {"slice_a": "raw", "slice_b": "counts"}):
        same(c2sti.tl.interpolate(a, b, layer=layer, **QUIET), expected)
    with pytest.raises(ValueError, match="layer= holds 1 keys for 2 sections \\(slice_a, slice_b\\)"):
        c2sti.tl.interpolate(a, b, layer=["raw"], **QUIET)
    with pytest.raises(KeyError, match="layer= names the section 'a'; the sections are \\['slice_a', 'slice_b'\\]"):
        c2sti.tl.interpolate(a, b, layer={"a": "raw"}, **QUIET)


# ---- common coordinates


def test_aligned_coordinates_are_the_default(series: list[AnnData]) -> None:
    a, b = series[:2]
    for section in (a, b):
        del section.uns["spatial"]
    plain = c2sti.tl.interpolate(a, b, **QUIET)
    for section in (a, b):
        section.obsm["spatial_aligned"] = section.obsm["spatial"] + [1000.0, 0.0]
    moved = c2sti.tl.interpolate(a, b, **QUIET)
    np.testing.assert_allclose(moved.obsm["spatial"].min(axis=0) - plain.obsm["spatial"].min(axis=0), [1000.0, 0.0])
    assert moved.uns["c2sti"]["parameters"]["spatial_key"] == "spatial_aligned"
    same(c2sti.tl.interpolate(a, b, spatial_key="spatial", **QUIET), plain)
    del b.obsm["spatial_aligned"]
    same(c2sti.tl.interpolate(a, b, **QUIET), plain)


def test_half_aligned_is_said(series: list[AnnData], said: StringIO) -> None:
    a, b = series[:2]
    a.obsm["spatial_aligned"] = a.obsm["spatial"]
    c2sti.tl.interpolate(a, b, **QUIET)
    assert "slice_a has common coordinates, 'spatial_aligned', and slice_b has not" in said.getvalue()


def test_evaluate_as_the_readme_has_it(series: list[AnnData]) -> None:
    series[1].obsm["spatial"] = series[1].obsm["spatial"] + [500.0, 300.0]
    c2sti.pp.align_series(series[:3])
    table = c2sti.tl.evaluate(series[:3], show_progress_bar=False, methods=())
    assert table.loc[table["method"] == "linear", "pcc"].min() > 0.2


# ---- rows, coordinates and z


@pytest.mark.parametrize("kept", [int, bool, str, "Int64", "boolean", "category"])
def test_rows_outside_of_the_tissue(series: list[AnnData], kept: object) -> None:
    a, b = series[:2]
    inside = a.obsm["spatial"][:, 0] < np.quantile(a.obsm["spatial"][:, 0], 0.7)
    expected = c2sti.tl.interpolate(a[inside].copy(), b, window={"slice_a": EVERYWHERE}, **QUIET)
    a.obs["in_tissue"] = pd.Series(inside, index=a.obs_names).astype(int if kept in (str, "category") else bool)
    a.obs["in_tissue"] = a.obs["in_tissue"].astype(kept)
    same(c2sti.tl.interpolate(a, b, window={"slice_a": EVERYWHERE}, **QUIET), expected)


EVERYWHERE = (-1e6, -1e6, 1e6, 1e6)


def test_no_row_in_tissue(pair: tuple[AnnData, AnnData]) -> None:
    pair[0].obs["in_tissue"] = 0
    with pytest.raises(ValueError, match="obs\\['in_tissue'\\] of slice_a says that none of its"):
        c2sti.tl.interpolate(*pair, **QUIET)


def test_unknown_whether_in_tissue(pair: tuple[AnnData, AnnData]) -> None:
    expected = c2sti.tl.interpolate(*pair, **QUIET)
    pair[0].obs["in_tissue"] = pd.array([1] + [pd.NA] * (pair[0].n_obs - 1), dtype="Int64")
    same(c2sti.tl.interpolate(*pair, **QUIET), expected)


def test_named_axes(pair: tuple[AnnData, AnnData]) -> None:
    expected = c2sti.tl.interpolate(*pair, **QUIET)
    for section in pair:
        xy = section.obsm["spatial"]
        section.obsm["spatial"] = pd.DataFrame({"Y": xy[:, 1], "X": xy[:, 0]}, index=section.obs_names)
    same(c2sti.tl.interpolate(*pair, **QUIET), expected)
    c2sti.pp.align(*pair)
    shift = pair[1].uns["alignment"]["shift"]
    np.testing.assert_allclose(np.abs(shift), 0, atol=60)  # x stayed x


def test_z_of_cells_is_their_median(pair: tuple[AnnData, AnnData], said: StringIO) -> None:
    for i, section in enumerate(pair):
        del section.obs["z_um"]
        section.obs["z"] = np.linspace(0, 10, section.n_obs) + 300 * i
    out = c2sti.tl.interpolate(*pair, **QUIET)
    np.testing.assert_allclose(out.uns["c2sti"]["z"], [5.0, 155.0, 305.0])
    assert "differs from spot to spot (0 to 10); the median, 5, is taken" in said.getvalue()


def test_z_of_some_spots(pair: tuple[AnnData, AnnData]) -> None:
    pair[0].obs["z_um"] = np.where(np.arange(pair[0].n_obs) < 3, np.nan, 10.0)
    pair[1].obs["z_um"] = pd.array([pd.NA] + [20] * (pair[1].n_obs - 1), dtype="Int64")
    assert c2sti.tl.interpolate(*pair, **QUIET).uns["c2sti"]["z"].tolist() == [10.0, 15.0, 20.0]


def test_z_that_tells_nothing(pair: tuple[AnnData, AnnData]) -> None:
    for section in pair:
        section.obs["z_um"] = 0.0
    with pytest.warns(UserWarning, match="slice_a and slice_b both carry z = 0, which does not tell how far apart"):
        assert "z" not in c2sti.tl.interpolate(*pair, **QUIET).uns["c2sti"]
    for i, section in enumerate(pair):
        section.obs["z_um"] = float(i)
    with pytest.warns(
        UserWarning, match="z of the sections differs by 1, and spots are .* apart: z looks like an order"
    ):
        c2sti.tl.interpolate(*pair, **QUIET)


def test_sections_in_one_plane_each_are_parted(whole: AnnData, series: list[AnnData]) -> None:
    with pytest.raises(ValueError, match="obs\\['z_um'\\] of slice_a holds 4 values of z \\(0 to 450\\).*library_key="):
        c2sti.tl.interpolate(whole, series[1], **QUIET)


def test_n_slices_or_positions(pair: tuple[AnnData, AnnData]) -> None:
    with pytest.raises(ValueError, match="n_slices = 3 and positions = \\[0.5\\] both say which sections are wanted"):
        c2sti.tl.interpolate(*pair, n_slices=3, positions=[0.5], **QUIET)


# ---- positions


def test_positions_are_fractions_or_depths() -> None:
    np.testing.assert_allclose(io.position_of([0.2, 0.7], None, None), [0.2, 0.7])
    np.testing.assert_allclose(io.position_of([110.0, 130.0], 100.0, 140.0), [0.25, 0.75])
    np.testing.assert_allclose(io.position_of([130.0, 110.0], 140.0, 100.0), [0.25, 0.75])
    np.testing.assert_allclose(io.position_of([0.5], 100.0, 140.0), [0.5])


def test_an_ambiguous_position_is_read_as_a_fraction_and_said_so() -> None:
    with pytest.warns(UserWarning, match="read as fractions, not as z between 0 and 10"):
        np.testing.assert_allclose(io.position_of([0.5], 0.0, 10.0), [0.5])


@pytest.mark.parametrize(
    ("positions", "z", "message"),
    [
        ([0.0], (None, None), "strictly between 0 .slice_a. and 1"),
        ([1.0], (None, None), "z is understood when both sections carry"),
        ([0.5, 0.5], (None, None), r"without repeats; try \[0.5\]"),
        ([0.7, 0.2], (None, None), r"must increase .* try \[0.2, 0.7\]"),
        ([110.0, 130.0], (140.0, 100.0), r"must increase from slice_a to slice_b .* try \[130.0, 110.0\]"),
        ([99.0], (100.0, 140.0), r"the z of the two sections \(100 and 140\)"),
        ([float("nan")], (None, None), "list of at least one number"),
        ([], (None, None), "list of at least one number"),
    ],
)
def test_unusable_positions_are_refused(positions: list[float], z: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        io.position_of(positions, *z)


# ---- expression and genes


def test_scaled_values_name_where_the_expression_is(pair: tuple[AnnData, AnnData]) -> None:
    a = pair[0]
    a.raw = a.copy()
    a.layers["counts"] = a.X.copy()
    sc.pp.normalize_total(a)
    sc.pp.log1p(a)
    a.X = a.X.toarray() - a.X.mean()
    with pytest.raises(ValueError, match="not scaled or centred data: give layer='counts' .*adata.raw.to_adata\\(\\)"):
        c2sti.tl.interpolate(*pair, **QUIET)
    same(
        c2sti.tl.interpolate(a.raw.to_adata(), pair[1], **QUIET),
        c2sti.tl.interpolate(*pair, layer={"slice_a": "counts"}, **QUIET),
    )


def test_symbols_stay_beside_identifiers(pair: tuple[AnnData, AnnData]) -> None:
    for i, section in enumerate(pair):
        section.var["symbol"] = [f"SYM{g}" for g in range(section.n_vars)]
        section.var["n_cells"] = i
    out = c2sti.tl.interpolate(*pair, **QUIET)
    assert list(out.var.columns) == ["programme", "symbol"]  # what differs between sections is of neither
    assert out.var["symbol"].tolist() == pair[0].var["symbol"].tolist()
    by_symbol = c2sti.tl.interpolate(*pair, genes=["SYM3", "SYM1"], **QUIET)
    assert by_symbol.var_names.tolist() == [pair[0].var_names[3], pair[0].var_names[1]]


def test_half_precision(pair: tuple[AnnData, AnnData]) -> None:
    expected = c2sti.tl.interpolate(*pair, **QUIET)
    a = pair[0]
    half = sp.csr_matrix(a.X)
    half.data = half.data.astype(np.float16)  # as older versions wrote it
    a.X = half
    same(c2sti.tl.interpolate(*pair, **QUIET), expected)


def test_logarithm_is_told(pair: tuple[AnnData, AnnData]) -> None:
    out = c2sti.tl.interpolate(*pair, **QUIET)
    assert out.uns["log1p"]["base"] in (None, np.e)  # scanpy takes either for the natural logarithm
    for section in pair:
        sc.pp.normalize_total(section, target_sum=1e4)
        sc.pp.log1p(section, base=2)
    assert c2sti.tl.interpolate(*pair, **QUIET).uns["log1p"]["base"] == 2


def test_counts_beside_normalised_expression_are_used(pair: tuple[AnnData, AnnData], said: StringIO) -> None:
    """The default model reads them; expression keeps the scale of X."""
    expected = c2sti.tl.interpolate(*pair, show_progress_bar=False)
    for section in pair:
        section.layers["counts"] = section.X.copy()
        sc.pp.normalize_total(section, target_sum=1e4)
        sc.pp.log1p(section)
    sc.settings.verbosity = 2
    found = c2sti.tl.interpolate(*pair, show_progress_bar=False)
    assert "expression of slice_a is its X; counts are those of layers['counts']" in said.getvalue()
    np.testing.assert_allclose(found.layers["c2sti_1"], expected.layers["c2sti_1"], atol=1e-4)
    for section in pair:
        section.layers["counts"] = section.layers["counts"] * 0.5
    with_none = c2sti.tl.interpolate(*pair, show_progress_bar=False)
    assert "layer 'counts' of slice_a holds no whole numbers and is not used" in said.getvalue()
    assert np.abs(with_none.layers["c2sti_1"] - expected.layers["c2sti_1"]).max() > 1e-3
    pair[0].layers["counts"] = -pair[0].layers["counts"]  # no reason to refuse an X that can be used
    again = c2sti.tl.interpolate(*pair, show_progress_bar=False)
    assert "counts beside the expression of slice_a are not used: layer 'counts' of slice_a" in said.getvalue()
    np.testing.assert_array_equal(again.layers["c2sti_1"], with_none.layers["c2sti_1"])


@pytest.mark.parametrize(("n_genes", "mean"), [(40, 125.0), (100, 30.0)])
def test_deep_small_panels_keep_their_counts(n_genes: int, mean: float) -> None:
    """40 genes x 5,000 counts a spot: no spot holds a single count of any gene, by which they could be guessed."""
    rng, pair = np.random.default_rng(0), []
    xy = np.indices((12, 12)).reshape(2, -1).T * 10.0
    for _ in range(2):
        rate = mean * np.exp(rng.normal(0, 0.05, n_genes) + 0.3 * np.sin(xy[:, :1] / 30 + np.arange(n_genes)))
        pair.append(AnnData(rng.poisson(rate).astype(np.float32), obsm={"spatial": xy.copy()}))
    grids = [io.read_slice(section) for section in pair]
    made, _ = io.make_pair(*grids)
    assert (made.a.counts != sp.csr_array(pair[0].X)).nnz == 0
    np.testing.assert_array_equal(made.a.library, pair[0].X.sum(axis=1))
    np.testing.assert_array_equal(known_library(made.a), pair[0].X.sum(axis=1))


def test_counts_of_some_sections_are_not_used_and_that_is_said(said: StringIO, series: list[AnnData]) -> None:
    a, b = (section.copy() for section in series[:2])
    for section in (a, b):
        section.layers["counts"] = section.X.copy()
        sc.pp.normalize_total(section, target_sum=1e4)
        sc.pp.log1p(section)
    known = c2sti.tl.interpolate(a, b, show_progress_bar=False)
    assert known.uns["c2sti"]["expression"] == "as given; counts of the same sections were known"
    assert "are not used" not in said.getvalue()
    bare = b.copy()
    del bare.layers["counts"]
    mixed = c2sti.tl.interpolate(a, bare, show_progress_bar=False)
    assert "counts of slice_b are not known" in said.getvalue()
    assert mixed.uns["c2sti"]["expression"] == "as given"
    del a.layers["counts"]
    none = c2sti.tl.interpolate(a, bare, show_progress_bar=False)
    np.testing.assert_array_equal(mixed.layers["c2sti_1"], none.layers["c2sti_1"])
    assert not np.array_equal(known.layers["c2sti_1"], none.layers["c2sti_1"])


# ---- while it works


def test_a_failed_call_closes_its_bar(pair: tuple[AnnData, AnnData], capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, progress: object, **__: object) -> None:
        progress(0.3)  # type: ignore[operator]
        raise RuntimeError("in the middle")

    for call in (
        lambda: c2sti.tl.interpolate(*pair, model=broken),
        lambda: c2sti.tl.interpolate_series(pair, at_z=[10.0], model=broken),
        lambda: c2sti.tl.evaluate([pair[0], *pair], z=[0, 1, 2], methods=[broken], on_misfit="ignore"),
    ):
        with pytest.raises(RuntimeError, match="in the middle"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
        assert not tqdm._instances
        assert capsys.readouterr().err.endswith("\n")


def test_the_bar_moves_while_a_pair_is_described(pair: tuple[AnnData, AnnData]) -> None:
    told: list[float] = []
    model = c2sti.C2STi(c2sti.C2STiConfig(channels=4, n_components=8))
    grids = [io.read_slice(section) for section in pair]
    made, _ = io.make_pair(*grids)
    model(made, made.a.xy, [0.5], progress=told.append)
    assert sum(told) == pytest.approx(1)
    assert len(told) > 5 and max(told) < 0.5


# ---- the command line


@pytest.mark.parametrize("kind", ["anndata", "spatialdata"])
def test_stores_of_older_versions_do_not_say_what_they_are(series: list[AnnData], tmp_path: Path, kind: str) -> None:
    path, section = tmp_path / "old.zarr", series[0]
    section.uns = {}
    if kind == "anndata":
        section.write_zarr(path)
    else:
        circles = ShapesModel.parse(np.asarray(section.obsm["spatial"]), geometry=0, radius=50.0)
        section.obs["region"], section.obs["spot"] = pd.Categorical(["spots"] * section.n_obs), np.arange(section.n_obs)
        table = TableModel.parse(section, region="spots", region_key="region", instance_key="spot")
        sd.SpatialData(shapes={"spots": circles}, tables={"table": table}).write(path)
    group = zarr.open_group(path)
    for mark in ("encoding-type", "encoding-version", "spatialdata_attrs"):
        group.attrs.pop(mark, None)
    assert type(read(path)).__name__ == ("AnnData" if kind == "anndata" else "SpatialData")


def test_one_file_from_the_command_line(whole: AnnData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole.write_h5ad(tmp_path / "all.h5ad")
    key = ["--library-key", "sample"]
    assert main(["align", str(tmp_path / "all.h5ad"), *key, "-o", str(tmp_path / "aligned")]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows] == ["section", *NAMES]
    aligned = str(tmp_path / "aligned" / "all.h5ad")
    out = str(tmp_path / "out.h5ad")
    around = ["--context", "C3@-1", "C6@2"]
    assert main(["interpolate", aligned, *key, *around, "--model", "lowrank", "-o", out]) == 0
    found = ad.read_h5ad(out)
    assert found.uns["c2sti"]["names"] == {"slice_a": "C4", "slice_b": "C5"}
    assert found.uns["c2sti"]["parameters"]["spatial_key"] == "spatial_aligned"
    assert main(["evaluate", aligned, *key, "--methods", "linear"]) == 0
