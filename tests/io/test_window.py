"""Capture windows: told from what a section says, and what lies beyond them taken from the other section."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

import c2sti
from c2sti import io
from c2sti.io._rasterize import outline
from c2sti.io._window import window_of, within
from tests.conftest import square_array
from tests.io.test_read import spots

ROTATED = np.array([[np.cos(np.pi / 6), np.sin(np.pi / 6)], [-np.sin(np.pi / 6), np.cos(np.pi / 6)]])  # by 30°
SQUARE = (-0.5, -0.5, 9.5, 9.5)  # of an array of ten by ten spots


def visium(rows: int = 78, columns: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) rows and columns of a whole Visium array, and (n, 2) places of its spots, 1 apart."""
    array = np.argwhere(np.add.outer(np.arange(rows), np.arange(columns)) % 2 == 0)
    return array, array[:, ::-1] * [0.5, 3**0.5 / 2]


def sides(window: np.ndarray | None) -> np.ndarray:
    """Half-planes in the order of their angles."""
    assert window is not None
    return window[np.lexsort(window.T[::-1])]


# ---- given by the user


def test_a_rectangle_is_four_half_planes() -> None:
    expected = [[-1, 0, -2], [0, -1, 1], [0, 1, 7], [1, 0, 6]]
    for given in ((2, -1, 6, 7), (6, 7, 2, -1), [[2, -1], [6, -1], [6, 7], [2, 7]]):
        window = window_of(square_array(4) + 2, 1.0, "square", given=given)
        np.testing.assert_allclose(sides(window), expected, atol=1e-12)
    points = np.array([[2, -1], [4, 3], [6, 7.01], [1.99, 3], [6, 7]])
    assert within(window, points).tolist() == [True, True, False, False, True]
    assert within(None, points).all()


def test_of_a_polygon_the_convex_hull_counts() -> None:
    xy = np.array([[0.5, 0.5], [1.0, 1.0]])
    window = window_of(xy, 1.0, "cells", given=[[0, 0], [4, 0], [1, 1], [0, 3]])  # the third corner is dented
    half = np.array([3, 4]) / 5
    np.testing.assert_allclose(sides(window), [[-1, 0, 0], [0, -1, 0], [*half, 12 / 5]], atol=1e-12)
    assert within(window, np.array([[2.0, 1.5], [2.1, 1.5]])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ((0, 0, 4), ValueError, r"window of slice_a is \(0, 0, 4\); four finite numbers"),
        ((0, 0, np.inf, 4), ValueError, "four finite numbers"),
        ((0, 0, 0, 4), ValueError, r"window of slice_a is \(0, 0, 0, 4\); .* enclose an area"),
        ([[0, 0], [4, 4]], ValueError, "enclose an area"),
        ([[0, 0], [2, 2], [4, 4]], ValueError, "enclose an area"),
        ("left", TypeError, "window of slice_a"),
        (
            (-1, -1, 4.5, 9),
            ValueError,
            r"40% of the spots of slice_a \(x 0\.\.9, y 0\.\.9\) lie outside of its",
        ),
        ((0, 0, 900, 900), None, ""),
    ],
)
def test_what_is_no_window_is_refused(given: Any, error: type[Exception] | None, text: str) -> None:
    if error is None:
        assert window_of(square_array(10), 1.0, "square", given=given, name="slice_a") is not None
        return
    with pytest.raises(error, match=text):
        window_of(square_array(10), 1.0, "square", given=given, name="slice_a")


# ---- told from the array


@pytest.mark.parametrize(("rows", "columns"), [(78, 128), (128, 224)])
def test_a_visium_window_moves_with_its_spots(rows: int, columns: int) -> None:
    array, xy = visium(rows, columns)
    moved = 138.0 * xy @ ROTATED + [5000.0, 300.0]
    kept = np.hypot(*(xy - xy.max(axis=0) * 0.7).T) < 0.29 * xy[:, 1].max()  # a round piece in one corner
    window = window_of(moved[kept], 138.0, "hex", array=array[kept].astype(float))
    assert within(window, moved).all()
    width, height = (columns - 1) / 2, (rows - 1) * 3**0.5 / 2
    edge = np.array([[-0.49, 9], [-0.51, 9], [width + 0.49, 9], [width + 0.51, 9], [9, -0.51], [9, height + 0.51]])
    inside = within(window, 138.0 * edge @ ROTATED + [5000.0, 300.0])
    assert inside.tolist() == [True, False, True, False, False, False]


