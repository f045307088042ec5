from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from anndata import AnnData

import c2sti
from c2sti import grid
from c2sti._types import InsertedSection
from c2sti.grid import _blocks
from c2sti.model.memory import LEAST
from tests.conftest import PLAN, interpolate, made_answer, never


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


def test_an_answer_larger_than_was_thought_is_written_with_the_least_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("c2sti._log.warning", said.append)
    extent = grid.Extent(100_000, 20_000, 3)
    assert grid.plan_anyway(extent, extent.held + extent.block(256), 4) == grid.Plan(1, 256)
    assert not said
    assert grid.plan_anyway(extent, 5_000, 4) == grid.Plan(1, 256)
    assert said[0].startswith("max_memory = 5 kB is too little for 100000 bins x 20000 genes")
    assert said[0].endswith("; going on with the least there is")


def test_a_limit_is_kept_before_any_work(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    m, n = interpolate(*pair, model="copy").shape
    with pytest.raises(ValueError, match=rf"\({m} bins x {n} genes x 4 layers\).*write it to a store instead, out="):
        interpolate(*pair, model="linear", max_memory=4 * m * n * 4 - 1, n_slices=1)
    interpolate(*pair, model="copy", max_memory=4 * m * n * 4)
    with pytest.raises(ValueError, match="max_memory = 1 MB is too little for .* at least 1.* MB are needed"):
        interpolate(*pair, model=never, max_memory="1MB", out=tmp_path / "o.zarr")
    assert os.listdir(tmp_path) == []


def test_what_a_description_takes_is_known_before(pair: tuple[AnnData, AnnData]) -> None:
    """Of 2 x n spots and N genes: profiles of patches of two parts, and the maps of three sets of components."""
    model, m = c2sti.C2STi(c2sti.C2STiConfig(n_components=10)), 50
    a, b = (grid.read_slice(section, name=name) for section, name in zip(pair, "ab", strict=True))
    described, _ = grid.make_pair(a, b, lattice=grid.common_lattice(a, b))
    n, n_genes = sum(len(s.xy) for s in described.sections), described.n_genes
    entries = sum(s.expression.nnz for s in described.sections)
    wanted = LEAST + 120 * n**2 + 8 * n_genes * (n + 4) + 72 * entries + 12 * n * 30 + 8 * m * 5 * 30
    assert model.memory(described, m, 3) == wanted
    model(described, described.a.xy, [0.5])  # what is imported late is no memory of the description
    tracemalloc.start()
    model(described, described.a.xy, [0.5])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < wanted


def test_too_little_for_the_method_is_refused_before_it_works(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    for more in ({"out": tmp_path / "o.zarr"}, {}):
        with pytest.raises(ValueError, match=r"max_memory = 50 MB is too little for the method .* about 7[0-9.]+ MB"):
            interpolate(*pair, model="c2sti", max_memory="50MB", **more)
    assert os.listdir(tmp_path) == []


def test_blocks_take_no_more_memory_than_was_said(tmp_path: Path) -> None:
    frame, answer, pair, rows = made_answer(16_384, 128)
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
    frame, answer, pair, rows = made_answer(200, 30)
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
    frame, answer, pair, rows = made_answer(200, 30)

    def never_enough(*_: object) -> np.ndarray:
        raise MemoryError("none left")

    monkeypatch.setattr(InsertedSection, "block", never_enough)
    with pytest.raises(MemoryError, match="none left"), grid.new_store(tmp_path / "o.zarr") as store:
        grid.stream_layers(store, frame, answer, pair, rows, plan=PLAN)
    assert os.listdir(tmp_path) == []
