"""Results lose nothing that sections bring, and write over nothing that is a user's own."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import spatialdata
import squidpy as sq
import zarr
from anndata import AnnData
from matplotlib.axes import Axes

import c2sti

QUIET = {"model": "linear", "show_progress_bar": False}
SIDE, STEP = 12, 10.0


def section(seed: int, origin: tuple[float, float] = (20.0, 20.0), z: float | None = None) -> AnnData:
    """A square of 12 × 12 spots, 10 apart, whose corner spot lies at the origin given; counts of 12 genes."""
    rng = np.random.default_rng(seed)
    y, x = (v.ravel().astype(float) for v in np.indices((SIDE, SIDE)))
    rate = np.where(np.arange(12) % 2 == 0, 0.3 + x[:, None] / SIDE, 0.3 + y[:, None] / SIDE) * 20
    adata = AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.var_names = [f"ENSG{i:02d}" for i in range(12)]
    adata.var["symbol"] = pd.Categorical([f"SYM{i // 2 if i < 2 else i}" for i in range(12)])  # SYM0 names two genes
    adata.var["length"] = np.arange(12) * 100
    adata.obs_names = [f"s{seed}_{i}" for i in range(adata.n_obs)]
    adata.obsm["spatial"] = np.column_stack([x, y]) * STEP + np.asarray(origin)
    if z is not None:
        adata.obs["z_um"] = z
    return adata


def stained(adata: AnnData) -> AnnData:
    """The same over grey H&E, one pixel a unit, that begins at the origin and ends beyond the tissue."""
    width, height = np.maximum(adata.obsm["spatial"].max(axis=0) + 50, 1).astype(int)
    pixels = np.full((height, width, 3), 150, dtype=np.uint8)
    pixels[::2] = 180
    factors = {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": 6.0}
    adata.uns["spatial"] = {"lib": {"images": {"hires": pixels}, "scalefactors": factors}}
    return adata


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the log warns of."""
    texts: list[str] = []
    monkeypatch.setattr("c2sti._logging.warning", texts.append)
    return texts


@pytest.fixture(scope="module")
def out() -> AnnData:
    return c2sti.tl.interpolate(section(0, z=0.0), section(1, z=20.0), **QUIET)


# ---- squidpy's default plot


def view(ax: Axes, adata: AnnData, library: str, image: str = "hires") -> tuple[float, float]:
    """Share of the bins that lie inside of the axes, and share of the axes that they fill."""
    (x0, x1), (y0, y1) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    xy = adata.obsm["spatial"] * adata.uns["spatial"][library]["scalefactors"][f"tissue_{image}_scalef"]
    seen = ((xy > [x0, y0]) & (xy < [x1, y1])).all(axis=1).mean()
    return float(seen), float(np.prod(np.ptp(xy, axis=0)) / ((x1 - x0) * (y1 - y0)))


# squidpy's axes reach from half a pixel before the origin of the frame to the end of the image, and x and y have one
# scale: the best share is that of the tissue in a square from the origin, or around it (in two by three pixels of 70).
VIEWS = {
    "near 0": ((20.0, 20.0), (110 / 140) ** 2),
    "around 0": ((-60.0, -60.0), (110 / 140) ** 2),
    "y negative": ((20.0, -300.0), (110 / 620) ** 2),
    "both negative": ((-300.0, -300.0), (110 / 620) ** 2),
    "partly negative": ((-25.0, 40.0), 110**2 / (140 * 210)),
    "far": ((2e4, 2e4), (110 / 20120) ** 2),
}


@pytest.mark.parametrize("where", VIEWS)
def test_squidpys_default_plot_shows_all_bins(where: str) -> None:
    origin, best = VIEWS[where]
    out = c2sti.tl.interpolate(section(0, origin, z=0.0), section(1, origin, z=20.0), **QUIET)
    stack = c2sti.tl.to_slices(out)
    ax = sq.pl.spatial_scatter(out, color="ENSG00", layer="c2sti_1", shape="square", return_ax=True)
    axes = sq.pl.spatial_scatter(stack, color="ENSG00", library_key="section", shape="square", return_ax=True)
    for seen, share in [view(ax, out, "c2sti"), view(axes[1], stack, "c2sti_1")]:
        assert seen == 1
        assert share > 0.9 * best
    np.testing.assert_allclose(out.obsm["spatial"].min(axis=0), origin)
    assert max(out.uns["spatial"]["c2sti"]["images"]["hires"].shape) <= 102
    plt.close("all")