def test_other_arrays_are_not_taken_for_a_visium_array() -> None:
    array, xy = visium()
    kept = np.hypot(*(xy - xy.max(axis=0) / 2).T) < 15
    array, xy = array[kept].astype(float), xy[kept]
    assert window_of(xy, 1.0, "hex", array=array) is not None
    assert window_of(xy, 1.0, "hex") is None
    assert window_of(xy, 1.0, "square", array=array) is None
    assert window_of(xy, 1.0, "hex", array=array + [1, 0]) is None  # every other place, but the wrong ones
    assert window_of(xy, 1.0, "hex", array=array + [300, 300]) is None  # of no slide that there is
    assert window_of(xy + 0.02 * xy**2, 1.0, "hex", array=array) is None  # warped
    assert window_of(xy, 1.0, "hex", array=np.full_like(array, np.nan)) is None
    assert window_of(xy, 1.0, "hex", array=array * [0, 1]) is None


def test_rows_off_the_tissue_tell_the_window() -> None:
    every = square_array(16)
    tissue = every[np.hypot(*(every - 7.5).T) < 5]
    turned = (every @ ROTATED, tissue @ ROTATED)
    window = window_of(turned[1], 1.0, "square", all_xy=turned[0])
    edge = np.array([[-0.4, 5], [-0.6, 5], [15.4, 5], [15.6, 5], [5, -0.6], [5, 15.6]])
    assert within(window, edge @ ROTATED).tolist() == [True, False, True, False, False, False]
    outermost = np.hypot(*(tissue - 7.5).T) > 4  # spots of the tissue that were left out say nothing
    assert window_of(tissue[~outermost], 1.0, "square", all_xy=tissue) is None


@pytest.mark.parametrize("turn", [np.eye(2), ROTATED])
def test_a_straight_border_is_a_window_and_a_round_one_is_none(turn: np.ndarray) -> None:
    _, xy = visium(80, 140)
    middle = xy.max(axis=0) / 2
    disc = xy[np.hypot(*(xy - middle).T) < 30]
    assert window_of(disc @ turn, 1.0, "hex") is None
    for side, c in ((np.array([1.0, 0]), 50.0), (np.array([0, -1.0]), -20.0)):
        cut = disc[disc @ side <= c]
        ((x, y, distance),) = sides(window_of(cut @ turn, 1.0, "hex"))
        np.testing.assert_allclose([x, y], side @ turn, atol=1e-6)
        assert distance == pytest.approx((cut @ side).max() + 0.5)
        assert window_of(cut @ turn, 1.0, "hex", all_xy=disc @ turn) is None  # measured beyond: a border of the tissue
        oblique = disc[(disc - middle) @ [0.8, 0.6] < 12]  # across the array: a border of the tissue
        assert window_of(oblique @ turn, 1.0, "hex") is None


def test_cells_that_end_at_an_imaging_field_tell_its_border() -> None:
    cells = np.random.default_rng(0).uniform(0, 60, (14_400, 2))
    disc = np.hypot(*(cells - 30).T) < 28
    assert window_of(cells[disc], 1.0, "cells") is None
    ((x, y, c),) = sides(window_of(cells[disc & (cells[:, 0] < 40)], 1.0, "cells"))
    np.testing.assert_allclose([x, y, c], [1, 0, 40.5], atol=0.1)
    assert window_of(cells[:20], 1.0, "scattered") is None
    assert window_of(np.column_stack([np.arange(30.0)] * 2), 1.0, "square") is None


# ---- what lies beyond


def pair_of(shift: int, *, known: bool = True) -> tuple[io.SliceGrid, io.SliceGrid]:
    """Two full squares of ten by ten spots, one shifted along both axes."""
    read = []
    for i, step in enumerate((0, shift)):
        window = np.array(SQUARE) + step if known else None
        read.append(io.read_slice(spots(square_array(10) + step, seed=i), name=f"slice_{'ab'[i]}", window=window))
    return read[0], read[1]


def test_an_outline_does_not_shrink_towards_the_windows() -> None:
    a, b = pair_of(4)
    rows = io.rows_of(a, b, io.common_lattice(a, b))
    in_a, in_b = rows.inside(0.0), rows.inside(1.0)
    assert in_a.sum() == in_b.sum() == 100
    for p in (0.001, 0.25, 0.5, 0.999):
        np.testing.assert_array_equal(rows.inside(p), in_a | in_b)
    np.testing.assert_array_equal(rows.blind, [in_b & ~in_a, in_a & ~in_b])
    np.testing.assert_array_equal(rows.seen_at(0), in_a)
    alone, other = pair_of(4, known=False)
    shrunken = io.rows_of(alone, other, io.common_lattice(alone, other))
    assert shrunken.inside(0.5).sum() < 136
    assert not shrunken.blind.any()
    assert shrunken.seen_at(1).all()


