"""Simulated tissue for every test, and the folder of real sections where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from anndata import AnnData

import c2sti
from c2sti import io
from c2sti._types import InterpolatedSection, Lattice, Section, SlicePair
from c2sti.datasets import Phantom, phantom
from c2sti.io import _factors

matplotlib.use("Agg")

DATA = Path(os.environ.get("C2STI_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks come first: they take longest, and one that comes last leaves the other processes without work."""
    items.sort(key=lambda item: "test_tutorials" not in item.nodeid)


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of real sections; the test is skipped where it is not."""
    if not (DATA / "her2st").is_dir():
        pytest.skip(f"no real sections in {DATA}; name their folder with C2STI_DATA")
    return DATA


@pytest.fixture(scope="session")
def tissue() -> Phantom:
    return phantom(seed=1, size=14, n_genes=60)


@pytest.fixture(scope="session")
def _series(tissue: Phantom) -> list[AnnData]:
    return tissue.series([0.0, 150.0, 300.0, 450.0])


@pytest.fixture
def series(_series: list[AnnData]) -> list[AnnData]:
    """Four sections of one tissue, 150 µm apart; a fresh copy for every test."""
    return [section.copy() for section in _series]


@pytest.fixture
def pair(series: list[AnnData]) -> tuple[AnnData, AnnData]:
    """Two sections of one tissue, 300 µm apart."""
    return series[0], series[2]


@pytest.fixture
def said() -> Iterator[StringIO]:
    """Where scanpy's log is written to during a test."""
    said = StringIO()
    before, verbosity = sc.settings.logfile, sc.settings.verbosity
    sc.settings.logfile = said
    yield said
    sc.settings.logfile, sc.settings.verbosity = before, verbosity


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def square_array(side: int, pitch: float = 1.0) -> np.ndarray:
    """(side², 2) spots of a square array, row by row."""
    return np.indices((side, side)).reshape(2, -1)[::-1].T * pitch


def array_pair(values_a: np.ndarray, values_b: np.ndarray, side: int, *context: Section) -> SlicePair:
    """A pair on one square array of unit pitch."""
    xy = square_array(side)
    return SlicePair(
        Section(xy, sp.csr_array(values_a.astype(np.float32)), 0.0),
        Section(xy, sp.csr_array(values_b.astype(np.float32)), 1.0),
        1.0,
        Lattice((0.0, 0.0), 1.0, (side, side)),
        context,
    )


# ---- results that are written block by block


def interpolate(a: AnnData, b: AnnData, **keywords: object) -> AnnData:
    return c2sti.tl.interpolate(a, b, show_progress_bar=False, **keywords)


def never(*_: object, **__: object) -> None:
    raise AssertionError("work was done")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks along both sides of a small result, the last ones narrower."""
    monkeypatch.setattr(_factors, "CHUNK_ROWS", 50)
    monkeypatch.setattr(_factors, "CHUNK_VALUES", 50 * 13)
    monkeypatch.setattr(_factors, "LEAST_GENES", 13)


def simulated_layers(n_rows: int, n_genes: int, n_sections: int = 1) -> tuple[AnnData, io.Layers, SlicePair]:
    """Layers of any size, what is around them, and a pair of four spots."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((5, n_genes))
    slices = tuple(
        InterpolatedSection(rng.standard_normal((n_rows, 5)), basis, np.ones(n_genes)) for _ in range(n_sections)
    )
    xy, lattice = square_array(2), Lattice((0.0, 0.0), 1.0, (2, 2))
    expression = sp.csr_array(rng.random((4, n_genes), dtype=np.float32))
    pair = SlicePair(Section(xy, expression, 0.0), Section(xy, expression, 1.0), 1.0, lattice)
    rows = io.Rows(rng.random((n_rows, 2)), rng.integers(0, 4, n_rows), np.ones((2, 2, 2), dtype=bool))
    positions = np.arange(1, n_sections + 1) / (n_sections + 1)
    genes = pd.Index([f"g{i}" for i in range(n_genes)])
    frame = io.frame_slices(
        pair, rows, var=pd.DataFrame(index=genes), positions=positions, graphs=None, notes={}, provenance={}
    )
    names = tuple(f"c2sti_{i + 1}" for i in range(n_sections))
    return frame, io.Layers(names, slices), pair


def write_dense(store: Path, made: tuple[Any, ...], *, digits: int | None = None, **more: Any) -> None:
    """Write what :func:`simulated_layers` gives, layer by layer."""
    io.write_store(store, *made, key="c2sti", dense=True, digits=digits, n_threads=2, **more)
