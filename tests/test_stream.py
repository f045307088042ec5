from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import squidpy as sq
import torch
import zarr
from anndata import AnnData

import c2sti
from c2sti import grid
from c2sti._types import InsertedSection, Lattice, Section, SlicePair
from c2sti.grid import _blocks, _cluster, _store, _stream
from tests.conftest import square_array


def interpolate(a: AnnData, b: AnnData, **keywords: object) -> AnnData:
    return c2sti.tl.interpolate(a, b, show_progress_bar=False, **keywords)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks along both sides of a small result, the last ones narrower."""
    monkeypatch.setattr(_blocks, "CHUNK_ROWS", 50)
    monkeypatch.setattr(_blocks, "CHUNK_VALUES", 50 * 13)
    monkeypatch.setattr(_blocks, "LEAST_GENES", 13)


PLAN = grid.Plan(tasks=2, rows_at_once=10_000)


def inside(adata: AnnData, section: str) -> np.ndarray:
    return adata.obs[f"{section}_tissue"].to_numpy()


# ---- what is written


@pytest.mark.parametrize("model", ["linear", "gp"])  # sparse factors and dense ones
def test_the_store_holds_what_the_result_in_memory_holds(
    pair: tuple[AnnData, AnnData], tmp_path: Path, small_chunks: None, model: str
) -> None:
    for section in pair:
        section.obs["half"] = pd.Categorical(np.where(section.obsm["spatial"][:, 0] > 700, "right", "left"))
    how = {"n_slices": 2, "std": True, "interval": 0.9, "obs_keys": "half", "model": model}
    wanted = interpolate(*pair, **how)
    out = interpolate(*pair, out=tmp_path / "out.zarr", **how)
    read = ad.read_zarr(tmp_path / "out.zarr")

    assert os.listdir(tmp_path) == ["out.zarr"]
    layers = list(wanted.layers)
    assert set(out.layers) == set(read.layers) == set(layers)
    assert list(out.layers)[:4] == ["slice_a", "c2sti_1", "c2sti_2", "slice_b"]
    assert out.layers["c2sti_1"].chunksize == (50, 13)
    for name in layers:
        assert out.layers[name].dtype == np.float32
        np.testing.assert_allclose(np.asarray(out.layers[name]), wanted.layers[name], rtol=1e-5, atol=1e-6)
    for name in ("slice_a", "slice_b"):
        measured = read.layers[name]
        assert measured.format == "csr"
        np.testing.assert_array_equal(measured[inside(read, name)].toarray(), wanted.layers[name][inside(read, name)])
        assert measured[~inside(read, name)].nnz == 0
        assert (~inside(read, name)).any()
    assert read.X is None
    for made in (out, read):
        pd.testing.assert_frame_equal(made.obs, wanted.obs)
        pd.testing.assert_frame_equal(made.var, wanted.var)
        pd.testing.assert_frame_equal(made.obsm["c2sti_1_half"], wanted.obsm["c2sti_1_half"])
        np.testing.assert_array_equal(made.obsm["spatial"], wanted.obsm["spatial"])
        assert set(made.varp) == set(wanted.varp)
        assert abs(made.varp["coexpression_c2sti_1"] - wanted.varp["coexpression_c2sti_1"]).max() == 0
        assert set(made.uns) == set(wanted.uns)
        assert set(made.uns["c2sti"]) == set(wanted.uns["c2sti"])
        assert made.uns["c2sti"]["synthetic"]
        assert list(made.uns["c2sti"]["sections"]) == list(wanted.uns["c2sti"]["sections"])


def test_genes_and_digits_that_were_asked_for_are_those_written(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    genes = list(pair[0].var_names[[7, 3]])
    out = interpolate(*pair, model="lowrank", genes=genes, out=tmp_path / "two.zarr", digits=5)
    assert list(out.var_names) == genes
    assert out.uns["c2sti"]["parameters"]["digits"] == 5
    wanted = interpolate(*pair, model="lowrank", genes=genes)
    np.testing.assert_allclose(np.asarray(out.layers["c2sti_1"]), wanted.X, rtol=0.5e-5)


@pytest.fixture(scope="module")
def wanted(_series: list[AnnData]) -> AnnData:
    return interpolate(_series[0], _series[2], model="linear", std=True)


@pytest.fixture(scope="module")
def stored(_series: list[AnnData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "out.zarr"
    interpolate(_series[0], _series[2], model="linear", std=True, out=path)
    return path


def test_squidpy_and_our_own_plots_draw_it(wanted: AnnData, stored: Path) -> None:
    out, in_memory = grid.open_store(stored), ad.read_zarr(stored)
    gene = out.var_names[5]
    for adata, layer in ((out, "c2sti_1"), (out, "slice_a"), (in_memory, "c2sti_1")):
        ax = sq.pl.spatial_scatter(adata, color=gene, layer=layer, shape="square", return_ax=True)
        shown = np.ma.filled(ax.collections[0].get_array(), np.nan)
        np.testing.assert_allclose(shown, wanted.obs_vector(gene, layer=layer), rtol=1e-6)
        plt.close(ax.figure)
    for adata in (out, in_memory):
        axes = c2sti.pl.sections(adata, gene)
        assert len(axes) == 3
        plt.close(axes[0].figure)


def test_the_one_liners_of_the_docs_take_a_few_genes_into_memory(stored: Path) -> None:
    out = grid.open_store(stored)
    genes = list(out.var_names[[5, 9]])
    few = out[:, genes].to_memory()
    assert isinstance(few.layers["c2sti_1"], np.ndarray)
    lazy = ad.experimental.read_lazy(stored)[:, genes].to_memory()
    np.testing.assert_array_equal(lazy.layers["c2sti_1"], few.layers["c2sti_1"])
    measured, tissue = lazy.layers["slice_a"], inside(few, "slice_a")
    np.testing.assert_array_equal(measured.toarray()[tissue], few.layers["slice_a"][tissue])


def test_other_tools_take_it(wanted: AnnData, stored: Path) -> None:
    same = c2sti.tl.to_slices(wanted)
    c2sti.tl.coexpression(wanted, layer="slice_a", key_added="again")
    for adata in (grid.open_store(stored), ad.read_zarr(stored)):
        stack = c2sti.tl.to_slices(adata)
        np.testing.assert_allclose(stack.X, same.X, rtol=1e-6)
        np.testing.assert_allclose(stack.layers["std"], same.layers["std"], rtol=1e-5)
        c2sti.tl.coexpression(adata, layer="slice_a", key_added="again")
        assert abs(adata.varp["again"] - wanted.varp["again"]).max() < 1e-5


class OnDisk:
    """An expression matrix that gives blocks of rows and nothing else."""

    def __init__(self, values: sp.csr_array) -> None:
        self._values, self.shape = values, values.shape

    def __getitem__(self, rows: slice) -> sp.csr_array:
        assert isinstance(rows, slice)
        return self._values[rows]


def test_spots_of_a_matrix_on_disk_are_asked_for_by_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "READ_AT_ONCE", 3)
    values = sp.random_array((40, 6), density=0.4, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    for wanted in ([7, 7, 0, 39, 20, 21], [], [3]):
        index = np.array(wanted, dtype=np.intp)
        found = _stream.spots(OnDisk(values), index)
        np.testing.assert_array_equal(found.toarray(), values[index].toarray())
        assert found.dtype == np.float32


def made(n_rows: int, n_genes: int, n_sections: int = 1) -> tuple[AnnData, grid.Answer, SlicePair, grid.Rows]:
    """An answer of any size, and a pair of four spots."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((5, n_genes))
    slices = tuple(
        InsertedSection(rng.standard_normal((n_rows, 5)), basis, np.ones(n_genes)) for _ in range(n_sections)
    )
    xy, lattice = square_array(2), Lattice((0.0, 0.0), 1.0, (2, 2))
    expression = sp.csr_array(rng.random((4, n_genes), dtype=np.float32))
    pair = SlicePair(Section(xy, expression, 0.0), Section(xy, expression, 1.0), 1.0, lattice)
    rows = grid.Rows(rng.random((n_rows, 2)), rng.integers(0, 4, n_rows), np.ones((2, 2, 2), dtype=bool))
    positions = np.arange(1, n_sections + 1) / (n_sections + 1)
    genes = pd.Index([f"g{i}" for i in range(n_genes)])
    frame = grid.frame_slices(pair, rows, genes=genes, positions=positions, graphs=None, notes={}, provenance={})
    names = tuple(f"c2sti_{i + 1}" for i in range(n_sections))
    return frame, grid.Answer(names, slices, np.ones((n_sections, n_rows), dtype=bool)), pair, rows


