from __future__ import annotations

import os
import signal
from pathlib import Path

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
