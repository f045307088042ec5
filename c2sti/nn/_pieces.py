"""Work on many genes in pieces that fit into memory: half as many at a time where a GPU has run out of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def in_pieces(work: Callable[[slice], Result], n: int, size: int, what: str) -> list[Result]:
    """What `work` gives for n things, at most `size` at a time.

    Parameters
    ----------
    work
        Takes a slice of the things.
    n, size
        How many there are, and how many to try at once.
    what
        What the warning calls them.

    Returns
    -------
    One result a piece, in order.

    Raises
    ------
    torch.OutOfMemoryError
        Not even one at a time fits.

    Warns
    -----
    UserWarning
        A piece did not fit; it and what follows is done in halves.
    """
    results: list[Result] = []
    start = 0
    while start < n:
        try:
            results.append(work(slice(start, min(start + size, n))))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            # Half of what was tried: the last piece may have been shorter than `size`.
            tried, size = min(size, n - start), max(min(size, n - start) // 2, 1)
            warnings.warn(f"out of memory with {tried} {what} at a time; continuing with {size}", stacklevel=2)
            continue
        start += size
    return results