def test_no_layer_is_ever_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocks, "CHUNK_ROWS", 500)
    monkeypatch.setattr(_blocks, "CHUNK_VALUES", 2**14)
    monkeypatch.setattr(_stream, "SPARSE_CHUNK", 2**12)
    frame, answer, pair, rows = made(8_000, 200)
    object.__setattr__(rows, "tissue", np.zeros_like(rows.tissue))  # no measured values: they are as large as they are
    layer = 4 * 8_000 * 200
    tracemalloc.start()
    grid.stream_layers(tmp_path / "s.zarr", frame, answer, pair, rows, plan=PLAN)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < layer / 2
    written = zarr.open_group(tmp_path / "s.zarr", mode="r")["layers/c2sti_1"]
    np.testing.assert_allclose(written[7_495:7_505], answer.slices[0].rows(slice(7_495, 7_505)).expression(), rtol=1e-5)


# ---- memory


def test_an_amount_of_memory_is_read_as_people_write_it() -> None:
    wanted = {"8GB": 8 * 10**9, "1.5 MiB": 3 * 2**19, "2k": 2000, "1e6": 10**6, 12_345: 12_345, 2e3: 2000}
    assert {text: grid.memory_of(text) for text in wanted} == wanted
    assert grid.memory_of(None) is None
    for wrong in ("much", "-1GB", "0", "1.2.3GB", ""):
        with pytest.raises(ValueError, match="is no amount of memory; give bytes, or text such as '8GB'"):
            grid.memory_of(wrong)


