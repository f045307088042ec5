"""One function of many pieces, in any order: by threads here, or on the caller's Dask cluster, where there is one.

Results are the same either way: no piece knows of the others, and linear algebra within a piece has one thread. Workers
of a cluster may come, go and be killed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from c2sti import _log

Shared = TypeVar("Shared")
Piece = TypeVar("Piece")
Found = TypeVar("Found")

PATIENCE = 120.0  # seconds without any worker after which nobody is waited for any more
LOOK = 2.0  # seconds between looks at whether there is one
TRIES = 3  # how often what was lost with the last worker that held what is shared is begun again
AHEAD = 3  # pieces for each thread of a cluster that are on their way


def each(
    work: Callable[[Shared, Piece], Found],
    shared: Shared,
    n: int,
    piece: Callable[[int], Piece],
    *,
    n_threads: int,
) -> Generator[tuple[int, Found], None, None]:
    """(i, ``work(shared, piece(i))``) for i < n, in any order.

    Parameters
    ----------
    work
        A function of a module, so that a cluster finds it.
    shared
        What all pieces need; goes to every worker once.
    n, piece
        How many pieces, and what makes one when its turn comes.
    n_threads
        How many work side by side where there is no cluster.

    Raises
    ------
    RuntimeError
        The cluster has had no worker for `PATIENCE` seconds, or a piece has killed several of them.
    """
    client = current_client()
    if client is None:
        return by_threads(work, shared, n, piece, n_threads=n_threads)
    return on_cluster(client, work, shared, n, piece)


def by_threads(
    work: Callable[[Shared, Piece], Found], shared: Shared, n: int, piece: Callable[[int], Piece], *, n_threads: int
) -> Generator[tuple[int, Found], None, None]:
    """The same in this process."""
    places = iter(range(n))
    jobs: dict[Future[Found], int] = {}
    pool = ThreadPoolExecutor(max_workers=n_threads)
    try:
        with threadpool_limits(1, user_api="blas"):  # threads of ours, not threads of theirs in each of ours
            while True:
                # Few wait in line, so that the next ones know what the last ones have found out.
                for i in islice(places, n_threads + 1 - len(jobs)):
                    jobs[pool.submit(work, shared, piece(i))] = i
                if not jobs:
                    return
                for job in wait(jobs, return_when=FIRST_COMPLETED).done:
                    found = job.result()
                    yield jobs.pop(job), found
    finally:
        pool.shutdown(cancel_futures=True)


def current_client() -> Any | None:
    """The client of `dask.distributed` that the caller has made, if any; the library is not imported for it."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:  # imported, but no client
        return None


def on_cluster(
    client: Any, work: Callable[[Shared, Piece], Found], shared: Shared, n: int, piece: Callable[[int], Piece]
) -> Generator[tuple[int, Found], None, None]:
    """The same by the workers of a cluster.

    A piece that was lost with a worker is made again by another one: Dask sees to that, and where what is shared was
    lost, we do.
    """
    left = dict.fromkeys(range(n))
    for attempt in range(TRIES):
        if attempt:
            _log.warning(f"{len(left)} of {n} pieces were lost with their workers, and are begun again")
        with closing(_once(client, work, shared, list(left), piece)) as done:
            for place, found in done:
                del left[place]
                yield place, found
        if not left:
            return
    raise RuntimeError(f"the Dask cluster lost its workers {TRIES} times; {len(left)} of {n} pieces are left")


def _once(
    client: Any,
    work: Callable[[Shared, Piece], Found],
    shared: Shared,
    left: Sequence[int],
    piece: Callable[[int], Piece],
) -> Generator[tuple[int, Found], None, None]:
    """The same, but what has been lost for good is left out."""
    from distributed import KilledWorker  # noqa: PLC0415 - there is a client, so it has been imported

    try:
        client.wait_for_workers(1, timeout=PATIENCE)
        everywhere = client.scatter(shared, broadcast=True, hash=False)
    except TimeoutError as error:
        raise _no_worker(len(left)) from error
    places, n_left = iter(left), len(left)
    jobs: dict[Any, int] = {}
    done: SimpleQueue[Any] = SimpleQueue()
    try:
        while True:
            n_threads = sum(client.nthreads().values())
            for place in islice(places, max(AHEAD * max(n_threads, 1) - len(jobs), 0)):
                job = client.submit(work, everywhere, piece(place), pure=False)
                jobs[job] = place
                job.add_done_callback(done.put)
            if not jobs:
                return
            job = _next(client, done, n_left)
            n_left -= 1
            try:
                yield jobs.pop(job), job.result(timeout=PATIENCE)
            except (CancelledError, TimeoutError):
                continue  # lost
            except KilledWorker as error:
                raise RuntimeError(
                    f"a piece of the work was lost with several Dask workers, one after the other ({error}); they are "
                    "short of memory, perhaps: choose a smaller max_memory="
                ) from error
    finally:
        client.cancel([everywhere, *jobs])


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
        f"the Dask cluster has had no worker for {PATIENCE:g} s, and {n_left} pieces of the work are left; start "
        "workers, or close the client to work without them"
    )
