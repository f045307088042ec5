from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from anndata import AnnData

import c2sti
from c2sti import io
from c2sti._types import InterpolatedSection
from c2sti.io import _factors, _memory
from c2sti.models.components import LEAST, memory
from tests.conftest import interpolate, never, simulated_layers, write_dense


def test_an_amount_of_memory_is_read_as_people_write_it() -> None:
    wanted = {"8GB": 8 * 10**9, "1.5 MiB": 3 * 2**19, "2k": 2000, "1e6": 10**6, 12_345: 12_345, 2e3: 2000}
    assert {text: io.memory_of(text) for text in wanted} == wanted
    assert io.memory_of(None) is None
    for wrong in ("much", "-1GB", "0", "1.2.3GB", "GB", ""):
        with pytest.raises(ValueError, match="is no amount of memory; give bytes, or text such as '8GB'"):
            io.memory_of(wrong)


SHAPE = (100_000, 20_000)
PLAN = {"n_values": 10**7, "working": 0, "std": False, "interval": False, "stored": True, "most": 4}


def test_the_estimate_counts_what_there_is() -> None:
    held = _memory.held(SHAPE, 3, 10**7, std=False, interval=False)
    assert held == 8 * 60 * (3 * 100_000 + 20_000) + 8 * 3 * 20_000 + 24 * 10**7 + 300 * 100_000 + 10**8
    assert _factors.chunks_of(SHAPE) == (8192, 128)
    assert _memory.block_size(SHAPE, more=False) == 8192 * 128 * 32
    assert _memory.held(SHAPE, 3, 10**7, std=True, interval=True) > held
    assert _memory.block_size(SHAPE, more=True) == 8192 * 128 * 56
    assert io.is_dense(SHAPE, 6, 4 * 100_000 * 20_000 * 6)
    assert not io.is_dense(SHAPE, 6, 4 * 100_000 * 20_000 * 6 - 1)


def test_a_limit_says_how_many_blocks_are_computed_at_a_time() -> None:
    held, block = _memory.held(SHAPE, 3, 10**7, std=False, interval=False), _memory.block_size(SHAPE, more=False)
    limits = {None: 4, held + 4 * block: 4, held + 4 * block - 1: 3, held + block: 1}
    assert {limit: io.n_tasks(SHAPE, 3, limit=limit, **PLAN) for limit in limits} == limits
    assert io.n_tasks(SHAPE, 3, limit=1, **PLAN | {"stored": False}) == 4
    with pytest.raises(ValueError, match=r"too little for 100000 bins x 20000 genes; at least 5[0-9.]+ MB are needed"):
        io.n_tasks(SHAPE, 3, limit=held + block - 1, **PLAN)


def test_a_limit_is_kept_before_any_work(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    dense = interpolate(*pair, model="linear")
    m, n = dense.shape
    lazy = interpolate(*pair, model="linear", max_memory=4 * m * n * 4 - 1)
    assert isinstance(lazy.layers["c2sti_1"], da.Array) and isinstance(lazy.layers["slice_a"], da.Array)
    for name, values in dense.layers.items():
        np.testing.assert_allclose(lazy.layers[name].compute(), values, atol=1e-6)
    np.testing.assert_array_equal(lazy.X.compute(), lazy.layers["c2sti_1"].compute())
    assert isinstance(interpolate(*pair, model="linear", max_memory=4 * m * n * 4).X, np.ndarray)
    with pytest.raises(ValueError, match="max_memory = 1 MB is too little for .* at least 1.* MB are needed"):
        interpolate(*pair, model=never, max_memory="1MB", out=tmp_path / "o.zarr")
    assert os.listdir(tmp_path) == []


def test_what_a_description_takes_is_known_before(pair: tuple[AnnData, AnnData]) -> None:
    """Of 2 x n spots and N genes: profiles of patches of two parts, and the maps of three sets of components."""
    model, m = c2sti.C2STi(c2sti.C2STiConfig(n_components=10)), 50
    a, b = (io.read_slice(section, name=name) for section, name in zip(pair, "ab", strict=True))
    described, _ = io.make_pair(a, b, lattice=io.common_lattice(a, b))
    n, n_genes = sum(len(s.xy) for s in described.sections), described.n_genes
    entries = sum(s.expression.nnz for s in described.sections)
    describing = 8 * n_genes * (n + 4) + 72 * entries + 8 * n * 30
    wanted = LEAST + 120 * n**2 + max(describing, 8 * m * 4 * 30)
    assert memory(described, m, 3, model.settings) == wanted
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
    _, layers, _ = simulated_layers(16_384, 256)
    how = {"n_threads": 1}
    _factors.store([layers.lazily()["c2sti_1"]], [np.empty((16_384, 256), np.float32)], **how)  # everything is loaded
    tracemalloc.start()
    target = np.empty((16_384, 256), np.float32)
    _factors.store([layers.lazily()["c2sti_1"]], [target], **how)
    peak = tracemalloc.get_traced_memory()[1] - target.nbytes
    tracemalloc.stop()
    assert 0.3 < peak / _memory.block_size((16_384, 256), more=False) < 1


def test_what_does_not_fit_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never_enough(*_: object) -> np.ndarray:
        raise MemoryError("none left")

    monkeypatch.setattr(InterpolatedSection, "block", never_enough)
    with pytest.raises(MemoryError, match="none left"), io.new_store(tmp_path / "o.zarr") as store:
        write_dense(store, simulated_layers(200, 30))
    assert os.listdir(tmp_path) == []
