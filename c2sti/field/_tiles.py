"""Spots that are looked at together: tiles of tissue in which maps are solved, windows from which they are learnt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti._types import FloatArray

MOST = 1500  # spots up to which a tile is not halved
HALO, FADE = 3.5, 1.0  # length scales around a tile that it sees, and over the last of which weights fade
WINDOWS = 3  # that are learnt from where there are many spots


@dataclass(frozen=True)
class Tile:
    """Places, and the spots that they are told from.

    Parameters
    ----------
    here
        (m,) indices of the places.
    near
        (n,) indices of the spots.
    weight
        (n,) of each spot in (0, 1]: it fades towards the end of what is seen.
    number
        Among the tiles of the spots, which do not depend on the places.
    """

    here: NDArray[np.intp]
    near: NDArray[np.intp]
    weight: FloatArray
    number: int = 0


def tiles_of(x: FloatArray, target: FloatArray, length: float) -> Iterator[Tile]:
    """Parts of the tissue that are solved one by one, for maps of a length scale.

    The box around the (n, 2) spots is halved along its longer side, and so are its halves, where they see more than
    `MOST` spots and both together are less work, which grows with the third power of the spots seen. Tiles depend on
    the spots alone; places beyond the box belong to the nearest tile.
    """
    every, places = np.arange(len(x)), np.arange(len(target))
    yield from _halved(x, target, length, x.min(axis=0), x.max(axis=0), every, np.ones(len(x)), places)


def _halved(
    x: FloatArray,
    target: FloatArray,
    length: float,
    low: FloatArray,
    high: FloatArray,
    near: NDArray[np.intp],
    weight: FloatArray,
    here: NDArray[np.intp],
) -> Iterator[Tile]:
    if len(near) > MOST:
        axis = int(np.argmax(high - low))
        middle = (low[axis] + high[axis]) / 2
        ends = np.array(high), np.array(low)
        ends[0][axis] = ends[1][axis] = middle
        boxes = (low, ends[0]), (ends[1], high)
        seen = [_in_reach(x, near, *box, length) for box in boxes]
        if sum(len(index) ** 3 for index, _ in seen) < len(near) ** 3:
            before = target[here, axis] < middle
            for box, (index, fade), part in zip(boxes, seen, (here[before], here[~before]), strict=True):
                yield from _halved(x, target, length, *box, index, fade, part)
            return
    yield Tile(here, near, weight)


def _in_reach(
    x: FloatArray, near: NDArray[np.intp], low: FloatArray, high: FloatArray, length: float
) -> tuple[NDArray[np.intp], FloatArray]:
    """Which of some spots a box sees, and their weights: 1 up to `FADE` before the end, 0 at the end."""
    beyond = np.maximum(low - x[near], x[near] - high).max(axis=1) / length
    along = np.clip((HALO - beyond) / FADE, 0, 1)
    weight = along**2 * (3 - 2 * along)
    return near[weight > 0], weight[weight > 0]


def windows_of(places: FloatArray, seed: int, size: int) -> list[NDArray[np.intp]]:
    """Spots of windows of the tissue of some size, by (n, 3) x, y and z: around random quantiles of x and of y.

    They are the same in whatever order spots come, and one spot more moves them by no more than that.
    """
    order = np.lexsort(places.T)
    x = places[order, :2]
    shares = np.random.default_rng(seed).random((WINDOWS, 2))
    centres = [[np.quantile(axis, share) for axis, share in zip(x.T, pair, strict=True)] for pair in shares]
    return [np.sort(order[index]) for index in KDTree(x).query(centres, k=min(size, len(x)))[1]]
