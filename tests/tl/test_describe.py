"""That a result says of itself what it is, and continues saying it through files, forms, pieces and unions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import zarr
from anndata import AnnData

import c2sti
from c2sti import io
from c2sti.cli import main
from c2sti.models import _registry
from c2sti.tl._describe import _as_text, call_of, model_record


@pytest.fixture(scope="module")
def sections() -> list[AnnData]:
    return c2sti.datasets.phantom(seed=4, size=12, n_genes=40).series([0.0, 100.0, 200.0])


@pytest.fixture(scope="module")
def out(sections: list[AnnData]) -> AnnData:
    a, _, b = sections
    return c2sti.tl.interpolate(a, b, n_slices=2, model="linear", std=True, seed=5, show_progress_bar=False)


def through_h5ad(adata: AnnData, folder: Path) -> AnnData:
    adata.write_h5ad(folder / "x.h5ad")
    return ad.read_h5ad(folder / "x.h5ad")


def through_zarr(adata: AnnData, folder: Path) -> AnnData:
    adata.write_zarr(folder / "x.zarr")
    return ad.read_zarr(folder / "x.zarr")


# ---- what is said


def test_calls_hold_what_is_not_default_and_no_paths(tmp_path: Path) -> None:
    def call(**given: object) -> str:
        parameters = inspect.signature(c2sti.tl.interpolate).parameters.values()
        sections = {"slice_b": "the other one"}
        return call_of(c2sti.tl.interpolate, {p.name: (sections | given).get(p.name, p.default) for p in parameters})

    assert call() == "c2sti.tl.interpolate(slice_a, slice_b)"
    both = call(slice_b=None, library_key="sample")
    assert both == "c2sti.tl.interpolate(slice_a, library_key='sample')"
    assert call(n_slices=3, genes=["A", "B"], show_progress_bar=False, out=tmp_path / "x.zarr") == (
        "c2sti.tl.interpolate(slice_a, slice_b, n_slices=3, genes=['A', 'B'])"
    )
    assert call(model=tmp_path / "mine", at=np.zeros((7, 2)), positions=[0.25, np.float64(0.5)]) == (
        "c2sti.tl.interpolate(slice_a, slice_b, positions=[0.25, 0.5], at=<array of shape (7, 2)>, model='mine')"
    )
    assert call(model=str(tmp_path / "mine")).endswith("model='mine')")
    assert call(context={-1.0: AnnData(np.ones((2, 2)))}).endswith("context={-1.0: <AnnData>})")
    assert call(genes=[f"g{i}" for i in range(30)]).endswith("genes=<30 values>)")


def test_a_model_is_told_by_name_and_weights(tmp_path: Path) -> None:
    model = c2sti.C2STi(c2sti.C2STiConfig(channels=4, n_components=8))
    assert model_record(tmp_path / "mine", model) == {"name": "mine", "weights": model.fingerprint()}
    assert model_record("linear", _registry.METHODS["linear"]) == {"name": "linear"}


def test_a_result_in_words(out: AnnData) -> None:
    record = out.uns["c2sti"]
    text = c2sti.tl.describe(out)
    assert text.startswith("2 sections were computed, not measured. c2sti_1 at z 66.6667, 0.333 of the way from ")
    for part in (
        f"slice_a ({record['inputs']['slice_a']['n_obs']} spots, 40 genes, sha256 "
        f"{record['inputs']['slice_a']['fingerprint'][:12]})",
        f"c2sti {record['versions']['c2sti']}, model 'linear'",
        f"40 genes in {out.n_obs} rows",
        "Expression: log1p of counts scaled to 1e4.",
        "come standard deviations of the means.",
        "virtual (computed from its neighbours') in c2sti_1, c2sti_2, photographed in slice_a, slice_b.",
        "tests on them (differential expression, Moran's I) find far too much.",
        "Pair check: expression similarity",
        "Seed 5. Made by c2sti.tl.interpolate(slice_a, slice_b, n_slices=2, model='linear', std=True, seed=5).",
    ):
        assert part in text
    bare = out.copy()
    bare.uns["c2sti"] = {k: record[k] for k in ("inserted", "sections", "positions")}
    assert c2sti.tl.describe(bare).startswith("2 sections were computed")  # of an older version, say


def test_a_series_in_words(sections: list[AnnData]) -> None:
    stack = c2sti.tl.interpolate_series(sections, spacing=50.0, model="linear", show_progress_bar=False)
    text = c2sti.tl.describe(stack)
    assert "c2sti_2 at z 150, 0.5 of the way from slice_1 to slice_2." in text
    assert "c2sti.tl.interpolate_series(slices, spacing=50.0, model='linear')" in text
    measured = stack[(~stack.obs["inserted"]).to_numpy()]
    assert c2sti.tl.describe(measured).startswith("All sections were measured.")
    assert "far too much" in text and "far too much" not in c2sti.tl.describe(measured)
    assert "far too much" not in c2sti.tl.describe(c2sti.tl.sample_counts(stack))
    assert "statistics" not in c2sti.tl.get_section(stack, "slice_1").uns["c2sti"]
    one = stack[(stack.obs["section"] == "c2sti_2").to_numpy()]
    assert c2sti.tl.describe(one).startswith("1 section was computed, not measured. c2sti_2 at z 150")


# ---- that it is kept


@pytest.mark.parametrize(
    ("form", "through"),
    [("result", through_h5ad), ("stack", through_h5ad), ("series", through_zarr), ("counts", through_h5ad)],
)
def test_it_survives_files(
    out: AnnData,
    sections: list[AnnData],
    tmp_path: Path,
    through: Callable[[AnnData, Path], AnnData],
    form: str,
) -> None:
    given = {
        "result": lambda: out,
        "stack": lambda: c2sti.tl.to_slices(out),
        "series": lambda: c2sti.tl.interpolate_series(sections, spacing=50.0, model="linear", show_progress_bar=False),
        "counts": lambda: c2sti.tl.sample_counts(out),
    }[form]()
    back = through(given, tmp_path)
    assert bool(back.uns["c2sti"]["synthetic"])
    assert set(back.uns["c2sti"]) == set(given.uns["c2sti"])
    assert c2sti.tl.describe(back) == c2sti.tl.describe(given)
    np.testing.assert_array_equal(back.obs["inserted"], given.obs["inserted"])


def test_it_survives_spatialdata(out: AnnData) -> None:
    sdata = c2sti.tl.to_spatialdata(out)
    assert {name: bool(table.uns["c2sti"]["synthetic"]) for name, table in sdata.tables.items()} == {
        "slice_a": False, "c2sti_1": True, "c2sti_2": True, "slice_b": False,
    }  # fmt: skip
    assert "Made by c2sti.tl.interpolate(" in c2sti.tl.describe(sdata)
    assert "photographed in slice_a, slice_b" in c2sti.tl.describe(sdata)


def test_a_volume_says_it_in_words(out: AnnData, tmp_path: Path) -> None:
    path = c2sti.tl.to_volume(out, tmp_path / "x.zarr", genes=list(out.var_names[:1]))
    attributes = zarr.open_group(path, mode="r").attrs["c2sti"]
    assert attributes["synthetic"] is True
    assert attributes["description"].startswith("2 sections were computed, not measured.")


def test_subsets_do_not_lie(out: AnnData) -> None:
    some = out[:50, out.var_names[[5, 2]]].copy()
    record = some.uns["c2sti"]
    assert record["synthetic"] is True
    assert "2 of 40 genes in 50 rows" in c2sti.tl.describe(some)
    # the graph says whose it is, and is found by names
    assert record["coexpression"]["c2sti_1"].shape == (40, 40)
    assert list(record["coexpression"]["genes"]) == list(out.var_names)
    whole = out.uns["c2sti"]["coexpression"]["c2sti_1"].toarray()
    found = io.held_graph(record, "c2sti_1", some.var_names).toarray()
    np.testing.assert_array_equal(found, whole[[5, 2]][:, [5, 2]])
    assert list(record["genes"]) == list(out.var_names)
    assert "coexpression" not in c2sti.tl.sample_counts(out, genes=list(out.var_names[:2])).uns["c2sti"]


def test_a_union_marks_rows_and_keeps_provenance_if_told_to(out: AnnData, sections: list[AnnData]) -> None:
    stack, measured = c2sti.tl.to_slices(out), sections[1].copy()
    measured.obs["inserted"] = False
    union = ad.concat([stack, measured])
    assert union.obs["inserted"].sum() == stack.obs["inserted"].sum() > 0
    with pytest.raises(KeyError, match=rf"of {stack.obs['inserted'].sum()} rows that they were computed.*uns_merge"):
        c2sti.tl.describe(union)
    kept = ad.concat([stack, measured], uns_merge="first")
    assert kept.uns["c2sti"]["synthetic"] is True
    assert c2sti.tl.describe(kept).startswith("2 sections were computed, not measured.")
    # whoever gives no column for the measured rows needs join="outer": the inner join drops it
    del measured.obs["inserted"]
    assert "inserted" not in ad.concat([stack, measured]).obs
    outer = ad.concat([stack, measured], join="outer").obs["inserted"]
    assert (outer == True).sum() == stack.obs["inserted"].sum()  # noqa: E712 - rows of the other are NaN
    assert ad.concat([out, out], index_unique="-").obs["inserted"].all()


def test_what_is_no_result(out: AnnData) -> None:
    with pytest.raises(KeyError, match=r"uns\['mine'\], which says how a result was made, is missing"):
        c2sti.tl.describe(out, key="mine")


# ---- from the command line


def test_commands(out: AnnData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.write_h5ad(tmp_path / "out.h5ad")
    assert main(["describe", str(tmp_path / "out.h5ad")]) == 0
    assert capsys.readouterr().out.strip() == c2sti.tl.describe(out)
    words = ["sample-counts", str(tmp_path / "out.h5ad"), "-o", str(tmp_path / "counts.h5ad"), "--seed", "2"]
    assert main([*words, "--sections", "c2sti_2"]) == 0
    drawn = ad.read_h5ad(tmp_path / "counts.h5ad")
    expected = c2sti.tl.sample_counts(out, sections="c2sti_2", seed=2)
    np.testing.assert_array_equal(drawn.X.toarray(), expected.X.toarray())
    assert main(words) == 1
    assert "is there already" in capsys.readouterr().err


def test_arguments_are_told_so_that_they_fit_on_a_line() -> None:
    told = {
        "<array of shape (3, 2)>": np.zeros((3, 2)),
        "2.5": np.float32(2.5),
        "'a.zarr'": Path("/home/somebody/a.zarr"),
        "{-1: ['a', None]}": {-1: ["a", None]},
        "<AnnData>": ad.AnnData(),
    }
    assert {_as_text(value): value for value in told.values()}.keys() == told.keys()
