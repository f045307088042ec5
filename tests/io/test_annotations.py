"""Annotations as people bring them: colours, labels of any type, sections that lack some, and tables of `obsm`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import c2sti

SIDE = 8
HOW = {"model": "linear", "on_misfit": "ignore", "show_progress_bar": False}


def section(seed: int = 0, **obs: object) -> AnnData:
    """A square array of 8 x 8 spots."""
    y, x = (v.ravel().astype(float) for v in np.indices((SIDE, SIDE)))
    counts = np.random.default_rng(seed).poisson(3, (SIDE**2, 6)).astype(np.float32)
    adata = AnnData(sp.csr_matrix(counts), obsm={"spatial": np.column_stack([x, y])})
    adata.obs_names = [f"s{seed}_{i}" for i in range(adata.n_obs)]
    for key, values in obs.items():
        adata.obs[key] = values
    return adata


LEFT = np.tile(np.arange(SIDE) < SIDE // 2, SIDE)


def halves(left: object, right: object) -> list[object]:
    """One value for the spots on the left, another for those on the right."""
    return [left if is_left else right for is_left in LEFT]


def pair(first: object, second: object) -> tuple[AnnData, AnnData]:
    """Two sections with a column each."""
    return section(0, d=first), section(1, d=second)


def interpolate(a: AnnData, b: AnnData, **keywords: object) -> AnnData:
    return c2sti.tl.interpolate(a, b, **{**HOW, **keywords})


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What scanpy's log says."""
    said = io.StringIO()
    verbosity, file = sc.settings.verbosity, sc.settings.logfile
    sc.settings.logfile, sc.settings.verbosity = said, "warning"
    yield said
    sc.settings.verbosity, sc.settings.logfile = verbosity, file


# ---- colours

CATEGORIES = ["left", "right"]
PALETTES = {
    "list": ["red", "#00FF00"],
    "array of text": np.array(["red", "lime"]),
    "array of objects": np.array(["red", "lime"], dtype=object),
    "bytes": np.array([b"red", b"lime"]),
    "series": pd.Series(["red", "lime"], dtype="string[pyarrow]"),
    "tuples": [(1, 0, 0), (0, 1, 0)],
    "(C, 3)": np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32),
    "(C, 4)": np.array([[1.0, 0, 0, 1], [0, 1, 0, 1]]),
    "dict": {"right": "lime", "left": "red"},
    "dict of channels": {"right": (0, 1, 0), "left": [1.0, 0.0, 0.0], "other": "blue"},
    "longer": ["red", "lime", "blue"],
}


@pytest.mark.parametrize("form", PALETTES)
def test_colours_are_read_in_every_form(form: str) -> None:
    a, b = pair(*[pd.Categorical(halves(*CATEGORIES))] * 2)
    a.uns["d_colors"] = PALETTES[form]
    out = interpolate(a, b, obs_keys="d")
    for name in ("slice_a", "c2sti_1", "slice_b"):
        assert list(out.uns[f"{name}_d_colors"]) == ["#ff0000", "#00ff00"]


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        (["#ff000080", "#00ff00ff"], ["#ff000080", "#00ff00"]),
        (["gold2", "indianred 3"], ["#eec900", "#cd5555"]),
        ([("red", 0.5), "0.5"], ["#ff000080", "#808080"]),
        (["C0", "tab:orange"], ["#1f77b4", "#ff7f0e"]),
    ],
)
def test_alpha_and_names_of_r_become_hex(palette: list[object], expected: list[str]) -> None:
    a, b = pair(*[pd.Categorical(halves(*CATEGORIES))] * 2)
    b.uns["d_colors"] = palette
    assert list(interpolate(a, b, obs_keys="d").uns["c2sti_1_d_colors"]) == expected


def test_names_of_r_are_those_of_scanpy() -> None:
    known = pytest.importorskip("scanpy.plotting._utils").additional_colors
    categories = [f"{i:02}" for i in range(len(known))]
    a, b = pair(*[pd.Categorical(np.resize(categories, SIDE**2), categories=categories)] * 2)
    a.uns["d_colors"] = list(known)
    assert list(interpolate(a, b, obs_keys="d").uns["slice_a_d_colors"]) == list(known.values())


