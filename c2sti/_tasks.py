"""Work in pieces, by dask: on threads, or on the caller's cluster where there is a client of `dask.distributed`.

Results are the same either way, and linear algebra within a piece has one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from threading import Lock
from typing import Any, TypeVar

import dask
import torch
from dask.callbacks import Callback
from threadpoolctl import ThreadpoolController

Shared = TypeVar("Shared")
Piece = TypeVar("Piece")
Found = TypeVar("Found")

FEW = 2**18  # values on which all cores of an idle machine halve the time of a network at most
AHEAD = 4  # pieces for each thread whose results are held together


def each(
    work: Callable[[Shared, Piece], Found], shared: Shared, pieces: Sequence[Piece], *, n_threads: int
) -> Iterator[Found]:
    """``work(shared, piece)`` of each piece, in their order; a cluster needs `work` to be a module's function."""
    common = dask.delayed(shared, pure=False, traverse=False)
    at_once = len(pieces) if on_cluster() else AHEAD * n_threads
    for first in range(0, len(pieces), max(at_once, 1)):
        batch = [dask.delayed(work, pure=False)(common, piece) for piece in pieces[first : first + at_once]]
        yield from compute(batch, n_threads=n_threads)


def compute(
    wanted: Sequence[Any], *, n_threads: int, progress: Callable[[float], object] = lambda share: None
) -> tuple[Any, ...]:
    """Values of dask collections; `progress` is called with each share of the work, 1 in all."""
    if on_cluster():
        found = dask.compute(*wanted)
        progress(1.0)
        return found
    # Threads of dask, not of the linear algebra in each of them; and new ones, as those dask keeps are lost in a fork.
    with one_thread("blas"), _Progress(progress), ThreadPoolExecutor(n_threads) as pool:
        return dask.compute(*wanted, scheduler="threads", pool=pool)


@contextmanager
def one_thread(api: str | None = None) -> Iterator[None]:
    """Linear algebra (``"blas"``), or all native code, in one thread: small matrices lose much to threads.

    Sums then come out in one order, and the same bytes, whatever the number of threads.
    """
    with _TORCH if api is None else nullcontext(), _libraries().limit(limits=1, user_api=api):
        yield


class _TorchThreads:
    """One thread for torch, whose MKL threadpoolctl does not see, until the last caller is done.

    The number is one for the whole process.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.before = Lock(), 0, 1

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.before = torch.get_num_threads()
                torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                torch.set_num_threads(self.before)


_TORCH = _TorchThreads()


def threads_for(n_values: int) -> AbstractContextManager[Any]:
    """As many threads as there are for a network that looks at so many values; one for a few.

    Threads that share a core with other programs wait for each other at every layer: two of them took 40 times as long
    as one for a small network on a busy machine.
    """
    return one_thread() if n_values < FEW else nullcontext()


@cache
def _libraries() -> ThreadpoolController:
    """Those that are loaded: looking for them takes longer than much of what is computed in one thread."""
    return ThreadpoolController()


def on_cluster() -> bool:
    """Whether the caller has made a client of `dask.distributed`; the library is not imported for it."""
    distributed = sys.modules.get("distributed")
    try:
        return distributed is not None and distributed.default_client() is not None
    except ValueError:  # imported, but no client
        return False


class _Progress(Callback):
    """Calls a function with each share of a dask computation, 1 in all."""

    def __init__(self, progress: Callable[[float], object]) -> None:
        super().__init__()
        self.progress, self.n = progress, 1

    def _start_state(self, dsk: Any, state: Mapping[str, Any]) -> None:
        self.n = max(sum(len(state[kind]) for kind in ("ready", "waiting", "running")), 1)

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self.progress(1 / self.n)
