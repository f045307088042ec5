"""The lattice of two sections, with values that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from c2sti import _logging, io
from c2sti._types import Lattice
from c2sti.datasets import Phantom
from c2sti.io import HEImage, histology_on
from c2sti.io._rasterize import _signed_distance, check_overlap, is_gathered, outline
from tests.conftest import square_array
from tests.io.test_read import spots


def test_the_common_lattice_by_hand() -> None:
    a, b = (io.read_slice(spots(square_array(5, 2.0) + [x, 1.0])) for x in (3.0, 7.0))
    lattice = io.common_lattice(a, b)
    assert (lattice.pitch, lattice.shape) == (2.0, (5, 7))
    assert lattice.origin == pytest.approx((3, 1))
    wider = io.common_lattice(a, b, pitch=4.0)  # bins of 4 over x from 3 to 15 and y from 1 to 9
    assert (wider.pitch, wider.shape) == (4.0, (3, 4))
    assert (wider.bins(np.concatenate([a.xy, b.xy])) >= 0).all()
    with pytest.raises(ValueError, match="pitch = 0.0 must be positive"):
        io.common_lattice(a, b, pitch=0.0)


def test_pictures_are_not_described_without_an_encoder(tissue: Phantom) -> None:
    section = io.read_slice(tissue.section(0.0))
    plain, _ = io.make_pair(section, section)
    assert plain.a.histology is not None and plain.a.features is None


def test_of_sections_that_are_about_as_regular_the_larger_one_gives_the_bin_centres() -> None:
    small, large = square_array(5), square_array(6) + 0.5
    large += np.where(np.arange(36) % 2, 1, -1)[:, None] * 0.003  # cos(2π · 0.003) is 0.9998
    grids = [io.read_slice(spots(xy)) for xy in (small, large)]
    assert io.common_lattice(*grids, pitch=1.0).origin == pytest.approx((0.5, 0.5), abs=0.01)


def test_a_fiftieth_of_the_smaller_section_is_enough_to_go_on() -> None:
    xy = np.indices((5, 10)).reshape(2, -1)[::-1].T * 1.0
    a, b = io.read_slice(spots(xy)), io.read_slice(spots(xy + [9.0, 4.0]))  # one of fifty
    with pytest.warns(UserWarning, match="only 2% of"):
        check_overlap(a, b)


def test_who_judges_a_pair_is_warned_of_its_context_only() -> None:
    a, third = (io.read_slice(spots(square_array(6) + [x, 0.0])) for x in (0.0, 4.0))
    with pytest.warns(UserWarning, match="only 33%"):
        io.make_pair(a, third)
    pair, _ = io.make_pair(a, third, judged=True)
    np.testing.assert_array_equal(pair.b.xy, third.xy)
    with pytest.warns(UserWarning, match="only 33%"):
        io.make_pair(a, a, context={2.0: third}, judged=True)


def test_genes_that_are_left_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(_logging, "info", said.append)
    a, b = io.read_slice(spots(square_array(6), 5), name="a"), io.read_slice(spots(square_array(6), 4), name="b")
    assert io.shared_genes([a, a]).tolist() == ["g0", "g1", "g2", "g3", "g4"]
    assert said == []
    assert io.shared_genes([a, b]).tolist() == ["g0", "g1", "g2", "g3"]
    assert said == ["4 genes are in all sections (a: 5, b: 4)"]
    assert io.shared_genes([a, b], "g2").tolist() == ["g2"]
    with pytest.raises(ValueError, match="genes= is empty"):
        io.shared_genes([a, b], [])
    with pytest.raises(KeyError, match="1 of 2 genes= are not in all sections .first: 'g4'"):
        io.shared_genes([a, b], ["g0", "g4"])


def test_sections_that_barely_meet_are_told_by_the_share_of_the_smaller() -> None:
    a = io.read_slice(spots(square_array(6)), name="slice_a")
    small = io.read_slice(spots(square_array(6)[:24]))
    half, third, away = (io.read_slice(spots(square_array(6) + [x, 0.0]), name="slice_b") for x in (3, 4, 7))
    assert [io.overlap(a, b) for b in (small, half, third, away)] == pytest.approx([1, 1 / 2, 1 / 3, 0])
    assert io.overlap(small, a) == 1
    check_overlap(a, half)  # half is enough
    with pytest.warns(UserWarning, match="only 33% of slice_a and slice_b overlap"):
        check_overlap(a, third)
    check_overlap(a, third, warn=False)
    with pytest.raises(ValueError, match="slice_a and slice_b do not overlap .*x 0..5, y 0..5.*x 7..12, y 0..5"):
        check_overlap(a, away, warn=False)


def test_context_lies_beyond_the_pair() -> None:
    a = io.read_slice(spots(square_array(6)))
    for position in (0.0, 0.5, 1.0):
        with pytest.raises(ValueError, match=f"context holds a section at position {position}"):
            io.make_pair(a, a, context={-1.0: a, position: a})
    pair, _ = io.make_pair(a, a, context={-0.5: a, 1.5: a})
    assert [s.position for s in (pair.a, pair.b, *pair.context)] == [0.0, 1.0, -0.5, 1.5]


def test_profiles_that_two_sections_share_are_counted_where_they_tell() -> None:
    a, b = spots(square_array(6), 40), spots(square_array(6), 40, seed=1)
    for adata in (a, b):
        adata.X = adata.X.toarray() + 1
    b.X[:7] = a.X[:7]
    b.X[5, 20:], b.X[6, 19:] = 0, 0  # 20 genes are enough to tell, 19 are not
    a.X[5:7] = b.X[5:7]
    assert io.shared_profiles(io.read_slice(a), io.read_slice(b[:, ::-1].copy())) == 6


def test_a_section_is_gathered_from_one_and_a_half_times_its_pitch_on() -> None:
    section = io.read_slice(spots(square_array(6)))
    assert not is_gathered(section, Lattice((0.0, 0.0), 1.5, (4, 4)))
    assert is_gathered(section, Lattice((0.0, 0.0), 1.51, (4, 4)))


def test_library_sizes_are_those_of_the_nearest_spot_or_bin() -> None:
    section = io.read_slice(spots(square_array(6)))
    points = np.array([[0.4, 0.6], [4.9, 2.1]])
    own = io.library_sizes(section, Lattice((0.0, 0.0), 1.0, (6, 6)), points)
    np.testing.assert_array_equal(own, section.library[[6, 2 * 6 + 5]])
    square = section.library.reshape(3, 2, 3, 2).sum(axis=(1, 3))  # two by two spots a bin
    binned = io.library_sizes(section, Lattice((0.5, 0.5), 2.0, (3, 3)), points)
    np.testing.assert_array_equal(binned, [square[0, 0], square[1, 2]])


def test_points_of_ones_own_are_taken_in_their_order() -> None:
    a, b = (io.read_slice(spots(square_array(6) + [x, 0.0])) for x in (0.0, 2.0))
    at = np.array([[7.0, 0.0], [0.0, 5.0], [90.0, 0.0], [3.0, 3.0]])
    rows = io.rows_of(a, b, io.common_lattice(a, b), at)
    np.testing.assert_array_equal(rows.points, at)
    assert rows.bins.tolist() == [7, 40, -1, 27]  # 8 bins a row
    assert rows.inside(0.0).tolist() == [False, True, False, True]
    assert rows.inside(1.0).tolist() == [True, False, False, True]


def test_distances_to_the_outline_are_taken_from_between_the_bins() -> None:
    mask = np.zeros((5, 7), bool)
    mask[:, :3] = True
    np.testing.assert_allclose(_signed_distance(mask)[2], [0.5, 1.5, 0.5, -0.5, -1.5, -2.5, -3.5])


def test_bins_and_centres_are_inverse_to_each_other() -> None:
    lattice = Lattice((3.0, -5.0), 2.0, (4, 7))
    np.testing.assert_array_equal(lattice.bins(lattice.centres), np.arange(28))
    np.testing.assert_allclose(lattice.centres[0], [3.0, -5.0])
    np.testing.assert_allclose(lattice.centres[1], [5.0, -5.0])  # x runs along a row
    assert lattice.bins(np.array([[1.9, -5.0], [3.0, 3.0], [100.0, 0.0]])).tolist() == [-1, -1, -1]


def test_bin_centres_lie_exactly_on_the_spots_of_an_upright_array() -> None:
    a = io.read_slice(spots(square_array(9, 200.0) + [37.0, -512.0]))
    turned = square_array(9, 200.0) - 800
    b = io.read_slice(spots(turned @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + 800))
    for lattice in (io.common_lattice(a, b), io.common_lattice(b, a)):
        index = lattice.bins(a.xy)
        assert (index >= 0).all()
        np.testing.assert_allclose(lattice.centres[index], a.xy, atol=1e-6)


def test_a_tiny_pitch_is_refused_before_memory_runs_out() -> None:
    a = io.read_slice(spots(square_array(9, 100.0)))
    with pytest.raises(ValueError, match="pitch = 0.01 makes 80001 x 80001 bins.*choose pitch= near that"):
        io.common_lattice(a, a, pitch=0.01)


def test_rows_are_the_union_of_both_tissues() -> None:
    a, b = (io.read_slice(spots(square_array(6) + [dx, 0.0])) for dx in (0, 2))
    rows = io.rows_of(a, b, io.common_lattice(a, b))
    assert len(rows.points) == 8 * 6
    assert rows.inside(0.0).sum() == rows.inside(1.0).sum() == 36


@pytest.mark.parametrize("at", [np.zeros((3, 3)), np.zeros(4), np.diag([1.0, np.nan]), np.zeros((0, 2))])
def test_unusable_points_are_refused(at: np.ndarray) -> None:
    a = io.read_slice(spots(square_array(6)))
    with pytest.raises(ValueError, match=r"at has shape .* \(M, 2\) are needed"):
        io.rows_of(a, a, io.common_lattice(a, a), at)


def test_the_outline_moves_evenly_and_is_exact_at_both_ends() -> None:
    a, b = np.zeros((61, 30), bool), np.zeros((61, 30), bool)
    a[:, :10] = b[:, :20] = True
    np.testing.assert_array_equal(outline(a, b, 0.0), a)
    np.testing.assert_array_equal(outline(a, b, 1.0), b)
    widths = [outline(a, b, p)[30].sum() for p in (0.2, 0.5, 0.8)]
    assert widths == [12, 15, 18]
    np.testing.assert_array_equal(outline(a, b, 0.3), outline(b, a, 0.7))


@pytest.mark.parametrize("counts", [True, False])
def test_counts_of_a_bin_are_summed_and_normalised_expression_is_averaged(counts: bool) -> None:
    fine = spots(square_array(12))
    fine.X = fine.X if counts else fine.X.log1p()
    section = io.read_slice(fine)
    lattice = io.common_lattice(section, section, pitch=2.0)
    pair, _ = io.make_pair(section, section, lattice=lattice)
    index = lattice.bins(fine.obsm["spatial"])
    bins = np.unique(index)
    expected = np.stack([fine.X.toarray()[index == i].mean(axis=0) for i in bins])
    if counts:
        expected = np.log1p(expected / expected.sum(axis=1, keepdims=True) * 1e4)
    order = lattice.bins(pair.a.xy).argsort()
    np.testing.assert_allclose(pair.a.expression.toarray()[order], expected, rtol=1e-5)
    np.testing.assert_allclose(pair.a.xy[order], lattice.centres[bins], atol=1e-9)
    assert pair.spacing == 2.0


def test_genes_are_matched_by_name_whatever_their_order() -> None:
    a, b = spots(square_array(6), 5), spots(square_array(6), 5, seed=1)
    shuffled = b[:, ["g3", "g1", "g4", "g0"]].copy()
    shuffled.obs["n"] = 1
    pair, genes = io.make_pair(io.read_slice(a), io.read_slice(shuffled))
    assert genes.tolist() == ["g0", "g1", "g3", "g4"]
    # the library size counts all genes of a section, shared or not
    expected = np.log1p(a.X.toarray() / a.X.sum(axis=1) * 1e4)[:, [0, 1, 3, 4]]
    np.testing.assert_allclose(pair.a.expression.toarray(), expected, rtol=1e-5)
    chosen, names = io.make_pair(io.read_slice(a), io.read_slice(b), genes=["g4", "g2"])
    assert names.tolist() == ["g4", "g2"]
    assert chosen.n_genes == 2


def test_histology_is_an_area_mean_with_exact_edges() -> None:
    pixels = np.zeros((8, 12, 3), dtype=np.uint8)
    pixels[:, :6] = 255  # left half white
    lattice = Lattice((1.0, 1.0), 2.0, (2, 3))  # bins of 4 x 4 pixels at 2 pixels a unit
    colour = histology_on(HEImage((pixels,), np.diag([2.0, 2.0, 1.0])), lattice)
    assert colour.shape == (3, 2, 3)
    np.testing.assert_allclose(colour[0], [[1, 0.5, 0], [1, 0.5, 0]], atol=1e-6)


def test_histology_splits_pixels_between_bins_and_is_nan_off_the_picture() -> None:
    pixels = np.arange(4, dtype=np.float32)[None, :, None].repeat(4, axis=0).repeat(3, axis=2) / 4
    colour = histology_on(HEImage((pixels,), np.eye(3)), Lattice((0.75, 0.75), 1.5, (2, 4)))
    # bins along x: [0, 1.5) covers pixel 0 and half of pixel 1
    np.testing.assert_allclose(colour[0, 0, :2], [(0 + 0.5 * 0.25) / 1.5, (0.5 * 0.25 + 0.5) / 1.5], atol=1e-6)
    assert np.isnan(colour[:, :, 3]).all()
