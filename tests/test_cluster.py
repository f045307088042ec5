from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from c2sti import grid
from c2sti.grid import _cluster
from tests.conftest import PLAN, made_answer


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

    frame, answer, pair, rows = made_answer(
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
    """Says of each block, whenever it is asked for, what becomes of it the first time, the second, and so on."""

    def __init__(self, fates: dict[str, list[str | Exception]]) -> None:
        self.fates, self.cancelled = fates, 0

    def wait_for_workers(self, n: int, timeout: float) -> None:
        assert n == 1

    def scatter(self, answer: str, broadcast: bool, hash: bool) -> str:
        assert broadcast
        return f"sent {answer}"

    def submit(self, task: object, store: str, factors: str, block: str, rows_at_once: int, pure: bool) -> Job:
        assert (store, factors, rows_at_once, pure) == ("o.zarr", "sent answer", 7, False)
        return Job(self.fates[block].pop(0))

    def cancel(self, jobs: list[object]) -> None:
        self.cancelled += len(jobs)


def written(client: Client) -> dict[int, str]:
    return dict(_cluster.write_on_cluster(client, Path("o.zarr"), "answer", list(client.fates), 7))


def test_what_was_lost_with_its_worker_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    said: list[str] = []
    monkeypatch.setattr(_cluster._log, "warning", said.append)
    client = Client({"a": ["A"], "b": [CancelledError(), TimeoutError(), "B"], "c": [TimeoutError(), "C"]})
    assert written(client) == {0: "A", 1: "B", 2: "C"}
    assert said == [
        "2 of 3 blocks were lost with their workers, and are begun again",
        "1 of 3 blocks were lost with their workers, and are begun again",
    ]
    assert client.cancelled == (1 + 3) + (1 + 2) + (1 + 1)  # the factors with each round's jobs


def test_a_cluster_that_loses_a_block_each_time_is_given_up() -> None:
    pytest.importorskip("distributed")
    client = Client({"a": ["A"], "b": [CancelledError()] * 3})
    with pytest.raises(RuntimeError, match="lost its workers 3 times; 1 of 2 blocks are left"):
        written(client)


def test_a_block_that_kills_its_workers_says_so() -> None:
    distributed = pytest.importorskip("distributed")
    client = Client({"a": [distributed.KilledWorker("write_block", SimpleNamespace(address="tcp://w1"), 3)]})
    with pytest.raises(RuntimeError, match="lost with several Dask workers, .* choose a smaller max_memory="):
        written(client)
    assert client.cancelled == 2


def test_a_busy_worker_is_waited_for_and_one_that_has_left_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cluster, "LOOK", 0.001)
    monkeypatch.setattr(_cluster, "PATIENCE", 10.0)
    clock = iter([0.0, 9.0, 18.0, 27.0, 28.1])  # two looks find a worker; then none for 9 s, and for 10.1 s
    monkeypatch.setattr(_cluster, "monotonic", lambda: next(clock))
    looks = iter([["w"], ["w"], [], []])

    class Busy:
        def scheduler_info(self) -> dict[str, list[str]]:
            return {"workers": next(looks)}

    with pytest.raises(RuntimeError, match="has had no worker for 10 s, and 4 blocks are left; start workers"):
        _cluster._next(Busy(), SimpleQueue(), 4)
    assert not list(looks)


def test_nobody_is_a_client_where_nobody_has_made_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    assert _cluster.current_client() is None
    assert "distributed" not in sys.modules