@pytest.mark.parametrize("palette", ["red", np.array("red"), (1, 0, 0), np.array([1.0, 0, 0]), [[1, 0, 0]], {"x": "r"}])
@pytest.mark.parametrize("view", [False, True])
def test_one_category_may_have_one_colour(palette: object, view: bool) -> None:
    a, b = pair("x", "x")
    for one in (a, b):
        one.obs["d"] = one.obs["d"].astype("category")
    a.uns["d_colors"] = palette
    found = interpolate(a[np.arange(60)] if view else a, b, obs_keys="d").uns.get("c2sti_1_d_colors")
    lost = view and len(palette) == 3 if isinstance(palette, tuple | np.ndarray) and np.ndim(palette) else False
    assert lost if found is None else list(found) == ["#ff0000"]  # anndata's views drop what is not one for each


@pytest.mark.parametrize("palette", [["red"], "red", {"x": "blue"}, [], 5, np.array([255, 0, 0])])
def test_what_is_no_palette_is_left_out_and_named(palette: object, log: io.StringIO) -> None:
    a, b = pair(*[pd.Categorical(halves(*CATEGORIES))] * 2)
    a.uns["d_colors"] = palette
    assert "c2sti_1_d_colors" not in interpolate(a, b, obs_keys="d").uns
    assert "uns['d_colors'] of slice_a holds" in log.getvalue()


@pytest.mark.parametrize("colour", ["nocolour", None, (0, 1, 300), (np.nan, 0.0, 0.0), 7])
def test_what_is_no_colour_is_named_and_another_taken(colour: object, log: io.StringIO) -> None:
    a, b = pair(*[pd.Categorical(halves(*CATEGORIES))] * 2)
    a.uns["d_colors"] = ["red", colour]
    first, second = interpolate(a, b, obs_keys="d").uns["c2sti_1_d_colors"]
    assert first == "#ff0000"
    assert second.startswith("#")
    assert second != first
    assert "for 'right', which cannot be read as a colour" in log.getvalue()


@pytest.mark.parametrize("form", ["(C, 4)", "dict"])
@pytest.mark.parametrize("store", ["h5ad", "zarr", "lazy"])
def test_colours_survive_files(form: str, store: str, tmp_path: Path) -> None:
    sections = pair(*[pd.Categorical(halves(*CATEGORIES))] * 2)
    read: dict[str, Callable[[Path], AnnData]] = {"h5ad": ad.read_h5ad, "zarr": ad.read_zarr}
    for i, one in enumerate(sections):
        one.uns["d_colors"] = PALETTES[form]
        one.write_h5ad(tmp_path / str(i)) if store == "h5ad" else one.write_zarr(tmp_path / f"{i}.zarr")
    files = [tmp_path / (f"{i}" if store == "h5ad" else f"{i}.zarr") for i in range(2)]
    out = interpolate(*(read.get(store, ad.experimental.read_lazy)(file) for file in files), obs_keys="d")
    assert list(out.uns["c2sti_1_d_colors"]) == ["#ff0000", "#00ff00"]


def test_colours_follow_the_declared_categories_of_each_section() -> None:
    """ "unused" is declared first in one section, and the other has another order and a colour that is taken."""
    a, b = pair(
        pd.Categorical(halves("T", "B"), categories=["unused", "B", "T"]),
        pd.Categorical(halves("M", "T"), categories=["T", "M"]),
    )
    a.uns["d_colors"] = ["black", "blue", "red"]
    b.uns["d_colors"] = ["yellow", "blue"]
    out = interpolate(a, b, obs_keys="d")
    labels = list(out.obs["c2sti_1_d"].cat.categories)
    colours = dict(zip(labels, out.uns["c2sti_1_d_colors"], strict=True))
    assert set(labels) == {"T", "B", "M"}
    assert (colours["B"], colours["T"]) == ("#0000ff", "#ff0000")
    assert colours["M"] not in ("#0000ff", "#ff0000", "#ffff00", "#000000")


# ---- labels of different types