def test_the_estimate_counts_what_there_is() -> None:
    extent = grid.Extent(100_000, 20_000, 3, n_components=60, n_values=10**7)
    assert extent.dense == 4 * 100_000 * 20_000 * 6
    assert extent.held == 8 * 60 * (3 * 100_000 + 20_000) + 8 * 3 * 20_000 + 24 * 10**7 + 300 * 100_000 + 10**8
    assert _blocks.chunks_of((100_000, 20_000)) == (8192, 128)
    assert extent.block(8192) == 8192 * 128 * (20 + 4 + 12)
    unsure = replace(extent, std=True, interval=True)
    assert unsure.dense == 4 * 100_000 * 20_000 * (3 * 4 + 3)
    assert unsure.held > extent.held
    assert unsure.block(256) > extent.block(256)


def test_a_limit_takes_rows_first_then_tasks() -> None:
    extent = grid.Extent(100_000, 20_000, 3, n_values=10**7)
    assert grid.plan(extent, None, 4) == grid.Plan(4, 8192)
    whole = extent.held + 4 * extent.block(8192)
    assert grid.plan(extent, whole, 4) == grid.Plan(4, 8192)
    assert grid.plan(extent, whole - 1, 4) == grid.Plan(4, 4096)
    assert grid.plan(extent, extent.held + 4 * extent.block(256) - 1, 4) == grid.Plan(3, 4096)
    least = extent.held + extent.block(256)
    assert grid.plan(extent, least, 4) == grid.Plan(1, 256)
    with pytest.raises(ValueError, match=r"too little for 100000 bins x 20000 genes; at least 5[0-9.]+ MB are needed"):
        grid.plan(extent, least - 1, 4)


