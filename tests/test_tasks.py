from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import dask
import numpy as np
import pytest
import torch

from c2sti import _tasks
from c2sti.field import Field, Kernel, Observed
from tests.conftest import simulated_layers, write_dense


def files_of(store: Path) -> dict[str, bytes]:
    """Chunks and metadata by name."""
    return {
        str(f.relative_to(store)): f.read_bytes() for f in store.rglob("*") if f.is_file() and "partial" not in f.name
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three workers under a client of the caller; they take their time to start, so all tests share them."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(3, threads_per_worker=1, dashboard_address=None, silence_logs=50) as made,
        distributed.Client(made),
    ):
        yield made


@contextmanager
def killed_after(cluster: Any, seconds: float) -> Iterator[None]:
    """One worker is killed that long after the block has begun, and does not come back: the others do without."""
    nanny = next(nanny for nanny in cluster.workers.values() if getattr(nanny, "auto_restart", True))
    nanny.auto_restart = False
    timer = Timer(seconds, os.kill, (nanny.pid, signal.SIGKILL))
    timer.start()
    yield
    timer.join()


def power(base: int, exponent: int) -> int:
    return base**exponent


def test_pieces_come_in_order_and_not_long_before_their_turn() -> None:
    done: list[int] = []

    def noted(base: int, exponent: int) -> int:
        done.append(exponent)
        return power(base, exponent)

    found = _tasks.each(noted, 3, range(1, 51), n_threads=2)
    assert next(found) == 3
    assert len(done) <= 8  # of two threads
    assert list(found) == [3**i for i in range(2, 51)]
    assert sorted(done) == list(range(1, 51))


def test_an_error_of_one_piece_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        list(_tasks.each(power, 0, [-2, -1, 0], n_threads=2))


def test_progress_adds_up() -> None:
    shares: list[float] = []
    found = _tasks.compute([dask.delayed(power)(2, i) for i in range(9)], n_threads=2, progress=shares.append)
    assert found == tuple(2**i for i in range(9))
    assert len(shares) == 9
    assert sum(shares) == pytest.approx(1)


def test_one_thread_is_for_torch_too_until_the_last_one_is_done() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = _tasks.one_thread(), _tasks.one_thread()
        with _tasks.threads_for(10):
            assert torch.get_num_threads() == 1
        with _tasks.threads_for(10**7):
            assert torch.get_num_threads() == 2
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)  # as two threads of the caller may end
        assert torch.get_num_threads() == 1
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore")  # of servers, ports and processes that end
def test_tiles_of_a_field_are_the_same_wherever_they_are_solved(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("c2sti.field._field.MOST", 100)
    rng = np.random.default_rng(0)
    x = rng.random((900, 2)) * 30
    values = np.sin(x) + rng.normal(0, 0.3, x.shape)
    seen = Observed.of(x, np.repeat([0.0, 1.0], 450), values, np.ones(900), "cpu")
    made = Field.learn(seen, Kernel(1.0, 0.8, 0.9, gaussian=False), 0, own_lengths=False)
    with monkeypatch.context() as here:
        here.setattr(_tasks, "on_cluster", lambda: False)
        here.setattr(torch, "get_num_threads", lambda: 1)
        means, variances = made.at(x, [0.5, 0.7]), made.variance_at(x, [0.5])
        here.setattr(torch, "get_num_threads", lambda: 3)
        shares: list[float] = []
        np.testing.assert_array_equal(made.at(x, [0.5, 0.7], shares.append), means)
    assert len(shares) > 10
    assert sum(shares) == pytest.approx(1)
    with killed_after(cluster, 0.1):
        np.testing.assert_array_equal(made.at(x, [0.5, 0.7]), means)
    np.testing.assert_array_equal(made.variance_at(x, [0.5]), variances)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_writes_the_same_bytes_though_a_worker_is_killed(
    cluster: Any, tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = simulated_layers(300, 60, 12)
    with monkeypatch.context() as without:
        without.setattr(_tasks, "on_cluster", lambda: False)
        write_dense(tmp_path / "here.zarr", made)
    with killed_after(cluster, 0.1):
        write_dense(tmp_path / "there.zarr", made)
    assert files_of(tmp_path / "there.zarr") == files_of(tmp_path / "here.zarr")


def test_nobody_is_a_client_where_nobody_has_made_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    assert not _tasks.on_cluster()
    assert "distributed" not in sys.modules