ONE_TWO = {
    "category of int": pd.Categorical(halves(1, 2)),
    "category of float": pd.Categorical(halves(1.0, 2.0)),
    "category of arrow": pd.Categorical(pd.array(halves("1", "2"), dtype="string[pyarrow]")),
    "ordered": pd.Categorical(halves("1", "2"), ordered=True),
    "int": halves(1, 2),
    "uint8": np.array(halves(1, 2), dtype=np.uint8),
    "float": halves(1.0, 2.0),
    "half": np.array(halves(1.0, 2.0), dtype=np.float16),
    "Int64": pd.array(halves(1, 2), dtype="Int64"),
    "Float64": pd.array(halves(1.0, 2.0), dtype="Float64"),
    "int of arrow": pd.array(halves(1, 2), dtype="int64[pyarrow]"),
    "string": pd.array(halves("1", "2"), dtype="string"),
    "string of arrow": pd.array(halves("1", "2"), dtype=pd.ArrowDtype(pa.string())),
    "dictionary of arrow": pd.array(halves("1", "2"), dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
    "mixed": np.array(halves(1, "2"), dtype=object),
    "objects": np.array(halves(1, 2), dtype=object),
}


@pytest.mark.parametrize("form", ONE_TWO)
@pytest.mark.parametrize("missing", [False, True])
def test_a_label_is_the_same_text_whatever_its_type(form: str, missing: bool) -> None:
    a, b = pair(halves("1", "2"), ONE_TWO[form])
    if missing and form not in ("int", "uint8"):
        b.obs.loc[b.obs_names[:2], "d"] = None
    out = interpolate(a, b, at=a.obsm["spatial"], obs_keys="d")
    assert list(out.obs["c2sti_1_d"].cat.categories) == ["1", "2"]
    assert not out.obs["c2sti_1_d"].cat.ordered
    clear = np.abs(a.obsm["spatial"][:, 0] - 3.5) > 1
    assert out.obs["c2sti_1_d"][clear].tolist() == np.array(halves("1", "2"))[clear].tolist()
    assert out.obs["slice_b_d"][2:].tolist() == halves("1", "2")[2:]
    assert out.obsm["c2sti_1_d"].columns.tolist() == ["1", "2"]


def test_whole_floats_beside_integers_in_categories_are_one_label() -> None:
    out = interpolate(*pair(pd.Categorical(halves(1.0, np.nan)), pd.Categorical(halves(1, 2))), obs_keys="d")
    assert out.obs["c2sti_1_d"].cat.categories.tolist() == ["1", "2"]


def test_true_and_false_are_labels_beside_text_and_a_share_elsewhere() -> None:
    for values in (LEFT, pd.array(LEFT, dtype="boolean"), np.array(halves(True, None), dtype=object)):
        out = interpolate(*pair(halves("True", "False"), values), obs_keys="d")
        assert set(out.obs["c2sti_1_d"].cat.categories) == {"True", "False"}
    a, b = pair(LEFT, pd.array(halves(True, False), dtype="bool[pyarrow]"))
    out = interpolate(a, b, at=a.obsm["spatial"], obs_keys="d")
    assert out.obs["slice_b_d"].tolist() == LEFT.astype(float).tolist()
    near = np.abs(a.obsm["spatial"][:, 0] - 3.5) < 1
    assert out.obs["c2sti_1_d"][near].between(0.1, 0.9).all()


def test_order_is_kept_where_both_sections_agree_on_it() -> None:
    grades = ["low", "high"]
    values = [pd.Categorical(halves("low", "high"), categories=c, ordered=True) for c in (grades, grades[::-1])]
    assert interpolate(*pair(values[0], values[0]), obs_keys="d").obs["c2sti_1_d"].cat.ordered
    assert not interpolate(*pair(*values), obs_keys="d").obs["c2sti_1_d"].cat.ordered


def test_numbers_that_are_not_whole_are_no_labels() -> None:
    with pytest.raises(ValueError, match="holds labels in slice_a and numbers in slice_b; make both of one kind"):
        interpolate(*pair(halves("1", "2"), halves(1.5, 2.0)), obs_keys="d")


def test_sections_without_a_common_label_are_named(log: io.StringIO) -> None:
    interpolate(*pair(halves("T cell", "B cell"), halves("t-cell", "b-cell")), obs_keys="d")
    assert "no label of slice_a ('B cell', 'T cell') is in another section ('b-cell', 't-cell')" in log.getvalue()


@pytest.mark.parametrize("names", [("a/b", "a|b"), ("", "()")])
def test_labels_that_files_would_hold_as_one_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="under one name; rename one of them"):
        interpolate(*pair(halves(*names), halves(*names)), obs_keys="d")