def test_a_limit_is_kept_before_any_work(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    m, n = interpolate(*pair, model="copy").shape
    with pytest.raises(ValueError, match=rf"\({m} bins x {n} genes x 4 layers\).*write it to a store instead, out="):
        interpolate(*pair, model="linear", max_memory=4 * m * n * 4 - 1, n_slices=1)
    interpolate(*pair, model="copy", max_memory=4 * m * n * 4)
    with pytest.raises(ValueError, match="max_memory = 1 MB is too little for .* at least 1.* MB are needed"):
        interpolate(*pair, model=never, max_memory="1MB", out=tmp_path / "o.zarr")
    assert os.listdir(tmp_path) == []


def test_blocks_take_no_more_memory_than_was_said(tmp_path: Path) -> None:
    frame, answer, pair, rows = made(16_384, 128)
    grid.stream_layers(tmp_path / "s.zarr", frame, answer, pair, rows, plan=PLAN)  # everything is loaded
    for at_once in (8192, 256):
        tracemalloc.start()
        _blocks.write_block(
            str(tmp_path / "s.zarr"), replace(answer, digits=3), _blocks.blocks(answer.shape)[1], at_once
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 0.4 < peak / grid.Extent(16_384, 128, 1).block(at_once) < 1


def test_out_of_memory_halves_the_rows_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, answer, pair, rows = made(200, 30)
    tried = []

    def short(self: InsertedSection, points: slice, genes: slice) -> np.ndarray:
        tried.append(points.stop - points.start)
        if tried[-1] > 60:
            raise (MemoryError, torch.OutOfMemoryError)[len(tried) % 2]
        return self.rows(points).expression(genes)

    monkeypatch.setattr(InsertedSection, "block", short)
    with pytest.warns(UserWarning, match="out of memory with 200 rows at once; going on with 50"):
        grid.stream_layers(tmp_path / "s.zarr", frame, answer, pair, rows, plan=grid.Plan(1, 200))
    assert tried == [200, 100, 50, 50, 50, 50]
    written = zarr.open_group(tmp_path / "s.zarr", mode="r")["layers/c2sti_1"]
    np.testing.assert_allclose(written[:], answer.slices[0].expression(), rtol=1e-6)


def test_what_does_not_fit_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, answer, pair, rows = made(200, 30)

    def never_enough(*_: object) -> np.ndarray:
        raise MemoryError("none left")

    monkeypatch.setattr(InsertedSection, "block", never_enough)
    with pytest.raises(MemoryError, match="none left"), grid.new_store(tmp_path / "o.zarr") as store:
        grid.stream_layers(store, frame, answer, pair, rows, plan=PLAN)
    assert os.listdir(tmp_path) == []


# ---- digits


def test_rounding_keeps_the_nearest_mantissa() -> None:
    step = 2.0**-10  # three digits are ten bits
    values = np.array([0, 1, 1 + step / 2, 1 + 1.5 * step, 1 + 0.6 * step, 2 - step / 4, 0.1], dtype=np.float32)
    expected = np.array([0, 1, 1, 1 + 2 * step, 1 + step, 2, 1638 * 2.0**-14], dtype=np.float32)
    np.testing.assert_array_equal(_store.rounded(values, 3), expected)
    np.testing.assert_array_equal(_store.rounded(-values, 3), -expected)
    strange = np.array([np.nan, np.inf, -np.inf], dtype=np.float32)
    np.testing.assert_array_equal(_store.rounded(strange, 2), strange)
    assert _store.rounded(values, None) is values


@pytest.mark.parametrize("digits", range(1, 8))
def test_rounding_is_as_good_as_it_says(digits: int) -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 5, 100_000)).astype(np.float32)
    near = _store.rounded(values, digits)
    assert (np.abs(near.astype(float) - values) / values).max() <= 0.5 * 10.0**-digits
    np.testing.assert_array_equal(_store.rounded(near, digits), near)


def test_digits_make_the_store_smaller(tmp_path: Path) -> None:
    frame, answer, pair, rows = made(300, 60)
    for digits in (None, 2):
        grid.stream_layers(tmp_path / f"{digits}.zarr", frame, replace(answer, digits=digits), pair, rows, plan=PLAN)
    full, short = (zarr.open_group(tmp_path / name, mode="r")["layers/c2sti_1"] for name in ("None.zarr", "2.zarr"))
    np.testing.assert_allclose(short[:], full[:], rtol=0.005)
    assert short.nbytes_stored() < 0.6 * full.nbytes_stored()


@pytest.mark.parametrize("digits", [0, 8, 2.5])
def test_digits_that_cannot_be_are_refused(pair: tuple[AnnData, AnnData], tmp_path: Path, digits: float) -> None:
    with pytest.raises(ValueError, match=f"digits = {digits} must be a whole number from 1 to 7"):
        interpolate(*pair, out=tmp_path / "o.zarr", digits=digits)
    with pytest.raises(ValueError, match="digits = 3 is for results that are written to a store"):
        interpolate(*pair, digits=3)


# ---- on a cluster


def files_of(store: Path) -> dict[str, bytes]:
    """Chunks and metadata by name."""
    return {
        str(f.relative_to(store)): f.read_bytes() for f in store.rglob("*") if f.is_file() and "partial" not in f.name
    }


