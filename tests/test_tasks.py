from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from c2sti import _tasks, grid
from c2sti.field import Field, Kernel, Observed
from tests.conftest import PLAN, made_answer


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


def victim(cluster: Any) -> int:
    """The process number of a worker, which does not come back: that takes seconds, and the others do without."""
    nanny = next(nanny for nanny in cluster.workers.values() if getattr(nanny, "auto_restart", True))
    nanny.auto_restart = False
    return nanny.pid


def power(base: int, exponent: int) -> int:
    return base**exponent


def test_every_piece_is_worked_on_once_and_not_long_before_its_turn() -> None:
    begun: list[int] = []

    def piece(i: int) -> int:
        begun.append(i)
        return i + 1

    found = _tasks.each(power, 3, 50, piece, n_threads=2)
    first = next(found)
    assert len(begun) <= 3  # two threads and one in line
    assert dict([first, *found]) == {i: 3 ** (i + 1) for i in range(50)}
    assert begun == list(range(50))


def test_an_error_of_one_piece_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        list(_tasks.each(power, 0, 3, lambda i: i - 2, n_threads=2))


@pytest.mark.filterwarnings("ignore")  # of servers, ports and processes that end
def test_tiles_of_a_field_are_the_same_wherever_they_are_solved(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("c2sti.field._tiles.MOST", 100)
    rng = np.random.default_rng(0)
    x = rng.random((900, 2)) * 30
    values = np.sin(x) + rng.normal(0, 0.3, x.shape)
    seen = Observed.of(x, np.repeat([0.0, 1.0], 450), values, np.ones(900), "cpu")
    made = Field.learn(seen, Kernel(1.0, 0.8, 0.9, gaussian=False), 0, own_lengths=False)
    current_client = _tasks.current_client
    monkeypatch.setattr(_tasks, "current_client", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    means, variances = made.at(x, [0.5, 0.7]), made.variance_at(x, [0.5])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shares: list[float] = []
    np.testing.assert_array_equal(made.at(x, [0.5, 0.7], shares.append), means)
    assert len(shares) > 10
    assert sum(shares) == pytest.approx(1)
    monkeypatch.setattr(_tasks, "current_client", current_client)
    process, done = victim(cluster), []

    def kill(share: float) -> None:
        done.append(share)
        if len(done) == 2:
            os.kill(process, signal.SIGKILL)

    np.testing.assert_array_equal(made.at(x, [0.5, 0.7], kill), means)
    np.testing.assert_array_equal(made.variance_at(x, [0.5]), variances)
    assert len(done) == len(shares)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_writes_the_same_bytes_though_a_worker_is_killed(
    cluster: Any, tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, answer, pair, rows = made_answer(300, 60, 12)
    with monkeypatch.context() as without:
        without.setattr(_tasks, "current_client", lambda: None)
        grid.stream_layers(tmp_path / "here.zarr", frame, answer, pair, rows, plan=PLAN)
    process, done = victim(cluster), []

    def kill(share: float) -> None:
        done.append(share)
        if len(done) == 2:
            os.kill(process, signal.SIGKILL)

    grid.stream_layers(tmp_path / "there.zarr", frame, answer, pair, rows, plan=PLAN, progress=kill)
    assert len(done) == 30
    assert files_of(tmp_path / "there.zarr") == files_of(tmp_path / "here.zarr")

    monkeypatch.setattr(_tasks, "PATIENCE", 0.5)
    cluster.scale(0)
    words = r"the Dask cluster has had no worker for 0.5 s, and 30 pieces of the work are left"
    with pytest.raises(RuntimeError, match=words), grid.new_store(tmp_path / "o.zarr") as store:
        grid.stream_layers(store, frame, answer, pair, rows, plan=PLAN)
    assert sorted(os.listdir(tmp_path)) == ["here.zarr", "there.zarr"]


# ---- what a cluster may do, played by a client without one


class Job:
    """A task that has ended: with an answer, or with what it raised."""

    def __init__(self, ended: str | Exception) -> None:
        self.ended = ended

    def add_done_callback(self, call: Callable[[Job], None]) -> None:
        call(self)

    def result(self, timeout: float) -> str:
        if isinstance(self.ended, Exception):
            raise self.ended
        return self.ended


class Client:
    """Says of each piece, whenever it is asked for, what becomes of it the first time, the second, and so on."""

    def __init__(self, fates: dict[str, list[str | Exception]]) -> None:
        self.fates, self.cancelled = fates, 0

    def wait_for_workers(self, n: int, timeout: float) -> None:
        assert n == 1

    def scatter(self, answer: str, broadcast: bool, hash: bool) -> str:
        assert broadcast
        return f"sent {answer}"

    def nthreads(self) -> dict[str, int]:
        return {"w": 2}

    def submit(self, work: object, shared: str, piece: str, pure: bool) -> Job:
        assert (work, shared, pure) == (power, "sent answer", False)
        return Job(self.fates[piece].pop(0))

    def cancel(self, jobs: list[object]) -> None:
        self.cancelled += len(jobs)


def worked(client: Client) -> dict[int, str]:
    pieces = list(client.fates)
    return dict(_tasks.on_cluster(client, power, "answer", len(pieces), pieces.__getitem__))


def test_what_was_lost_with_its_worker_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    said: list[str] = []
    monkeypatch.setattr(_tasks._log, "warning", said.append)
    client = Client({"a": ["A"], "b": [CancelledError(), TimeoutError(), "B"], "c": [TimeoutError(), "C"]})
    assert worked(client) == {0: "A", 1: "B", 2: "C"}
    assert said == [
        "2 of 3 pieces were lost with their workers, and are begun again",
        "1 of 3 pieces were lost with their workers, and are begun again",
    ]
    assert client.cancelled == 3  # what was shared, of each round: all jobs had ended


def test_a_cluster_that_loses_a_piece_each_time_is_given_up() -> None:
    pytest.importorskip("distributed")
    client = Client({"a": ["A"], "b": [CancelledError()] * 3})
    with pytest.raises(RuntimeError, match="lost its workers 3 times; 1 of 2 pieces are left"):
        worked(client)


def test_a_piece_that_kills_its_workers_says_so() -> None:
    distributed = pytest.importorskip("distributed")
    client = Client({"a": [distributed.KilledWorker("power", SimpleNamespace(address="tcp://w1"), 3)]})
    with pytest.raises(RuntimeError, match="lost with several Dask workers, .* choose a smaller max_memory="):
        worked(client)
    assert client.cancelled == 1


def test_a_busy_worker_is_waited_for_and_one_that_has_left_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tasks, "LOOK", 0.001)
    monkeypatch.setattr(_tasks, "PATIENCE", 10.0)
    clock = iter([0.0, 9.0, 18.0, 27.0, 28.1])  # two looks find a worker; then none for 9 s, and for 10.1 s
    monkeypatch.setattr(_tasks, "monotonic", lambda: next(clock))
    looks = iter([["w"], ["w"], [], []])

    class Busy:
        def scheduler_info(self) -> dict[str, list[str]]:
            return {"workers": next(looks)}

    with pytest.raises(RuntimeError, match="has had no worker for 10 s, and 4 pieces of the work are left; start"):
        _tasks._next(Busy(), SimpleQueue(), 4)
    assert not list(looks)


def test_nobody_is_a_client_where_nobody_has_made_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    assert _tasks.current_client() is None
    assert "distributed" not in sys.modules
