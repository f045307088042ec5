"""The slide that a made section lies on: where its spots are, and how the tissue was laid down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from c2sti.datasets._anatomy import Array


def square(side: float, pitch: float) -> Array:
    """Centres (n, 2) of a square array that covers the slide, row by row."""
    steps = np.arange(pitch / 2, side, pitch)
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)


def honeycomb(side: float, pitch: float) -> Array:
    """Centres (n, 2) of a hexagonal array that covers the slide, row by row."""
    x, y = np.meshgrid(np.arange(pitch / 2, side - pitch / 2, pitch), np.arange(pitch / 2, side, pitch * np.sqrt(0.75)))
    x[1::2] += pitch / 2
    return np.column_stack([x.ravel(), y.ravel()])


LATTICES: dict[str, Callable[[float, float], Array]] = {"square": square, "hex": honeycomb}


def placement(side: float, *, angle: float, shift: tuple[float, float], flip: bool) -> Array:
    """Matrix (3, 3) that mirrors x, turns by `angle` degrees about the middle of the slide, then shifts."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    middle = np.full(2, side / 2)
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = middle - turn @ middle + shift
    return matrix


def move(xy: Array, matrix: Array) -> Array:
    """Points (n, 2) moved by a matrix (3, 3)."""
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


def move_back(xy: Array, matrix: Array) -> Array:
    """Points (n, 2) from which the matrix (3, 3) takes to `xy`."""
    return (xy - matrix[:2, 2]) @ np.linalg.inv(matrix[:2, :2]).T