def test_where_one_window_is_known_only_its_side_is_kept() -> None:
    """A row of tissue from 0 to 9 in a, which ends at its window, and from 0 to 13 in b, which may end anywhere."""
    a, b = (io.read_slice(spots(np.indices((n, 10)).reshape(2, -1).T * 1.0)) for n in (10, 14))
    a = replace(a, window=np.array([[1.0, 0.0, 9.5]]))
    lattice = io.common_lattice(a, b)
    rows, reverse = io.rows_of(a, b, lattice), io.rows_of(b, a, lattice)
    assert rows.inside(0.5).all()
    for p in (0.0, 0.3, 1.0):
        np.testing.assert_array_equal(rows.inside(p), reverse.inside(1 - p))
    np.testing.assert_array_equal(rows.blind, reverse.blind[::-1])
    assert rows.blind.sum(axis=1).tolist() == [40, 0]


def test_a_window_around_the_tissue_changes_nothing() -> None:
    every = square_array(20)
    sections = [io.read_slice(spots(every[np.hypot(*(every - 9.5).T) < r])) for r in (5, 7)]
    lattice = io.common_lattice(*sections)
    plain = io.rows_of(*sections, lattice)
    framed = io.rows_of(*(replace(s, window=np.array([[1.0, 0, 17], [-1, 0, -2]])) for s in sections), lattice)
    assert not framed.blind.any()
    for p in (0.0, 0.2, 0.5, 1.0):
        np.testing.assert_array_equal(framed.inside(p), plain.inside(p))
    np.testing.assert_array_equal(
        plain.inside(0.5), outline(*plain.tissue, 0.5).ravel()[plain.bins]
    )  # as without windows at all


def test_points_off_the_lattice_are_told_by_the_window_itself() -> None:
    a, b = pair_of(4)
    at = np.array([[0.0, 0.0], [9.6, 9.4], [13.0, 13.0], [-0.4, 60.0], [60.0, 60.0]])
    rows = io.rows_of(a, b, io.common_lattice(a, b), at)
    assert rows.seen_at(0).tolist() == [True, False, False, False, False]
    assert rows.seen_at(1).tolist() == [False, True, True, False, False]
    assert rows.blind.tolist() == [[False, True, True, False, False], [True, False, False, False, False]]
    np.testing.assert_array_equal(rows.sees(0, at), rows.seen_at(0))


# ---- on the public face


def interpolated(window: Any, **how: Any) -> AnnData:
    a, b = (spots(square_array(10) + step, 6, seed=i) for i, step in enumerate((0, 4)))
    how = {"model": "linear", "n_slices": 3, "on_misfit": "ignore", "show_progress_bar": False, **how}
    return c2sti.tl.interpolate(a, b, window=window, **how)


def test_what_one_section_could_not_see_is_taken_from_the_other() -> None:
    windows = [SQUARE, (3.5, 3.5, 13.5, 13.5)]
    with_windows, without = interpolated(windows), interpolated(None)
    in_a, in_b = (with_windows.obs[f"slice_{s}_tissue"].to_numpy() for s in "ab")
    np.testing.assert_array_equal(with_windows.obs["slice_a_seen"], in_a)
    np.testing.assert_array_equal(with_windows.obs["slice_b_seen"], in_b)
    assert not any(name.endswith("seen") for name in without.obs)
    for name in ("c2sti_1", "c2sti_2", "c2sti_3"):
        assert with_windows.obs[f"{name}_tissue"].all()
        np.testing.assert_array_equal(with_windows.layers[name][in_a & in_b], without.layers[name][in_a & in_b])
        for alone in (in_b & ~in_a, in_a & ~in_b):
            np.testing.assert_array_equal(
                with_windows.layers[name][alone], with_windows.layers["c2sti_1"][alone]
            )  # the same at all positions
    assert without.obs["c2sti_2_tissue"].sum() < 136


def test_a_streamed_result_with_windows_holds_the_same(tmp_path: Path) -> None:
    windows = {"slice_a": SQUARE, "slice_b": (3.5, 3.5, 13.5, 13.5)}
    held = interpolated(windows, model="gp", std=True)
    streamed = interpolated(windows, model="gp", std=True, out=tmp_path / "gp.zarr")
    for layer in ("c2sti_2", "c2sti_2_std"):
        np.testing.assert_allclose(np.asarray(streamed.layers[layer]), held.layers[layer], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(streamed.obs["slice_a_seen"], held.obs["slice_a_seen"])
