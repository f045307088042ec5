"""Made tissue for every test, and the folder of real sections where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

from c2sti._types import Lattice, Section, SlicePair
from c2sti.datasets import Phantom, phantom

matplotlib.use("Agg")

DATA = Path(os.environ.get("C2STI_DATA", Path(__file__).parents[2] / "shared" / "data"))


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


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def device(request: pytest.FixtureRequest) -> str:
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