def test_tissue_that_squidpy_draws_small_is_said_with_what_draws_it_large(said: list[str]) -> None:
    c2sti.tl.interpolate(section(0), section(1), **QUIET)
    assert said == []
    c2sti.tl.interpolate(section(0, (2e4, 2e4)), section(1, (2e4, 2e4)), **QUIET)
    assert said == [
        "bins fill 0.0% of the axes that squidpy draws from the origin of the frame; "
        "sq.pl.spatial_scatter(…, img=False) fits them to the tissue, as c2sti.pl does"
    ]


def test_h_and_e_that_begins_within_the_tissue_hides_no_bin_and_is_kept(said: list[str]) -> None:
    """Four of twelve columns of spots lie before the origin, at x = -35 … -5, where no image can lie."""
    a, b = (stained(section(i, (-35.0, 40.0), z=20.0 * i)) for i in (0, 1))
    out = c2sti.tl.interpolate(a, b, **QUIET)
    assert said == [
        "some bins lie beside the H&E, which begins at the origin of the frame: squidpy draws all bins over white, and "
        "those that the H&E reaches over it with img_res_key='c2sti_1'"
    ]
    images = out.uns["spatial"]["c2sti"]["images"]
    assert images["hires"].min() == 255
    stack = c2sti.tl.to_slices(out)
    sdata = c2sti.tl.to_spatialdata(out)
    for name in ("slice_a", "c2sti_1", "slice_b"):
        assert set(np.unique(images[name])) <= {150, 165, 180, 255}
        np.testing.assert_array_equal(stack.uns["spatial"][name]["images"][name], images[name])
        np.testing.assert_array_equal(np.moveaxis(sdata[f"{name}_histology"].values, 0, -1), images[name])
    ax = sq.pl.spatial_scatter(out, color="ENSG00", layer="c2sti_1", shape="square", return_ax=True)
    assert view(ax, out, "c2sti")[0] == 1
    axes = sq.pl.spatial_scatter(stack, color="ENSG00", library_key="section", shape="square", return_ax=True)
    assert view(axes[1], stack, "c2sti_1")[0] == 1
    over = sq.pl.spatial_scatter(
        out, color="ENSG00", layer="c2sti_1", shape="square", img_res_key="c2sti_1", return_ax=True
    )
    assert view(over, out, "c2sti", "c2sti_1")[0] == pytest.approx(8 / 12)
    plt.close("all")


# ---- columns and keys that users have


def test_labels_called_as_the_keys_of_tables_are_kept(said: list[str], tmp_path: Path) -> None:
    a, b = section(0, z=0.0), section(1, z=20.0)
    for s in (a, b):
        left = s.obsm["spatial"][:, 0] < 75
        s.obs["region"] = pd.Categorical(np.where(left, "atrium", "ventricle"))
        s.obs["Instance"] = pd.Categorical(np.where(left, "x", "y"))
        s.uns["region_colors"] = ["#ff0000", "#0000ff"]
    out = c2sti.tl.interpolate(a, b, obs_keys=["region", "Instance"], **QUIET)
    c2sti.tl.to_spatialdata(out, originals={"before": a}).write(tmp_path / "out.zarr")
    back = spatialdata.read_zarr(tmp_path / "out.zarr")
    for name, shapes in (("c2sti_1", "c2sti_1_bins"), ("before", "before_spots")):
        table = back.tables[name]
        expected = np.where(np.asarray(table.obsm["spatial"])[:, 0] < 75, "atrium", "ventricle")
        np.testing.assert_array_equal(table.obs["region"].astype(str), expected)
        assert set(table.obs["Instance"].astype(str)) == {"x", "y"}
        assert list(table.uns["region_colors"]) == ["#ff0000", "#0000ff"]
        attrs = table.uns["spatialdata_attrs"]
        assert (attrs["region_key"], attrs["instance_key"]) == ("c2sti_region", "c2sti_instance")
        assert table.obs["c2sti_region"].unique().tolist() == [shapes]
        assert table.obs["c2sti_instance"].tolist() == back[shapes].index.tolist()
    assert said == []


