"""Blocks as tasks on a Dask cluster, where the caller has one: workers may come, go and be killed."""

from __future__ import annotations

import sys
from collections.abc import Generator
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from c2sti import _log
from c2sti.grid._blocks import Answer, Block, Told, write_block

PATIENCE = 120.0  # seconds without any worker after which nobody is waited for any more
LOOK = 2.0  # seconds between looks at whether there is one
TRIES = 3  # how often what was lost with the last worker that held the factors is begun again


def current_client() -> Any | None:
    """The client of `dask.distributed` that the caller has made, if any; the library is not imported for it."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:  # imported, but no client
        return None


def write_on_cluster(
    client: Any, store: Path, answer: Answer, wanted: list[Block], rows_at_once: int
) -> Generator[tuple[int, Told], None, None]:
    """Write all blocks by the workers of a cluster, and give back what each tells, by its place, in any order.

    The factors go to every worker once. A block that was lost with a worker is made again by another one: Dask sees to
    that, and where the factors themselves were lost, we do.

    Raises
    ------
    RuntimeError
        There has been no worker for `PATIENCE` seconds, or a block has killed several of them.
    """
    left = dict(enumerate(wanted))
    for attempt in range(TRIES):
        if attempt:
            _log.warning(f"{len(left)} of {len(wanted)} blocks were lost with their workers, and are begun again")
        with closing(_once(client, store, answer, dict(left), rows_at_once)) as done:
            for place, told in done:
                del left[place]
                yield place, told
        if not left:
            return
    raise RuntimeError(f"the Dask cluster lost its workers {TRIES} times; {len(left)} of {len(wanted)} blocks are left")


def _once(
    client: Any, store: Path, answer: Answer, left: dict[int, Block], rows_at_once: int
) -> Generator[tuple[int, Told], None, None]:
    """The same, but what has been lost for good is left out."""
    from distributed import KilledWorker  # noqa: PLC0415 - there is a client, so it has been imported

    try:
        client.wait_for_workers(1, timeout=PATIENCE)
        factors = client.scatter(answer, broadcast=True, hash=False)
    except TimeoutError as error:
        raise _no_worker(len(left)) from error
    jobs = {
        client.submit(write_block, str(store), factors, block, rows_at_once, pure=False): place
        for place, block in left.items()
    }
    done: SimpleQueue[Any] = SimpleQueue()
    for job in jobs:
        job.add_done_callback(done.put)
    try:
        for n in range(len(jobs)):
            job = _next(client, done, len(jobs) - n)
            try:
                yield jobs[job], job.result(timeout=PATIENCE)
            except (CancelledError, TimeoutError):
                continue  # lost
            except KilledWorker as error:
                raise RuntimeError(
                    f"a block was lost with several Dask workers, one after the other ({error}); they are short of "
                    "memory, perhaps: choose a smaller max_memory="
                ) from error
    finally:
        client.cancel([factors, *jobs])


def _next(client: Any, done: SimpleQueue[Any], n_left: int) -> Any:
    """The next job that has ended one way or the other."""
    seen = monotonic()
    while True:
        try:
            return done.get(timeout=LOOK)
        except Empty:
            if client.scheduler_info()["workers"]:
                seen = monotonic()
            elif monotonic() - seen > PATIENCE:
                raise _no_worker(n_left) from None


def _no_worker(n_left: int) -> RuntimeError:
    return RuntimeError(
        f"the Dask cluster has had no worker for {PATIENCE:g} s, and {n_left} blocks are left; start workers, or close "
        "the client to work without them"
    )
