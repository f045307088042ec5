"""The same seed makes the same bytes, whatever the caller's random state and threads; and nothing global is changed."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp
import torch
from anndata import AnnData
from threadpoolctl import threadpool_info, threadpool_limits

import c2sti
from c2sti.datasets import phantom

CONFIG = c2sti.C2STiConfig(channels=4, n_components=8, n_splits=1)
HOW = c2sti.TrainConfig(steps=2, genes=20, panel=12)


@pytest.fixture(scope="module")
def three() -> list[AnnData]:
    return phantom(seed=3, size=9, n_genes=40).series([0.0, 150.0, 300.0])


def content(out: AnnData) -> dict[str, bytes]:
    """All numbers of a result, as bytes."""
    found = {f"layers/{k}": np.ascontiguousarray(v).tobytes() for k, v in out.layers.items() if k is not None}
    found["X"] = np.ascontiguousarray(out.X).tobytes()
    graphs = out.uns["c2sti"].get("coexpression", {})
    for key, graph in [*out.varp.items(), *((k, g) for k, g in graphs.items() if k != "genes")]:
        assert sp.issparse(graph)
        found |= {f"graph/{key}/{p}": getattr(graph, p).tobytes() for p in ("data", "indices", "indptr")}
    return found


@pytest.mark.parametrize("model", ["copy", "linear", "lowrank", "gp", "c2sti"])
def test_same_bytes_whatever_threads_and_random_state(model: str, three: list[AnnData]) -> None:
    def made(threads: int, state: int) -> dict[str, bytes]:
        random.seed(state)
        np.random.seed(state)  # noqa: NPY002 - the global state is what this is about
        torch.manual_seed(state)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):
                given = {"n_slices": 2, "model": model, "std": True, "show_progress_bar": False}
                return content(c2sti.tl.interpolate(three[0], three[2], **given))
        finally:
            torch.set_num_threads(before)

    first = made(1, 0)
    assert len(first) > 10
    other = made(2, 1)
    assert [key for key in first if first[key] != other[key]] == []


def test_training_is_the_same_whatever_the_random_state(three: list[AnnData]) -> None:
    def weights(state: int) -> str:
        random.seed(state)
        np.random.seed(state)  # noqa: NPY002
        torch.manual_seed(state)
        given = {"model": None, "config": CONFIG, "how": HOW, "n_genes": 40, "show_progress_bar": False}
        return c2sti.tl.train(three, **given).fingerprint()

    assert weights(0) == weights(1)


def test_made_tissue_is_the_same_whatever_the_random_state() -> None:
    found = []
    for state in (0, 1):
        np.random.seed(state)  # noqa: NPY002
        (section,) = phantom(seed=3, size=9, n_genes=40).series([50.0])
        found.append(section.X.toarray().tobytes() + section.obsm["spatial"].tobytes())
    assert found[0] == found[1]


# -- nothing global is changed


def globals_() -> Iterator[tuple[str, object]]:
    """All that a caller could notice afterwards."""
    yield "warnings", list(warnings.filters)
    yield "random", random.getstate()
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    yield "numpy's random", (kind, keys.tolist(), rest)
    yield "torch's random", torch.random.get_rng_state().tolist()
    yield "torch's dtype", torch.get_default_dtype()
    yield "torch's threads", (torch.get_num_threads(), torch.get_num_interop_threads())
    yield "torch's gradients", (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    yield "torch's algorithms", (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic)
    yield "numpy's errors", np.geterr()
    yield "numpy's printing", {k: v for k, v in np.get_printoptions().items() if k != "formatter"}
    yield "pandas", [pd.get_option(o) for o in ("display.max_rows", "mode.string_storage", "display.precision")]
    yield "BLAS", sorted((i["filepath"], i["num_threads"]) for i in threadpool_info())
    yield "matplotlib", (dict(mpl.rcParams), mpl.get_backend(), mpl.is_interactive(), plt.get_fignums())
    yield "scanpy", (scanpy.settings.verbosity, scanpy.settings.n_jobs)
    yield "environment", dict(os.environ)
    yield "folder", os.getcwd()
    yield "hooks", (sys.excepthook, sys.unraisablehook, sys.getrecursionlimit(), gc.isenabled(), gc.get_threshold())
    yield "signals", [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]


def _insert(series: list[AnnData]) -> AnnData:
    return c2sti.tl.interpolate(series[0], series[2], n_slices=1, std=True, show_progress_bar=False)


@pytest.fixture(scope="module")
def result(three: list[AnnData]) -> AnnData:
    return _insert(three)


def _draw(out: AnnData) -> None:
    _, axs = plt.subplots(1, 3)
    c2sti.pl.sections(out, "gene_001", ax=axs)
    plt.close()


# Of sections, a result and a folder.
CALLS: dict[str, Callable[[list[AnnData], AnnData, Path], object]] = {
    "tl.interpolate": lambda s, r, d: _insert(s),
    "tl.interpolate_series": lambda s, r, d: c2sti.tl.interpolate_series(
        s, spacing=75.0, model="linear", show_progress_bar=False
    ),
    "tl.slice_series": lambda s, r, d: c2sti.tl.slice_series(
        s, plane={"x": 400.0}, model="linear", show_progress_bar=False
    ),
    "tl.to_slices": lambda s, r, d: c2sti.tl.to_slices(r),
    "tl.to_spatialdata": lambda s, r, d: c2sti.tl.to_spatialdata(r),
    "tl.to_volume": lambda s, r, d: c2sti.tl.to_volume(r, d / "volume.zarr", genes="gene_001"),
    "tl.coexpression": lambda s, r, d: c2sti.tl.coexpression(r),
    "tl.evaluate": lambda s, r, d: c2sti.tl.evaluate(s, methods=["linear"], show_progress_bar=False),
    "tl.train": lambda s, r, d: c2sti.tl.train(
        s, model=None, config=CONFIG, how=HOW, n_genes=40, folder=d / "state", show_progress_bar=False
    ),
    "pp.align": lambda s, r, d: c2sti.pp.align(s[0], s[1], copy=True),
    "pp.align_series": lambda s, r, d: c2sti.pp.align_series(s, copy=True),
    "datasets.phantom": lambda s, r, d: phantom(seed=0, size=8, n_genes=30).series([0.0, 100.0]),
    "metrics.ceiling": lambda s, r, d: c2sti.metrics.ceiling(s[0].X),
    "pl.sections": lambda s, r, d: _draw(r),
    "C2STi.save": lambda s, r, d: c2sti.C2STi(CONFIG).save(d / "model"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_changes_nothing_global(name: str, three: list[AnnData], result: AnnData, tmp_path: Path) -> None:
    for turn in ("first", "second"):  # what libraries do when they are first imported is theirs
        (tmp_path / turn).mkdir()
        before = dict(globals_())
        CALLS[name]([section.copy() for section in three], result.copy(), tmp_path / turn)
    after = dict(globals_())
    assert [key for key in before if before[key] != after[key]] == []
