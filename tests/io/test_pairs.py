"""Sections that do not go together: named differently, of other panels, on other scales, or there twice."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti import _backed, benchmark, io, pair_check
from c2sti.io import _genes, _read

SIDE = 12
SYMBOLS, IDS = [f"GENE{i}" for i in range(200)], [f"ENSG{i:011}" for i in range(200)]


def section(seed: int, names: list[str] | int = 60, z: float | None = None, depth: float = 1.0) -> AnnData:
    """Counts of spots 10 apart; genes of even number rise along x, odd ones along y."""
    names = [f"GENE{i}" for i in range(names)] if isinstance(names, int) else names
    y, x = (v.ravel().astype(float) for v in np.indices((SIDE, SIDE)))
    odd = [int(re.sub(r"\D", "", name.partition(".")[0])) % 2 for name in names]
    slope = np.where(odd, y[:, None], x[:, None]) / SIDE
    counts = np.random.default_rng(seed).poisson((0.3 + slope) * 20 * depth).astype(np.float32)
    adata = AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=names))
    adata.obs_names = [f"s{seed}_{i}" for i in range(adata.n_obs)]
    adata.obsm["spatial"] = np.column_stack([x, y]) * 10 + 20.0
    if z is not None:
        adata.obs["z_um"] = z
    return adata


def interpolate(a: AnnData, b: AnnData, **how: object) -> AnnData:
    return c2sti.tl.interpolate(a, b, model="linear", show_progress_bar=False, **how)


def fill(slices: list[AnnData], **how: object) -> AnnData:
    z = [100.0 * i for i in range(len(slices))]
    return c2sti.tl.interpolate_series(slices, z=z, model="linear", show_progress_bar=False, **{"spacing": 50.0, **how})


def evaluate(slices: list[AnnData], **how: object) -> pd.DataFrame:
    return c2sti.tl.evaluate(slices, show_progress_bar=False, **{"methods": ["linear"], **how})


# ---- names of genes


def named(symbols_left: int = 194) -> tuple[AnnData, AnnData]:
    """Symbols, but for genes that have none; and Ensembl ids."""
    a, b = section(0, SYMBOLS[:symbols_left] + IDS[symbols_left:]), section(1, IDS)
    a.var["gene_ids"] = IDS
    a.var["n_cells"] = 7
    return a, b


def small_network(slices: list[AnnData]) -> object:
    config = c2sti.C2STiConfig(channels=4, n_components=4, n_splits=0)
    how = c2sti.TrainConfig(steps=1)
    return c2sti.tl.train(slices, model=None, config=config, how=how, show_progress_bar=False)


CALLS: dict[str, Callable[[AnnData, AnnData], object]] = {
    "interpolate": interpolate,
    "series": lambda a, b: fill([a, b]),
    "evaluate": lambda a, b: evaluate([a, b, section(2, list(a.var_names))], methods=[]),
    "train": lambda a, b: small_network([a, b, section(2, list(a.var_names))]),
    "align": lambda a, b: c2sti.pp.align(a, b, matrix=np.eye(3)),
    "fit": c2sti.pp.check_pair,
}


@pytest.mark.parametrize("call", CALLS)
def test_few_shared_genes_are_told_once_with_both_kinds_of_names(call: str) -> None:
    with pytest.warns(UserWarning, match="genes are in all sections") as caught:
        CALLS[call](*named())
    (told,) = (str(w.message) for w in caught if "genes are in all" in str(w.message))
    names = ["slices[0]", "slices[1]"] if call in ("series", "evaluate") else ["slice_a", "slice_b"]
    names = {"train": ["series[0]", "series[1]"], "align": ["reference", "moving"]}.get(call, names)
    assert told.startswith("only 6 genes are in all sections")
    assert f"only {names[0]} has GENE0, GENE1, GENE2, …; only {names[1]} has ENSG00000000000, ENSG00000000001" in told
    assert told.endswith(f'var_names: {names[0]}.var_names = {names[0]}.var["gene_ids"]')
    assert f"{names[0]}: 200, {names[1]}: 200" in told


SPELLINGS: dict[str, tuple[list[str], list[str]]] = {
    "versions": ([f"{name}.1" for name in IDS], [f"{name}.{2 + i % 7}" for i, name in enumerate(IDS)]),
    "one with versions": (IDS, [f"{name}.3" for name in IDS]),
    "capitals": (SYMBOLS, [name.capitalize() for name in SYMBOLS]),
}


@pytest.mark.parametrize("shared", [0, 20])
@pytest.mark.parametrize("names", [*SPELLINGS, "column", "categories"])
def test_the_fix_that_is_named_works(names: str, shared: int) -> None:
    if names in SPELLINGS:
        a, b = (section(i, [*IDS[:shared], *of[shared:]]) for i, of in enumerate(SPELLINGS[names]))
    else:
        b, a = named(200 - shared)
        a.var_names.name = None
        b.var["gene_ids"] = b.var["gene_ids"].astype("category" if names == "categories" else "object")
    said = pytest.raises(ValueError, match="no gene in common") if shared == 0 else pytest.warns(UserWarning)
    with said as found:
        interpolate(a, b)
    text = str(found.value if shared == 0 else found[0].message)
    code = text.partition("var_names: ")[2]
    assert code.startswith("slice_")
    exec(code, {"slice_a": a, "slice_b": b})
    assert interpolate(a, b).n_vars == 200  # warnings are errors here


def test_names_without_a_counterpart_are_shown_and_nothing_is_made_up() -> None:
    a, b = section(0, SYMBOLS), section(1, SYMBOLS[:9] + IDS[9:])
    a.var["feature_types"] = "Gene Expression"
    with pytest.warns(UserWarning, match=r"has ENSG00000000009, .*; give both the same kind of names in var_names$"):
        assert interpolate(a, b).n_vars == 9


def test_half_of_the_smaller_panel_is_enough() -> None:
    assert interpolate(section(0, 60), section(1, SYMBOLS[30:90])).n_vars == 30
    with pytest.warns(UserWarning, match="only 29 genes are in all sections .slice_a: 60, slice_b: 60."):
        interpolate(section(0, 60), section(1, SYMBOLS[31:91]))


# ---- panels of different size


def test_counts_are_normalised_by_the_genes_that_all_sections_share() -> None:
    panel = SYMBOLS[10:50]
    a, b, beyond = section(0), section(1, SYMBOLS[5:65]), section(2, SYMBOLS[10:80])
    out = c2sti.tl.interpolate(a, b[:, ::-1].copy(), context={2.0: beyond}, model="gp", show_progress_bar=False)
    cut = [s[:, SYMBOLS[10:60]].copy() for s in (a, b, beyond)]
    by_hand = c2sti.tl.interpolate(*cut[:2], context={2.0: cut[2]}, model="gp", show_progress_bar=False)
    assert list(out.var_names) == SYMBOLS[10:60]
    for name in ("slice_a", "c2sti_1", "slice_b"):
        np.testing.assert_allclose(out.layers[name], by_hand.layers[name], atol=1e-6)
    counts = cut[0].X.toarray()
    np.testing.assert_allclose(
        out.layers["slice_a"], np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4), rtol=1e-5
    )
    np.testing.assert_array_equal(out.obs["slice_a_library_size"], counts.sum(axis=1))
    chosen = interpolate(a, b, genes=panel)  # genes that are asked for do not change the normalisation
    known = interpolate(a[:, SYMBOLS[5:60]].copy(), b[:, SYMBOLS[5:60]].copy())[:, panel]
    np.testing.assert_allclose(chosen.layers["c2sti_1"], known.layers["c2sti_1"], atol=1e-6)


def test_a_series_and_its_evaluation_too() -> None:
    series = [section(0), section(1, SYMBOLS[5:60]), section(2, SYMBOLS[:55])]
    cut = [s[:, SYMBOLS[5:55]].copy() for s in series]
    np.testing.assert_array_equal(fill(series).X, fill(cut).X)
    np.testing.assert_array_equal(fill(series).obs["library_size"], fill(cut).obs["library_size"])
    columns = ["method", "pcc", "rmse", "ceiling", "n_genes"]
    pd.testing.assert_frame_equal(evaluate(series)[columns], evaluate(cut)[columns])


def test_counts_behind_the_layers_are_whole_and_those_that_were_measured() -> None:
    a, b = section(0), section(1, SYMBOLS[5:65])
    out = interpolate(a, b)
    shares = np.expm1(out.layers["slice_a"].astype(float)) / 1e4
    counts = shares * out.obs["slice_a_library_size"].to_numpy()[:, None]
    np.testing.assert_allclose(counts, a[:, SYMBOLS[5:60]].X.toarray(), atol=1e-3)
    drawn = c2sti.tl.sample_counts(out)
    assert drawn.X.sum() == pytest.approx(counts.sum(), rel=0.05)


def test_a_panel_that_holds_few_of_the_counts_is_told() -> None:
    a, b = section(0, 200), section(1, 200)[:, SYMBOLS[:40]].copy()
    words = r"normalised by the 40 genes .*slice_a: 200, slice_b: 40.* only \d+\.\d% of those of slice_a"
    with pytest.warns(UserWarning, match=words) as caught:
        out = interpolate(a, b)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    means = [np.nanmean(out.layers[name]) for name in ("slice_a", "c2sti_1", "slice_b")]
    assert means == pytest.approx([means[0]] * 3, abs=0.01)


def test_sections_of_one_panel_are_left_as_they_are() -> None:
    a, b = (io.read_slice(section(i), name=n) for i, n in enumerate(("slice_a", "slice_b")))
    assert io.on_shared_genes([a, b])[0] is a
    turned = io.read_slice(section(1)[:, ::-1].copy())
    _, cut = io.on_shared_genes([a, turned])
    assert cut.library is turned.library
    assert list(cut.var.index) == list(cut.genes) == list(a.genes)
    np.testing.assert_array_equal(cut.values.toarray(), b.values.toarray())


def test_a_spot_without_counts_in_the_shared_genes_stays_zero_and_a_section_is_refused() -> None:
    a, b = section(0), section(1, 40)
    counts = a.X.toarray()
    counts[30, :40] = 0
    a.X = sp.csr_matrix(counts)
    out = interpolate(a, b)
    np.testing.assert_array_equal(out.layers["slice_a"][30], 0)
    assert out.obs["slice_a_library_size"].iloc[30] == 0
    counts[:, :40] = 0
    a.X = sp.csr_matrix(counts)
    with pytest.raises(ValueError, match=r"slice_a has no expression in the 40 genes that all sections share .GENE0"):
        interpolate(a, b)


def test_a_section_on_disk_is_cut_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = section(0), section(1, 40)
    known = io.on_shared_genes([io.read_slice(s) for s in (a, b)])[0]
    monkeypatch.setattr(_read, "LARGE", 0)
    monkeypatch.setattr(_backed, "BLOCK", 500)
    a.X = da.from_array(a.X.toarray(), chunks=(50, 60))
    lazy = io.read_slice(a)
    assert isinstance(lazy.values, _backed.Stored)
    found = io.on_shared_genes([lazy, io.read_slice(b)])[0]
    assert isinstance(found.values, _backed.Stored)
    np.testing.assert_array_equal(found.library, known.library)
    np.testing.assert_array_equal(_backed.in_memory(found.values).toarray(), known.values.toarray())


# ---- level


def normalised(adata: AnnData, target: float | None = 1e4, base: float | None = None, log: bool = True) -> AnnData:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=target)
    if log:
        sc.pp.log1p(adata, base=base)
    return adata


def cut_after(adata: AnnData) -> AnnData:
    return normalised(adata)[:, SYMBOLS[:30]].copy()


SCALES: dict[str, tuple[AnnData, AnnData, float, str]] = {
    "totals": (
        normalised(section(0)),
        normalised(section(1), 1e6),
        0.01,
        r"slice_a: normalised to 10,000 a spot, natural logarithm; slice_b: normalised to 1,000,000 a spot, natural",
    ),
    "medians": (
        normalised(section(0), None),
        normalised(section(1, depth=0.5), None),
        float(np.median(section(1, depth=0.5).X.toarray().sum(axis=1)) / np.median(section(0).X.toarray().sum(axis=1))),
        r"slice_b: normalised to \d\d\d a spot",
    ),
    "bases": (
        normalised(section(0), base=2),
        normalised(section(1)),
        np.log(2),
        r"slice_a: .*logarithm to base 2; slice_b: normalised to 10,000 a spot, natural logarithm",
    ),
    "one without logarithm": (
        normalised(section(0), log=False),
        normalised(section(1)),
        0.0,
        r"slice_a: normalised to 10,000 a spot, no logarithm; slice_b",
    ),
    "both without": (
        normalised(section(0), log=False),
        normalised(section(1), log=False),
        0.0,
        r"slice_b: normalised to 10,000 a spot, no logarithm: .*log1p",
    ),
    "both without, cut": (
        normalised(section(0), log=False)[:, SYMBOLS[:30]].copy(),
        normalised(section(1), log=False)[:, SYMBOLS[:30]].copy(),
        0.0,
        r"slice_b: values up to \d+(\.\d)?, no logarithm",
    ),
    "one cut before": (
        cut_after(section(0)),
        normalised(section(1)[:, SYMBOLS[:30]].copy()),
        0.625,  # 1.25 · ½
        r"over 30 genes, expression of slice_b is (1\.9\d*|2|2\.0\d*) times that of slice_a .median.: give the raw",
    ),
}


@pytest.mark.parametrize("case", SCALES)
def test_sections_on_two_scales_are_told_apart(case: str) -> None:
    a, b, level, words = SCALES[case]
    with pytest.warns(UserWarning, match=rf"^slice_a and slice_b are not normalised alike\. level 0\.\d\d.*{words}"):
        out = interpolate(a, b)
    assert out.uns["c2sti"]["pair_check"]["level"] == pytest.approx(level, rel=0.03, abs=1e-3)
    table = c2sti.pp.check_pair(b, a)
    assert table.loc["level", "value"] == pytest.approx(level, rel=0.03, abs=1e-3)
    assert list(table.index[table["passes"].eq(False)]) == ["level"]
    with pytest.raises(ValueError, match=words):
        interpolate(a, b, on_misfit="raise")
    interpolate(a, b, on_misfit="ignore")


ALIKE: dict[str, Callable[[AnnData], AnnData]] = {
    "1e4": normalised,
    "1e6, base 2": lambda s: normalised(s, 1e6, 2),
    "half precision": lambda s: half(normalised(s)),
    "a panel cut afterwards": cut_after,
    "shares": lambda s: normalised(s, 1.0, log=False),
    "per cent": lambda s: normalised(s, 100.0, log=False),
    "log of counts": lambda s: sc.pp.log1p(s, copy=True),
}


def half(adata: AnnData) -> AnnData:
    adata.X = sp.csr_matrix(adata.X.toarray().astype(np.float16).astype(np.float32))
    return adata


@pytest.mark.parametrize("how", ALIKE)
def test_sections_on_one_scale_are_not_warned_of(how: str) -> None:
    a, b = (ALIKE[how](section(i)) for i in (0, 1))
    level = interpolate(a, b).uns["c2sti"]["pair_check"]["level"]
    assert level == pytest.approx(1, abs=0.02)


def test_counts_have_no_level_and_too_few_genes_tell_none() -> None:
    assert np.isnan(interpolate(section(0), section(1, depth=0.2)).uns["c2sti"]["pair_check"]["level"])
    a, b = (sc.pp.log1p(section(i, 19), copy=True) for i in (0, 1))
    b.X = b.X * 3
    assert np.isnan(interpolate(a, b).uns["c2sti"]["pair_check"]["level"])


def test_a_context_section_on_another_scale_is_named() -> None:
    a, b, beyond = normalised(section(0)), normalised(section(1)), normalised(section(2), 1e6)
    words = r"slice_a and context\[2\] are not normalised alike"
    with pytest.warns(UserWarning, match=words):
        c2sti.tl.interpolate(a, b, context={2.0: beyond}, model="gp", show_progress_bar=False)
    with pytest.raises(ValueError, match=words):
        c2sti.tl.interpolate(a, b, context={2.0: beyond}, model="gp", on_misfit="raise", show_progress_bar=False)


# ---- the pair check of a series


def test_an_evaluation_checks_consecutive_sections() -> None:
    series = [normalised(section(0)), normalised(section(1)), normalised(section(2), 1e6), normalised(section(3), 1e6)]
    words = r"^slices\[1\] and slices\[2\] are not normalised alike\. level 0\.01"
    with pytest.warns(UserWarning, match=words) as caught:
        table = evaluate(series, methods=[])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert list(table["name"].unique()) == ["slices[1]", "slices[2]"]
    with pytest.raises(ValueError, match=words):
        evaluate(series, methods=[], on_misfit="raise")
    ignored = evaluate(series, methods=[], on_misfit="ignore")
    np.testing.assert_array_equal(ignored["pcc"], table["pcc"])
    with pytest.raises(ValueError, match="on_misfit='stop' is not known"):
        evaluate(series, on_misfit="stop")


def test_an_evaluation_finds_a_section_that_lies_wrong() -> None:
    series = c2sti.datasets.phantom(seed=0, size=14, n_genes=60).series([0.0, 60.0, 120.0, 180.0])
    evaluate(series, methods=[])
    series[2].obsm["spatial"] = series[2].obsm["spatial"][::-1].copy()
    with pytest.warns(UserWarning, match=r"do not seem to match\. spatial concordance") as caught:
        evaluate(series, methods=[])
    pairs = [re.findall(r"slices\[\d\]", str(w.message)) for w in caught]
    assert pairs == [["slices[1]", "slices[2]"], ["slices[2]", "slices[3]"]]


def test_z_that_is_the_same_for_all_is_told_and_even_steps_are_taken() -> None:
    series = [section(i, z=0.0) for i in range(4)]
    with pytest.warns(
        UserWarning, match=r"all 4 sections carry z = 0, .*even steps are taken.*obs\['z_um'\]"
    ) as caught:
        table = evaluate(series, n_slices=2, methods=[])
    assert caught[0].filename == __file__
    assert sorted(set(table["position"])) == pytest.approx([1 / 3, 2 / 3])
    with pytest.raises(ValueError, match=r"z holds \[0\.0, 0\.0, 9\.0, 9\.0\], which must run one way"):
        evaluate(series, z=[0.0, 0.0, 9.0, 9.0])


# ---- a section that is there twice


def cells(seed: int, n: int = 5_000, n_genes: int = 300) -> io.SliceGrid:
    rng = np.random.default_rng(seed)
    values = sp.csr_array(rng.poisson(0.3, (n, n_genes)).astype(np.float32))
    genes = pd.Index([f"g{i}" for i in range(n_genes)])
    return io.SliceGrid(
        f"slices[{seed}]", rng.uniform(0, 900, (n, 2)), values, True, values.sum(axis=1), genes, "cells", 10.0
    )


def test_independent_sections_of_many_cells_share_none() -> None:
    assert io.shared_profiles(cells(0), cells(1)) == 0


def test_the_same_spots_are_found_in_any_order_of_spots_and_genes(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = cells(0, 400), cells(1, 300)
    order = np.random.default_rng(2).permutation(300)
    mixed = sp.vstack([b.values[:200], a.values[[5, 17, 17, 390]]], format="csr")
    twin = replace(b, values=mixed[:, order], genes=b.genes[order], xy=b.xy[:204], library=mixed.sum(axis=1))
    assert io.shared_profiles(a, twin) == io.shared_profiles(twin, a) == 3  # the one that is there twice counts once
    changed = a.values.copy()
    changed.data[changed.indptr[17]] += 1
    assert io.shared_profiles(replace(a, values=changed), twin) == 2
    monkeypatch.setattr(_backed, "BLOCK", 1000)
    on_disk = [replace(g, values=_backed.Stored(g.values, g.values.nnz)) for g in (a, twin)]
    assert io.shared_profiles(*on_disk) == 3


def test_a_value_is_told_from_the_same_value_of_another_gene() -> None:
    a = cells(0, 40)
    swapped = a.values[:, np.roll(np.arange(300), 1)]
    assert io.shared_profiles(a, replace(a, values=swapped)) == 0
    hashes = _genes._hashes(sp.csr_array(np.eye(300, dtype=np.float32).repeat(20, axis=0).reshape(300, 6000)))
    assert len(np.unique(hashes)) == 300


def test_the_numbers_of_the_benchmark_and_of_the_pair_are_of_one_check() -> None:
    a, b = (io.read_slice(section(i), name=f"slices[{i}]") for i in (0, 1))
    pair, _ = io.make_pair(a, b, judged=True)
    found = pair_check.measure(pair.a, pair.b, pair.spacing, io.overlap(a, b), io.level(a, b)[0])
    table = c2sti.pp.check_pair(section(0), section(1))
    assert table["value"].to_dict() == pytest.approx(found, nan_ok=True)
    both = ad.concat({"upper": section(0), "lower": section(1)}, label="slide")
    pd.testing.assert_frame_equal(c2sti.pp.check_pair(both, library_key="slide"), table)
    assert list(benchmark.depths([a, b], None)) == [0.0, 1.0]