@pytest.mark.filterwarnings("ignore")  # of servers, ports and processes that end
def test_a_cluster_writes_the_same_bytes_though_a_worker_is_killed(
    tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")

    frame, answer, pair, rows = made(
        300, 60, 12
    )  # tasks of several chunks each, so that some are under way when one is done
    grid.stream_layers(tmp_path / "here.zarr", frame, answer, pair, rows, plan=PLAN)
    done = []

    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        distributed.Client(cluster),
    ):
        nanny = next(iter(cluster.workers.values()))
        nanny.auto_restart = False  # it takes seconds, and the other worker does without
        victim = nanny.pid

        def kill(share: float) -> None:
            done.append(share)
            if len(done) == 2:
                os.kill(victim, signal.SIGKILL)

        grid.stream_layers(tmp_path / "there.zarr", frame, answer, pair, rows, plan=PLAN, progress=kill)
        monkeypatch.setattr(_cluster, "PATIENCE", 0.5)
        cluster.scale(0)
        with (
            pytest.raises(RuntimeError, match=r"the Dask cluster has had no worker for 0.5 s, and 30 blocks are left"),
            grid.new_store(tmp_path / "o.zarr") as store,
        ):
            grid.stream_layers(store, frame, answer, pair, rows, plan=PLAN)
    assert len(done) == 30
    assert files_of(tmp_path / "there.zarr") == files_of(tmp_path / "here.zarr")
    assert sorted(os.listdir(tmp_path)) == ["here.zarr", "there.zarr"]
    assert _cluster.current_client() is None


# ---- whole or not at all


def never(*_: object, **__: object) -> None:
    raise AssertionError("work was done")


def test_what_is_there_is_not_replaced(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    (tmp_path / "there.zarr").mkdir()
    with pytest.raises(FileExistsError, match="there.zarr exists; name another one with out="):
        interpolate(*pair, out=tmp_path / "there.zarr", model=never)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write o.zarr into"):
        interpolate(*pair, out=tmp_path / "nowhere" / "o.zarr", model=never)
    with pytest.raises(ValueError, match=r"o.h5ad' must end in .zarr"):
        interpolate(*pair, out=tmp_path / "o.h5ad", model=never)
    assert os.listdir(tmp_path) == ["there.zarr"]


def test_a_folder_that_may_not_be_written_into_is_refused(
    pair: tuple[AnnData, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(_store.tempfile, "mkdtemp", refuse)
    with pytest.raises(PermissionError, match=r"cannot be written into \(Read-only file system\); name another out="):
        interpolate(*pair, out=tmp_path / "o.zarr", model=never)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left in .* for o.zarr"),
        (KeyboardInterrupt(), None),
        (RuntimeError("odd"), "odd"),
    ],
)
def test_nothing_is_left_of_a_run_that_fails(
    tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str | None
) -> None:
    done = []

    def fail(values: np.ndarray, digits: int | None) -> np.ndarray:
        done.append(values)
        if len(done) > 3:
            raise error
        return values

    monkeypatch.setattr(_blocks, "rounded", fail)
    frame, answer, pair, rows = made(120, 40)
    with pytest.raises(type(error), match=message), grid.new_store(tmp_path / "o.zarr") as store:
        grid.stream_layers(store, frame, answer, pair, rows, plan=PLAN)
    assert len(done) > 3
    assert os.listdir(tmp_path) == []


def test_a_result_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="o.zarr exists"), grid.new_store(tmp_path / "o.zarr") as store:
        store.mkdir()
        (tmp_path / "o.zarr").mkdir()
        (tmp_path / "o.zarr" / "theirs").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["o.zarr", "theirs"]


KILLED = """
import os, signal, sys
from c2sti.grid import new_store
with new_store(sys.argv[1]) as store:
    store.mkdir()
    (store / "zarr.json").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_leaves_is_no_result_and_the_next_removes_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "o.zarr"], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".o.zarr.part-")
    with grid.new_store(tmp_path / "o.zarr") as store:
        assert not left.exists()
        with pytest.raises(RuntimeError), grid.new_store(tmp_path / "o.zarr"):
            assert store.parent.exists()  # a run in progress is left alone
            raise RuntimeError
        assert store.parent.exists()
        store.mkdir()
    assert os.listdir(tmp_path) == ["o.zarr"]
