from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from c2sti import grid, metrics
from c2sti._types import Section, SlicePair
from c2sti.baselines.gp import gp
from c2sti.datasets import Phantom
from c2sti.model.programmes import Counts, counted, describe, shared_mean


def made_counts(seed: int = 0, n: int = 50, n_genes: int = 40) -> Counts:
    rng = np.random.default_rng(seed)
    values = rng.poisson(rng.gamma(1.0, 2.0, (n, 1)) * rng.random((1, n_genes)) * 3)
    values[:, 0] = 1  # a gene of one molecule tells the depth of every spot
    counts = sp.csr_array(values.astype(np.float64))
    return Counts(counts, np.asarray(counts.sum(axis=1), dtype=float).ravel() + 5)


def pair_of(tissue: Phantom) -> SlicePair:
    a, b = tissue.series([0.0, 300.0])
    return grid.make_pair(grid.read_slice(a), grid.read_slice(b))[0]


def test_an_empty_spot_gets_the_least_library_size() -> None:
    made = made_counts()
    library = made.depth.copy()
    library[3] = 0
    plain = Section(np.zeros((len(library), 2)), made.log_expression(), 0.0)
    found = counted(dataclasses.replace(plain, counts=made.counts, library=library))
    assert found is not None
    assert found.depth[3] == library[library > 0].min()
    np.testing.assert_array_equal(np.delete(found.depth, 3), np.delete(library, 3))
    assert counted(plain) is None


def test_halves_add_up_and_do_not_depend_on_what_is_beside_them() -> None:
    counts = made_counts()
    keys = np.arange(counts.counts.shape[1], dtype=np.uint64)
    one, other = counts.halves(keys, 0, 1)
    assert (one.counts + other.counts != counts.counts).nnz == 0
    assert one.counts.sum() == pytest.approx(counts.counts.sum() / 2, rel=0.1)
    assert (one.counts != counts.halves(keys, 0, 1)[0].counts).nnz == 0
    assert (one.counts != counts.halves(keys, 0, 2)[0].counts).nnz > 0
    np.testing.assert_allclose(one.depth, counts.depth / 2)


def test_residuals_by_hand() -> None:
    counts = Counts(sp.csr_array(np.array([[1.0, 3.0], [1.0, 0.0]])), np.array([4.0, 1.0]))
    # shares 2/5 and 3/5: expected 1.6, 2.4 in the first spot and 0.4 in the second
    expected = [[1 / 1.6**0.5, 3 / 2.4**0.5], [1 / 0.4**0.5, 0]]
    np.testing.assert_allclose(counts.residuals().toarray(), expected)


def test_without_views_it_is_gp(tissue: Phantom) -> None:
    pair = pair_of(tissue)
    (only,) = describe(pair, views=False, rough=False)
    maps = only.at(pair.a.xy, [0.4], pair.spacing)[0]
    answer = np.maximum(maps @ only.loadings + shared_mean(pair.sections, 0.4), 0)
    np.testing.assert_allclose(answer, gp(pair, pair.a.xy, [0.4]).slices[0].expression(), atol=1e-5)


def test_counts_and_splits_come_nearer_to_the_truth_than_gp(tissue: Phantom) -> None:
    pair = pair_of(tissue)
    truth = tissue.expression(pair.a.xy, 150.0)
    found = describe(pair, n_splits=2)
    assert len(found) == 5
    maps = np.mean([d.at(pair.a.xy, [0.5], pair.spacing)[0] @ d.loadings for d in found], axis=0)
    answer = maps + shared_mean(pair.sections, 0.5)
    plain = gp(pair, pair.a.xy, [0.5]).slices[0].expression()
    assert metrics.pcc(answer, truth) > metrics.pcc(plain, truth)


def test_deep_spots_are_less_noisy(tissue: Phantom) -> None:
    pair = pair_of(tissue)
    first = describe(pair, n_splits=0)[0]
    variance = first.field.observed.variance.numpy()
    depth = np.concatenate([s.library for s in pair.sections])
    assert np.corrcoef(np.log(depth), np.log(variance))[0, 1] < -0.5
    assert np.log(variance).mean() == pytest.approx(0, abs=1e-9)


def test_threads_change_nothing(tissue: Phantom) -> None:
    pair = pair_of(tissue)
    made = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            made.append(describe(pair, n_splits=1, n_programmes=8))
    for one, other in zip(*made, strict=True):
        assert one.loadings.tobytes() == other.loadings.tobytes()
        assert one.field.observed.values.numpy().tobytes() == other.field.observed.values.numpy().tobytes()


def test_normalised_input_that_is_not_counts_still_works(tissue: Phantom) -> None:
    pair = pair_of(tissue)

    def blurred(section: Section) -> Section:
        values = section.expression.toarray()
        return dataclasses.replace(section, expression=sp.csr_array((values + values[::-1]) / 2), counts=None)

    pair = dataclasses.replace(pair, a=blurred(pair.a), b=blurred(pair.b))
    assert len(describe(pair)) == 1