def test_labels_that_files_refuse_as_names_can_be_written(tmp_path: Path) -> None:
    out = interpolate(*pair(halves("", "_index"), halves(".", "..")), obs_keys="d")
    out.write_zarr(tmp_path / "out.zarr")
    assert sorted(ad.read_zarr(tmp_path / "out.zarr").obsm["c2sti_1_d"].columns) == ["()", "(.)", "(..)", "(_index)"]


# ---- clusters as whole numbers


@pytest.mark.parametrize("form", ["int", "uint8", "Int64", "int of arrow", "objects"])
def test_averaging_whole_numbers_is_said(form: str) -> None:
    a, b = pair(ONE_TWO[form], ONE_TWO[form])
    with pytest.warns(UserWarning, match=r"obs\['d'\] holds whole numbers, 2 different ones, which are averaged.*"):
        interpolate(a, b, obs_keys="d")
    for one in (a, b):
        one.obs["d"] = one.obs["d"].astype(float)
    assert 1 < interpolate(a, b, obs_keys="d").obs["c2sti_1_d"].mean() < 2  # and no warning
    for one in (a, b):
        one.obs["d"] = one.obs["d"].astype("category")
    assert interpolate(a, b, obs_keys="d").obs["c2sti_1_d"].cat.categories.tolist() == ["1", "2"]


def test_whole_floats_beside_nan_may_be_clusters(log: io.StringIO) -> None:
    interpolate(*pair(halves(1.0, np.nan), halves(1.0, 2.0)), obs_keys="d")
    assert "obs['d'] holds whole numbers, 2 different ones, which are averaged" in log.getvalue()


@pytest.mark.parametrize("amounts", [np.arange(64), np.array(halves(0.5, 2.0)), np.array(halves(0.5, np.nan))])
def test_amounts_raise_no_warning(amounts: np.ndarray, log: io.StringIO) -> None:
    interpolate(*pair(amounts, amounts), obs_keys="d")
    assert not log.getvalue()


# ---- sections that lack something


@pytest.mark.parametrize("nothing", ["missing", "NaN", "empty categories", "NA"])
@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_what_one_section_lacks_is_carried_from_the_other(nothing: str, kind: str, log: io.StringIO) -> None:
    a, b = section(0, d=halves("l", "r") if kind == "labels" else halves(0.5, 1.5)), section(1)
    if nothing != "missing":
        empty = {"NaN": np.nan, "empty categories": pd.Categorical([None] * 64, categories=["q"])}
        b.obs["d"] = empty.get(nothing, pd.array([None] * 64, dtype="string"))
    out = interpolate(a, b, at=a.obsm["spatial"], obs_keys="d")
    reason = r"slice_b has no obs['d']" if nothing == "missing" else "obs['d'] of slice_b holds nothing but NaN"
    assert f"{reason}" in log.getvalue()
    assert "unknown there, and carried from slice_a" in log.getvalue()
    assert out.obs["slice_b_d"].isna().all()
    clear = np.abs(a.obsm["spatial"][:, 0] - 3.5) > 2
    if kind == "labels":
        assert out.obs["c2sti_1_d"].cat.categories.tolist() == ["l", "r"]
        assert out.obs["c2sti_1_d"][clear].tolist() == a.obs["d"][clear].tolist()
    else:
        np.testing.assert_allclose(out.obs["c2sti_1_d"][clear], a.obs["d"][clear], atol=1e-3)


def test_what_no_section_has_is_an_error_that_lists_what_is_there() -> None:
    a, b = section(0, other=1.0), section(1)
    a.obsm["d"] = np.ones((64, 2))
    with pytest.raises(KeyError, match=r"slice_a has no obs\['d'\] \(obs_keys=\); it has \['other'\]"):
        interpolate(a, b, obs_keys="d")
    with pytest.raises(KeyError, match=r"slice_a has no obsm\['other'\] .*; it has \['d', 'spatial'\]"):
        interpolate(a, b, obsm_keys="other")
    b.obs["d"] = np.nan
    with pytest.raises(ValueError, match=r"obs\['d'\] of slice_b holds nothing but NaN"):
        interpolate(a, b, obs_keys="d")


