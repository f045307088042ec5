"""Measured sections beside a result in SpatialData: all that they hold is kept, wherever their expression is."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

import c2sti
from tests.io.test_results import QUIET, section, stained


@pytest.fixture(scope="module")
def out() -> AnnData:
    return c2sti.tl.interpolate(section(0, z=0.0), section(1, z=20.0), **QUIET)


def kept_otherwise(kind: str, adata: AnnData, folder: Path) -> AnnData:
    """A section with counts in a layer, whose X is no expression, or that is not in memory."""
    if kind == "scaled":
        adata.X = np.full(adata.shape, -1.5, dtype=np.float32)
    elif kind == "no X":
        parts = {name: dict(getattr(adata, name)) for name in ("obsm", "layers", "uns")}
        return AnnData(obs=adata.obs, var=adata.var, **parts)
    elif kind in ("backed", "view of backed"):
        adata.write_h5ad(folder / "a.h5ad")
        adata = ad.read_h5ad(folder / "a.h5ad", backed="r")
        return adata[:, ::2] if kind == "view of backed" else adata
    elif kind == "lazy":
        adata.write_zarr(folder / "a.zarr")
        return ad.experimental.read_lazy(folder / "a.zarr")
    elif kind == "view":
        return adata[:, ::2]
    return adata


@pytest.mark.parametrize("kind", ["memory", "view", "scaled", "no X", "backed", "view of backed", "lazy"])
def test_an_original_is_taken_wherever_its_expression_is(out: AnnData, kind: str, tmp_path: Path) -> None:
    plain = stained(section(0))
    plain.layers["counts"] = plain.X.copy()
    plain.obs["in_tissue"] = [0, 0, *[1] * (plain.n_obs - 2)]
    plain.obs["region"] = [f"r{i}" for i in range(plain.n_obs)]
    plain.obsm["mix"] = pd.DataFrame({"T": 0.5, "B": 0.5}, index=plain.obs_names)
    plain.obsm["spatial_before"] = plain.obsm["spatial"][::-1].copy()
    plain.uns["region_colors"] = ["#010203"]
    original = kept_otherwise(kind, plain.copy(), tmp_path)
    columns = slice(None, None, 2) if "view" in kind else slice(None)
    sdata = c2sti.tl.to_spatialdata(out, um_per_unit=0.5, originals={"before": original})
    table, expected = sdata.tables["before"], plain[2:, columns]
    assert table.obs_names.tolist() == expected.obs_names.tolist()
    assert (table.layers["counts"] != expected.layers["counts"]).nnz == 0
    assert table.var.astype(str).to_dict() == expected.var.astype(str).to_dict()
    assert table.obs["region"].tolist() == [f"r{i}" for i in range(2, plain.n_obs)]
    assert list(table.uns["region_colors"]) == ["#010203"]
    np.testing.assert_array_equal(table.obsm["mix"], expected.obsm["mix"])
    np.testing.assert_array_equal(table.obsm["spatial_before"], expected.obsm["spatial_before"])
    np.testing.assert_allclose(table.obsm["spatial"], expected.obsm["spatial"] * 0.5)
    circles = sdata["before_spots"]
    np.testing.assert_allclose(np.column_stack([circles.geometry.x, circles.geometry.y]), table.obsm["spatial"])
    np.testing.assert_allclose(circles["radius"], 2.5)
    if kind == "no X":
        assert table.X is None
    elif kind == "scaled":
        assert (table.X == -1.5).all()
    if kind == "memory":
        assert "region" in original.obs
        assert "c2sti_region" not in original.obs
        np.testing.assert_array_equal(original.obsm["spatial"], plain.obsm["spatial"])
        assert "spatial" in original.uns
    if kind in ("no X", "lazy"):
        sdata.write(tmp_path / "out.zarr")
        assert spatialdata.read_zarr(tmp_path / "out.zarr").tables["before"].n_obs == plain.n_obs - 2


def test_originals_lie_in_the_frame_that_the_result_was_made_in() -> None:
    a, b = section(0, z=0.0), section(1, z=20.0)
    for s in (a, b):
        s.obsm["spatial_aligned"] = s.obsm["spatial"] + 1000.0
    out = c2sti.tl.interpolate(a, b, **QUIET)
    assert out.obsm["spatial"].min() > 1000
    for keys in ({}, {"spatial_key": "spatial_aligned"}):
        table = c2sti.tl.to_spatialdata(out, originals={"before": a}, **keys).tables["before"]
        np.testing.assert_array_equal(table.obsm["spatial_aligned"], a.obsm["spatial_aligned"])
        np.testing.assert_array_equal(table.obsm["spatial"], a.obsm["spatial"])
    sdata = c2sti.tl.to_spatialdata(out, originals={"before": a}, spatial_key="spatial")
    assert sdata["before_spots"].geometry.x.max() < 1000


def test_rows_of_a_table_that_annotate_other_elements_do_not_take_the_rest_with_them(
    out: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("c2sti._logging.warning", said.append)
    table = section(0)
    xy = table.obsm["spatial"]
    table.obs["region"] = pd.Categorical(["spots"] * 140 + ["elsewhere"] * 4)
    table.obs["instance"] = np.arange(144)
    parsed = TableModel.parse(table, region=["spots", "elsewhere"], region_key="region", instance_key="instance")
    shapes = ShapesModel.parse(xy, geometry=0, radius=np.full(len(xy), 3.0))
    only = parsed[:140].copy()
    only.uns["spatialdata_attrs"]["region"] = "spots"
    with pytest.warns(UserWarning, match="annotating 'elsewhere', which is not present"):
        whole = SpatialData(shapes={"spots": shapes}, tables={"table": only, "both": parsed})
    sdata = c2sti.tl.to_spatialdata(out, originals={"a": whole}, table_key="table")
    assert sdata.tables["a_both"].n_obs == 140
    assert said == [
        "4 of 144 rows of table 'both' of originals['a'] annotate nothing in coordinate system 'global', and are left "
        "out"
    ]
