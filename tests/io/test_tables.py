"""Tables of `obsm`, such as cell-type proportions, beside labels and numbers."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from tests.io.test_annotations import HOW, LEFT, halves, interpolate, log, section

__all__ = ["log"]  # a fixture
TYPES = ["T", "B", "M"]


def shares(left: list[float], right: list[float]) -> np.ndarray:
    """(64, C) one row for the spots on the left, another for those on the right."""
    return np.array(halves(left, right), dtype=np.float64)


def with_table(first: object, second: object, key: str = "types") -> tuple[AnnData, AnnData]:
    a, b = section(0), section(1)
    for one, values in ((a, first), (b, second)):
        if values is not None:
            one.obsm[key] = values.set_axis(one.obs_names) if isinstance(values, pd.DataFrame) else values
    return a, b


FORMS: dict[str, Callable[[np.ndarray], object]] = {
    "frame": lambda x: pd.DataFrame(x, columns=TYPES),
    "float32": lambda x: pd.DataFrame(x.astype(np.float32), columns=TYPES),
    "nullable": lambda x: pd.DataFrame(x, columns=TYPES).convert_dtypes(),
    "arrow": lambda x: pd.DataFrame(x, columns=TYPES).astype("double[pyarrow]"),
    "objects": lambda x: pd.DataFrame(x.astype(object), columns=TYPES),
    "array": lambda x: x,
    "sparse": sp.csr_matrix,
    "csc": sp.csc_matrix,
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_are_carried_column_by_column(form: str) -> None:
    """Half-way between (.6, .4, 0) and (.2, .4, .4), far from the border between left and right."""
    a, b = with_table(FORMS[form](shares([0.6, 0.4, 0], [0, 0, 1])), FORMS[form](shares([0.2, 0.4, 0.4], [0, 0, 1])))
    out = interpolate(a, b, at=a.obsm["spatial"], obsm_keys="types")
    found = out.obsm["c2sti_1_types"]
    assert list(found.columns) == (["0", "1", "2"] if form in ("array", "sparse", "csc") else TYPES)
    assert (found.dtypes == np.float32).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found[a.obsm["spatial"][:, 0] < 2].to_numpy(), [[0.4, 0.4, 0.2]] * 16, atol=1e-3)
    np.testing.assert_allclose(out.obsm["slice_a_types"], shares([0.6, 0.4, 0], [0, 0, 1]), atol=1e-7)
    assert list(out.uns["c2sti"]["obsm_keys"]) == ["types"]
    assert "obs_keys" not in out.uns["c2sti"]


def test_tables_are_nan_outside_of_the_tissue() -> None:
    a, b = with_table(*[pd.DataFrame(shares([1, 0, 0], [0, 0, 1]), columns=TYPES)] * 2)
    b = b[b.obsm["spatial"][:, 0] < 4]
    out = interpolate(a, b, at=a.obsm["spatial"], obsm_keys=["types"])
    assert out.obsm["slice_b_types"].isna().all(axis=1).tolist() == [not left for left in LEFT]
    assert out.obsm["slice_a_types"].notna().all(axis=None)


def test_abundances_are_averaged_and_columns_matched_by_name() -> None:
    first = pd.DataFrame(shares([10, 0, 2], [10, 0, 2]), columns=TYPES)
    second = pd.DataFrame(shares([20, 0, 4], [20, 0, 4]), columns=TYPES)[["M", "T", "B"]]
    found = interpolate(*with_table(first, second), positions=[0.25], obsm_keys="types").obsm["c2sti_1_types"]
    np.testing.assert_allclose(found[TYPES], [[12.5, 0, 2.5]] * len(found), rtol=1e-6)


def test_a_type_that_proportions_lack_is_not_there(log: io.StringIO) -> None:
    first = pd.DataFrame(shares([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]), columns=TYPES)
    second = pd.DataFrame(shares([0.5, 0.5], [0.5, 0.5]), columns=["T", "B"])
    second.iloc[:3] = np.nan
    a, b = with_table(first, second)
    out = interpolate(a, b, at=a.obsm["spatial"], obsm_keys="types")
    assert "slice_b lacks ['M']" in log.getvalue()
    np.testing.assert_allclose(out.obsm["c2sti_1_types"].iloc[32:], [[0.5, 0.4, 0.1]] * 32, atol=1e-6)
    np.testing.assert_allclose(out.obsm["c2sti_1_types"].sum(axis=1), 1, atol=1e-6)
    assert out.obsm["slice_b_types"].isna().all(axis=1).tolist() == [True] * 3 + [False] * 61
    np.testing.assert_allclose(out.obsm["slice_b_types"]["M"][3:], 0)


def test_columns_that_are_unknown_in_one_section_come_from_the_other() -> None:
    first = pd.DataFrame(shares([3, 1, 7], [3, 1, 7]), columns=TYPES)
    second = first * 2
    second["M"] = np.nan
    out = interpolate(*with_table(first, second), obsm_keys="types")
    np.testing.assert_allclose(out.obsm["c2sti_1_types"], [[4.5, 1.5, 7]] * out.n_obs, rtol=1e-6)
    assert out.obsm["slice_b_types"]["M"].isna().all()


def test_a_table_that_one_section_lacks_is_carried_from_the_other(log: io.StringIO) -> None:
    first = pd.DataFrame(shares([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]), columns=TYPES)
    for second in (None, first * np.nan):
        out = interpolate(*with_table(first, second), obsm_keys="types")
        np.testing.assert_allclose(out.obsm["c2sti_1_types"], [[0.5, 0.3, 0.2]] * out.n_obs, rtol=1e-6)
        assert out.obsm["slice_b_types"].isna().all(axis=None)
        assert "carried from slice_a" in log.getvalue()


ABUNDANCES = pd.DataFrame(shares([3, 1, 7], [3, 2, 7]), columns=TYPES)
PROPORTIONS = ABUNDANCES.div(ABUNDANCES.sum(axis=1), axis=0)
ODD: dict[str, tuple[object, object, str]] = {
    "a column of abundances": (
        ABUNDANCES,
        ABUNDANCES[["T", "B"]],
        r"slice_b lacks \['M'\]. If .*reindex\(columns=\['T', 'B', 'M'\], fill_value=0\)",
    ),
    "other names": (
        PROPORTIONS,
        PROPORTIONS.set_axis(["x", "y", "z"], axis=1),
        r"slice_a lacks \['x', 'y', 'z'\]; slice_b lacks \['T', 'B', 'M'\]",
    ),
    "widths of arrays": (np.ones((64, 2)) / 2, np.ones((64, 3)) / 3, r"unnamed columns in slice_a, slice_b"),
    "names in one": (PROPORTIONS, PROPORTIONS.to_numpy(), "unnamed columns in slice_b"),
    "scales": (PROPORTIONS, ABUNDANCES, r"holds proportions in slice_a.* and in slice_b rows that add up to 11"),
    "labels": (
        PROPORTIONS.assign(name="x"),
        PROPORTIONS,
        r"obsm\['types'\] of slice_a holds labels in 'name'.*obs_keys='name'",
    ),
    "shape": (np.ones((64, 2, 2)), np.ones((64, 2, 2)), r"slice_a has shape \(64, 2, 2\); a DataFrame"),
    "twice": (PROPORTIONS.set_axis(["T", "T", "M"], axis=1), PROPORTIONS, "more than one column 'T'"),
    "complex": (np.ones((64, 2)) * 1j, np.ones((64, 2)), "column '0' of .*complex"),
}


@pytest.mark.parametrize("case", ODD)
def test_tables_that_cannot_be_carried_are_named(case: str) -> None:
    first, second, message = ODD[case]
    with pytest.raises(ValueError, match=message):
        interpolate(*with_table(first, second), obsm_keys="types")


def test_a_name_in_obs_and_obsm_is_refused() -> None:
    a, b = with_table(PROPORTIONS, PROPORTIONS)
    for one in (a, b):
        one.obs["types"] = "x"
    with pytest.raises(ValueError, match="obs_keys= and obsm_keys= both name 'types'; rename one of the two"):
        interpolate(a, b, obs_keys="types", obsm_keys="types")


@pytest.mark.parametrize("store", ["h5ad", "zarr", "lazy"])
def test_tables_and_labels_come_from_files_and_go_there(store: str, tmp_path: Path) -> None:
    sections = with_table(PROPORTIONS, PROPORTIONS)
    for i, one in enumerate(sections):
        one.obs["d"] = pd.Categorical(halves("l", "r"))
        one.obsm["sparse"] = sp.csr_matrix(ABUNDANCES.to_numpy())
        one.write_h5ad(tmp_path / f"{i}.h5ad") if store == "h5ad" else one.write_zarr(tmp_path / f"{i}.zarr")
    read = {"h5ad": ad.read_h5ad, "zarr": ad.read_zarr}.get(store, ad.experimental.read_lazy)
    read_ = [read(tmp_path / f"{i}.{'h5ad' if store == 'h5ad' else 'zarr'}") for i in range(2)]
    how = {"obs_keys": "d", "obsm_keys": ["types", "sparse"]}
    for one in sections:
        one.obsm["sparse"] = ABUNDANCES.to_numpy()
    wanted, found = interpolate(*sections, **how), interpolate(*read_, **how)
    found.write_zarr(tmp_path / "out.zarr")
    found = ad.read_zarr(tmp_path / "out.zarr")
    for key in ("c2sti_1_types", "slice_a_sparse", "c2sti_1_d"):
        pd.testing.assert_frame_equal(found.obsm[key], wanted.obsm[key])
    assert list(found.uns["c2sti"]["obsm_keys"]) == ["types", "sparse"]


def test_stacks_hold_tables_under_their_own_names() -> None:
    a, b = with_table(PROPORTIONS, PROPORTIONS[::-1])
    out = interpolate(a, b, obsm_keys="types")
    stack = c2sti.tl.to_slices(out)
    for name in ("slice_a", "c2sti_1", "slice_b"):
        rows = (stack.obs["section"] == name).to_numpy()
        inside = out.obs[f"{name}_tissue"].to_numpy()
        np.testing.assert_array_equal(stack.obsm["types"][rows], out.obsm[f"{name}_types"][inside])
    assert list(stack.obsm["types"].columns) == TYPES


def test_series_hold_tables_under_their_own_names() -> None:
    series = [section(i, z_um=10.0 * i, d=halves("l", "r")) for i in range(3)]
    for one, factor in zip(series, (1, 2, 4), strict=True):
        one.obsm["types"] = (ABUNDANCES * factor).set_axis(one.obs_names)
        one.uns["d_colors"] = ["red", "lime"]
    stack = c2sti.tl.interpolate_series(series, at_z=[0, 5, 10, 15], obs_keys="d", obsm_keys="types", **HOW)
    mean = stack.obsm["types"]["T"].groupby(stack.obs["z"]).mean()
    np.testing.assert_allclose(mean, [3, 4.5, 6, 9], rtol=1e-6)
    assert list(stack.uns["c2sti"]["obsm_keys"]) == ["types"]
    assert list(stack.uns["c2sti"]["obs_keys"]) == ["d"]
    assert list(stack.uns["d_colors"]) == ["#ff0000", "#00ff00"]
    assert list(stack.obsm["d"].columns) == ["l", "r"]