def test_a_series_carries_labels_past_a_section_without_them() -> None:
    series = [section(i, d=halves("l", "r"), z_um=10.0 * i) for i in range(4)]
    for one in series[1:3]:
        del one.obs["d"]
    stack = c2sti.tl.interpolate_series(series, at_z=[0, 5, 10, 15], obs_keys="d", **HOW)
    known = stack.obs["d"].notna().groupby(stack.obs["z"]).mean()
    assert known.to_dict() == {0.0: 1.0, 5.0: 1.0, 10.0: 0.0, 15.0: 0.0}  # no label on either side of 15


def test_a_column_that_is_there_twice_is_refused() -> None:
    a, b = section(0, d=1.0), section(1, d=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a.obs = pd.concat([a.obs, a.obs], axis=1)
    with pytest.raises(ValueError, match=r"slice_a has 2 columns obs\['d'\]"):
        interpolate(a, b, obs_keys="d")


@pytest.mark.parametrize("key", ["spatial", "spatial_3d", "_index", "tissue", "a/b"])
def test_names_that_a_result_needs_are_refused(key: str) -> None:
    sections = [section(i, **{key: halves("l", "r")}) for i in range(2)]
    with pytest.raises(ValueError, match=r"obs_keys= names .*adata\.obs\.rename\(columns="):
        interpolate(*sections, obs_keys=key)
    for one in sections:
        one.obsm[key] = one.obsm["spatial"].copy()
    with pytest.raises(ValueError, match=r"obsm_keys= names .*adata\.obsm\.pop"):
        interpolate(*sections, obsm_keys=key)


# ---- sections in one object


def test_rows_of_one_object_have_their_own_annotations() -> None:
    """Labels, colours and numbers of three sections in one object, of which the first row lies outside of tissue."""
    series = [section(i, z_um=10.0 * i, d=halves("T", "BM"[i % 2]), n=i + 0.5) for i in range(3)]
    whole = ad.concat({f"s{i}": one for i, one in enumerate(series)}, label="section", index_unique="-")
    whole.obs["d"] = pd.Categorical(whole.obs["d"], categories=["unused", "M", "T", "B"])
    whole.uns["d_colors"] = ["black", "red", "lime", "blue"]
    whole.obs["in_tissue"] = (np.arange(whole.n_obs) % SIDE**2 >= SIDE).astype(int)
    stack = c2sti.tl.interpolate_series(whole, library_key="section", at_z=[0, 5, 10], obs_keys=["d", "n"], **HOW)
    assert stack.obs.groupby("z")["n"].agg(["min", "max"]).to_numpy().round(6).tolist() == [
        [n, n] for n in (0.5, 1, 1.5)
    ]
    assert stack.obs["d"].cat.categories.tolist() == ["M", "T", "B"]
    assert list(stack.uns["d_colors"]) == ["#ff0000", "#00ff00", "#0000ff"]
    right = stack.obsm["spatial"][:, 0] > 6
    found = stack.obs["d"][right].groupby(stack.obs["z"][right]).agg(set).to_dict()
    assert (found[0.0], found[10.0]) == ({"B"}, {"M"})


# ---- stacks


def test_a_part_of_a_result_can_be_stacked() -> None:
    """anndata drops the categories that no row of the part has."""
    a, b = pair(*[pd.Categorical(halves("l", "r"))] * 2)
    a.uns["d_colors"] = ["red", "lime"]
    out = interpolate(a, b, at=a.obsm["spatial"], obs_keys="d")
    stack = c2sti.tl.to_slices(out[out.obsm["spatial"][:, 0] > 4].copy())
    assert stack.obs["d"].unique().tolist() == ["r"]
    assert list(stack.obsm["d"].columns) == ["l", "r"]
    assert dict(zip(stack.obs["d"].cat.categories, stack.uns["d_colors"], strict=True))["r"] == "#00ff00"