def test_what_a_user_added_to_a_stack_goes_into_its_tables(out: AnnData) -> None:
    stack = c2sti.tl.to_slices(out)
    stack.obs["leiden"] = pd.Categorical(["0", "1"] * (stack.n_obs // 2))
    stack.uns["leiden_colors"] = ["#000000", "#ffffff"]
    stack.uns["pca"] = {"variance": np.arange(3.0)}
    stack.obsm["X_pca"] = np.arange(stack.n_obs * 3.0).reshape(-1, 3)
    stack.layers["half"] = stack.X / 2
    stack.varm["PCs"] = np.eye(12)
    stack.varp["coexpression"] = sp.csr_matrix(np.eye(12))  # of its own, beside those of the sections
    del stack.obsm["spatial_3d"], stack.uns["spatial"]
    table = c2sti.tl.to_spatialdata(stack).tables["c2sti_1"]
    rows = (stack.obs["section"] == "c2sti_1").to_numpy()
    np.testing.assert_array_equal(table.obsm["X_pca"], stack.obsm["X_pca"][rows])
    np.testing.assert_array_equal(table.layers["half"], stack.X[rows] / 2)
    np.testing.assert_array_equal(table.varm["PCs"], np.eye(12))
    assert table.obs["leiden"].tolist() == stack.obs["leiden"][rows].tolist()
    assert list(table.uns["leiden_colors"]) == ["#000000", "#ffffff"]
    np.testing.assert_array_equal(table.uns["pca"]["variance"], [0, 1, 2])
    np.testing.assert_array_equal(table.varp["coexpression"].toarray(), np.eye(12))
    assert abs(table.varp["c2sti_coexpression"] - out.uns["c2sti"]["coexpression"]["c2sti_1"]).max() == 0
    assert list(table.varp) == ["coexpression", "c2sti_coexpression"]


def test_a_carried_total_is_not_written_over_by_that_of_drawn_counts(said: list[str]) -> None:
    a, b = section(0, z=0.0), section(1, z=20.0)
    for s in (a, b):
        s.obs["total_counts"] = 7.0
    drawn = c2sti.tl.sample_counts(c2sti.tl.interpolate(a, b, obs_keys="total_counts", **QUIET))
    np.testing.assert_allclose(drawn.obs["total_counts"], 7.0)
    np.testing.assert_array_equal(drawn.obs["c2sti_total_counts"], np.asarray(drawn.X.sum(axis=1)).ravel())
    assert said == [
        "obs['total_counts'] is an annotation; the totals of the drawn counts are in obs['c2sti_total_counts']"
    ]


def test_a_graph_that_is_replaced_is_said(out: AnnData, said: list[str]) -> None:
    used = out.copy()
    c2sti.tl.coexpression(used, layer="c2sti_1", key_added="mine")
    assert said == []
    c2sti.tl.coexpression(used, layer="c2sti_1")
    assert said == []
    c2sti.tl.coexpression(used, layer="c2sti_1")
    assert said == ["varp['coexpression_c2sti_1'] was there, and is replaced; key_added= keeps both"]


def test_a_gene_may_be_called_as_a_column_is() -> None:
    """ "z" is a gene of Drosophila, and a column of every stack."""
    a, b = (section(i, z=20.0 * i) for i in (0, 1))
    for s in (a, b):
        s.var_names = ["z", "support", *s.var_names[2:]]
    stack = c2sti.tl.to_slices(c2sti.tl.interpolate(a, b, **QUIET))
    shown = c2sti.pl.sections(stack, "z")[1].collections[0].get_array()
    np.testing.assert_array_equal(np.asarray(shown), stack.X[(stack.obs["section"] == "c2sti_1").to_numpy(), 0])
    plt.close("all")


# ---- genes: what `var` says of them, and names


def test_columns_of_var_go_through_all_that_is_made_of_a_result(out: AnnData) -> None:
    symbols = [f"SYM{i // 2 if i < 2 else i}" for i in range(12)]
    stack, sdata = c2sti.tl.to_slices(out), c2sti.tl.to_spatialdata(out)
    for made in (out, stack, sdata.tables["c2sti_1"], c2sti.tl.sample_counts(out)):
        assert made.var_names.tolist() == [f"ENSG{i:02d}" for i in range(12)]
        assert made.var["symbol"].tolist() == symbols
        assert made.var["length"].tolist() == [100 * i for i in range(12)]


def test_genes_may_be_named_by_symbol(out: AnnData, tmp_path: Path) -> None:
    drawn = c2sti.tl.sample_counts(out, genes=["SYM3", "ENSG05"])
    assert drawn.var_names.tolist() == ["ENSG03", "ENSG05"]
    np.testing.assert_array_equal(drawn.X.toarray(), c2sti.tl.sample_counts(out)[:, ["ENSG03", "ENSG05"]].X.toarray())
    path = c2sti.tl.to_volume(out, tmp_path / "v.zarr", genes=["SYM7", "ENSG02"], fill=0.0)
    volume = zarr.open_group(path, mode="r")
    channels = volume.attrs["ome"]["omero"]["channels"]
    assert [channel["label"] for channel in channels] == ["SYM7", "ENSG02"]
    array = np.asarray(next(iter(dict(volume.arrays()).values())))
    rows, columns = out.obs["array_row"].to_numpy(), out.obs["array_col"].to_numpy()
    np.testing.assert_array_equal(array[0, 1, rows, columns], out.layers["c2sti_1"][:, 7])
    axes = c2sti.pl.sections(out, "SYM9")
    np.testing.assert_array_equal(np.asarray(axes[1].collections[0].get_array()), out.layers["c2sti_1"][:, 9])
    assert axes[0].get_ylabel() == "SYM9"
    plt.close("all")


def test_a_network_around_a_symbol_names_its_neighbours_by_symbols(out: AnnData) -> None:
    (by_symbol,) = c2sti.pl.coexpression(out, "SYM4", sections="c2sti_1", n_genes=4)
    (by_name,) = c2sti.pl.coexpression(out, "ENSG04", sections="c2sti_1", n_genes=4)
    names, symbols = ([text.get_text() for text in ax.texts] for ax in (by_name, by_symbol))
    assert symbols == [out.var.loc[name, "symbol"] for name in names]
    assert names[0] == "ENSG04"
    plt.close("all")


def test_names_of_genes_that_do_not_tell_which_are_refused(out: AnnData, tmp_path: Path) -> None:
    several = r"'SYM0' is var\['symbol'\] of 2 genes \(ENSG00, ENSG01\); name one of these"
    with pytest.raises(ValueError, match=several):
        c2sti.tl.sample_counts(out, genes=["SYM0"])
    with pytest.raises(ValueError, match=several):
        c2sti.pl.sections(out, "SYM0")
    with pytest.raises(ValueError, match="genes= names 'ENSG03' and 'SYM3', which are one gene"):
        c2sti.tl.to_volume(out, tmp_path / "v.zarr", genes=["ENSG03", "SYM3"])
    with pytest.raises(KeyError, match=r"1 of 2 genes= are not in var_names \(first: 'xyz'\)"):
        c2sti.tl.sample_counts(out, genes=["SYM3", "xyz"])
    with pytest.raises(
        KeyError, match="there is no gene 'xyz'; var_names has 12, such as 'ENSG00'; no gene of that name"
    ):
        c2sti.pl.coexpression(out, "xyz")


# ---- the logarithm


def test_results_say_that_they_are_logarithms(out: AnnData, tmp_path: Path) -> None:
    stack, sdata = c2sti.tl.to_slices(out), c2sti.tl.to_spatialdata(out)
    out.write_h5ad(tmp_path / "out.h5ad")
    stack.write_zarr(tmp_path / "stack.zarr")
    sdata.write(tmp_path / "sdata.zarr")
    for made in (
        out,
        stack,
        sdata.tables["slice_a"],
        ad.read_h5ad(tmp_path / "out.h5ad"),
        ad.read_zarr(tmp_path / "stack.zarr"),
        spatialdata.read_zarr(tmp_path / "sdata.zarr").tables["c2sti_1"],
    ):
        assert float(made.uns["log1p"]["base"]) == np.e
    assert "log1p" not in out.uns["c2sti"]
    assert "log1p" not in c2sti.tl.sample_counts(out).uns


def test_scanpy_takes_fold_changes_by_the_right_base(out: AnnData) -> None:
    stack = c2sti.tl.to_slices(out)
    stack.obs["left"] = pd.Categorical(np.where(stack.obsm["spatial"][:, 0] < 75, "yes", "no"))
    sc.tl.rank_genes_groups(stack, "left", groups=["yes"], method="t-test")
    found = sc.get.rank_genes_groups_df(stack, "yes").set_index("names")["logfoldchanges"]
    inside = (stack.obs["left"] == "yes").to_numpy()
    means = [np.expm1(stack.X[rows].mean(axis=0)) for rows in (inside, ~inside)]
    np.testing.assert_allclose(found[stack.var_names], np.log2(means[0] / means[1]), rtol=1e-4)


def test_a_result_of_expression_whose_logarithm_is_not_known_says_nothing_of_it() -> None:
    a, b = section(0, z=0.0), section(1, z=20.0)
    for s in (a, b):
        s.X = np.log1p(s.X.toarray())
    assert "log1p" not in c2sti.tl.interpolate(a, b, **QUIET).uns
    for s in (a, b):
        s.uns["log1p"] = {"base": None}
    assert c2sti.tl.interpolate(a, b, **QUIET).uns["log1p"] == {"base": np.e}


# ---- names and z of sections


@pytest.fixture(scope="module")
def together() -> AnnData:
    """Three sections in one object, with names that no file can hold."""
    parts = {name: section(i, z=20.0 * i) for i, name in enumerate(["C 3", "C/4", "C_3"])}
    return ad.concat(parts, label="sample", merge="same")


def test_sections_of_a_series_may_be_called_anything(together: AnnData, said: list[str], tmp_path: Path) -> None:
    stack = c2sti.tl.interpolate_series(together, library_key="sample", spacing=10.0, **QUIET)
    assert stack.obs["section"].cat.categories.tolist() == ["C 3", "c2sti_1", "C|4", "c2sti_2", "C_3"]
    drawn = c2sti.tl.sample_counts(stack, sections="c2sti_2")
    assert drawn.n_obs == 144
    titles = [ax.get_title().split("\n")[0] for ax in c2sti.pl.sections(stack, "ENSG00")]
    assert titles == ["C 3", "c2sti_1", "C|4", "c2sti_2", "C_3"]
    c2sti.tl.to_volume(stack, tmp_path / "v.zarr", genes="ENSG00")
    said.clear()
    c2sti.tl.to_spatialdata(stack).write(tmp_path / "s.zarr")
    assert said == [
        "the elements of section 'C 3' are called 'C_3', which can be written to files",
        "the elements of section 'C|4' are called 'C_4', which can be written to files",
        "the elements of section 'C_3' are called 'C_3_2', which can be written to files",
    ]
    back = spatialdata.read_zarr(tmp_path / "s.zarr")
    found = {name: str(table.uns["c2sti"]["section"]) for name, table in back.tables.items()}
    assert found == {"C_3": "C 3", "C_4": "C|4", "C_3_2": "C_3", "c2sti_1": "c2sti_1", "c2sti_2": "c2sti_2"}
    plt.close("all")


def test_figures_of_a_pair_say_the_names_of_its_sections(together: AnnData) -> None:
    pair = together[together.obs["sample"].isin(["C 3", "C_3"])].copy()
    out = c2sti.tl.interpolate(pair, library_key="sample", **QUIET)
    titles = [ax.get_title() for ax in c2sti.pl.sections(out, "ENSG00")]
    assert titles == [
        "C 3 (slice_a)\nmeasured, z = 0",
        "c2sti_1\ninterpolated, z = 20",
        "C_3 (slice_b)\nmeasured, z = 40",
    ]
    plt.close("all")


def test_a_stack_without_z_says_so_once_it_is_asked_for(said: list[str]) -> None:
    out = c2sti.tl.interpolate(section(0), section(1), **QUIET)
    c2sti.tl.to_spatialdata(out)
    c2sti.tl.sample_counts(out)
    assert said == []
    np.testing.assert_array_equal(np.unique(c2sti.tl.to_slices(out).obs["z"]), [0, 0.5, 1])
    assert said == [
        "the sections carry no z: in the stack it runs from 0 to 1, beside x and y in the unit of the coordinates. "
        "Give the distance from slice_a to slice_b in that unit: c2sti.tl.to_slices(adata, gap=…)"
    ]
    np.testing.assert_array_equal(np.unique(c2sti.tl.to_slices(out, gap=8.0).obs["z"]), [0, 4, 8])
    assert len(said) == 1
