"""Expression that is left on disk says the same as a matrix in memory."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

import c2sti
from c2sti import _backed, io, ops
from c2sti._backed import Stored, blocks, in_memory, moments, per_row
from c2sti.io import _read


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch) -> sp.csr_array:
    """Forty spots of nine genes; a block holds about twenty entries."""
    monkeypatch.setattr(_backed, "BLOCK", 20)
    rng = np.random.default_rng(0)
    return sp.csr_array(rng.poisson(0.5, (40, 9)).astype(np.float32))


def test_blocks_cover_all_rows_in_order_and_hold_no_more_than_asked(matrix: sp.csr_array) -> None:
    for expression in (matrix, Stored(matrix, matrix.nnz)):
        places, parts = zip(*blocks(expression), strict=True)
        assert len(parts) > 5
        assert [p.start for p in places] == [0, *(p.stop for p in places[:-1])]
        np.testing.assert_array_equal(sp.vstack(parts).toarray(), matrix.toarray())


@pytest.mark.parametrize("source", ["sparse", "dense", "dask"])
def test_rows_genes_and_products_are_those_of_the_matrix(
    matrix: sp.csr_array, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = matrix.toarray()
    stored = Stored({"sparse": matrix, "dense": dense, "dask": da.from_array(dense, chunks=(7, 9))}[source], matrix.nnz)
    assert stored.shape == (40, 9)
    np.testing.assert_array_equal(stored[3:11].toarray(), dense[3:11])
    np.testing.assert_array_equal(stored[::3].toarray(), dense[::3])
    np.testing.assert_array_equal(stored[np.array([30, 2, 2, 17])].toarray(), dense[[30, 2, 2, 17]])
    np.testing.assert_array_equal(stored[dense[:, 0] > 0].toarray(), dense[dense[:, 0] > 0])
    assert stored[np.array([], dtype=int)].shape == (0, 9)
    monkeypatch.setattr(_backed, "READ_AT_ONCE", 1)
    read: list[tuple[int, int]] = []
    monkeypatch.setattr(_backed.Stored, "_read", lambda self, *rows: read.append(rows) or matrix[slice(*rows)])
    np.testing.assert_array_equal(stored[np.array([17, 2, 18, 0, 0])].toarray(), dense[[17, 2, 18, 0, 0]])
    assert read == [(0, 1), (2, 3), (17, 19)]  # and not what lies between
    monkeypatch.undo()
    few = stored[:, [4, 1, 8]][:, [2, 0]]
    np.testing.assert_array_equal(in_memory(few).toarray(), dense[:, [8, 4]])
    np.testing.assert_allclose(stored @ np.eye(9)[:, :2], dense[:, :2])


def test_moments_are_those_of_the_dense_matrix(matrix: sp.csr_array) -> None:
    found, dense = moments(matrix), matrix.toarray()
    np.testing.assert_allclose(found.mean, dense.mean(axis=0))
    np.testing.assert_allclose(found.square, np.square(dense).mean(axis=0))
    np.testing.assert_allclose(found.seen, (dense > 0).mean(axis=0))


def test_log1p_is_taken_while_reading(matrix: sp.csr_array) -> None:
    library = np.maximum(matrix.sum(axis=1), 1)
    stored = io.log_normalise(Stored(matrix, matrix.nnz), library)
    np.testing.assert_allclose(
        in_memory(stored[:, [5, 0]]).toarray(),
        np.log1p(matrix.toarray() * 1e4 / library[:, None])[:, [5, 0]],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(in_memory(stored).toarray(), io.log_normalise(matrix, library).toarray())


def test_rows_and_genes_are_not_chosen_at_once(matrix: sp.csr_array) -> None:
    with pytest.raises(TypeError, match="one after the other"):
        Stored(matrix, matrix.nnz)[slice(0, 3), [1]]


def test_what_is_asked_of_rows_comes_back_in_order(matrix: sp.csr_array) -> None:
    np.testing.assert_array_equal(per_row(matrix, lambda x: x.sum(axis=1)), matrix.sum(axis=1))


def test_patch_means_are_those_of_the_spots(matrix: sp.csr_array) -> None:
    patch = np.random.default_rng(1).permutation(np.arange(40) % 6)
    found = ops.patch_means(patch, blocks(matrix), matrix.shape[1])
    wanted = np.stack([matrix.toarray()[patch == p].mean(axis=0) for p in range(6)])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


# ---- sections that are read


@pytest.fixture(scope="module")
def pair() -> list[ad.AnnData]:
    return c2sti.datasets.phantom(seed=3, size=12, n_genes=60).series([0.0, 200.0])


@pytest.fixture
def leave_all_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_read, "LARGE", 0)
    monkeypatch.setattr(_backed, "BLOCK", 300)


def _kept(section: ad.AnnData, how: str, path: Path) -> ad.AnnData:
    section = section.copy()
    section.X = sp.csr_matrix(section.X) if "dense" not in how else np.asarray(sp.csr_matrix(section.X).todense())
    if how == "dask":
        section.X = da.from_array(np.asarray(section.X.todense()), chunks=(50, 60))
        return section
    section.write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


@pytest.mark.parametrize("how", ["sparse", "dense", "dask"])
@pytest.mark.usefixtures("leave_all_on_disk")
def test_a_section_on_disk_reads_as_the_one_in_memory(pair: list[ad.AnnData], how: str, tmp_path: Path) -> None:
    known = io.read_slice(pair[0])
    found = io.read_slice(_kept(pair[0], how, tmp_path / "a.h5ad"))
    assert isinstance(found.values, Stored)
    assert found.counts
    assert found.fingerprint() == known.fingerprint()
    np.testing.assert_array_equal(found.library, known.library)
    np.testing.assert_array_equal(in_memory(found.values).toarray(), known.values.toarray())
    # Cells or fine bins are gathered from blocks as from the whole.
    coarse = io.common_lattice(known, known, pitch=3 * known.pitch)
    for one, other in zip(
        io.profiles(found, coarse, known.genes), io.profiles(known, coarse, known.genes), strict=True
    ):
        np.testing.assert_array_equal(*(x.toarray() if sp.issparse(x) else x for x in (one, other)))


@pytest.mark.usefixtures("leave_all_on_disk")
def test_a_small_section_is_read_whole(pair: list[ad.AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_read, "LARGE", 10**6)
    assert sp.issparse(io.read_slice(_kept(pair[0], "sparse", tmp_path / "a.h5ad")).values)


@pytest.mark.usefixtures("leave_all_on_disk")
def test_a_section_that_is_stored_by_genes_is_read_whole_and_says_so(
    pair: list[ad.AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = pair[0].copy()
    section.X = sp.csc_matrix(section.X)
    section.write_h5ad(tmp_path / "a.h5ad")
    said: list[str] = []
    monkeypatch.setattr("c2sti._logging.warning", said.append)
    found = io.read_slice(ad.read_h5ad(tmp_path / "a.h5ad", backed="r"))
    assert sp.issparse(found.values)
    assert "stored by genes (CSC)" in said[0]


@pytest.mark.usefixtures("leave_all_on_disk")
def test_bad_values_on_disk_are_refused(pair: list[ad.AnnData], tmp_path: Path) -> None:
    section = pair[0].copy()
    section.X = sp.csr_matrix(section.X)
    section.X.data[-1] = np.nan
    with pytest.raises(ValueError, match="X of slice holds NaN"):
        io.read_slice(_kept(section, "sparse", tmp_path / "nan.h5ad"))
    section.X.data[-1] = -1
    with pytest.raises(ValueError, match="X of slice holds negative values"):
        io.read_slice(_kept(section, "sparse", tmp_path / "negative.h5ad"))


@pytest.mark.parametrize("model", ["c2sti", "linear"])
@pytest.mark.usefixtures("leave_all_on_disk")
def test_sections_on_disk_are_interpolated_as_those_in_memory(
    pair: list[ad.AnnData], tmp_path: Path, model: str
) -> None:
    a, b = (_kept(s, "sparse", tmp_path / f"{i}.h5ad") for i, s in enumerate(pair))
    known = c2sti.tl.interpolate(*pair, model=model, std=True, interval=0.9, show_progress_bar=False)
    found = c2sti.tl.interpolate(a, b, model=model, std=True, interval=0.9, show_progress_bar=False)
    for name in known.layers:
        ends = str(name).endswith(("lower", "upper"))  # steep where two spots were predicted nearly alike
        atol = 1e-4 if ends else 1e-5
        np.testing.assert_allclose(found.layers[name], known.layers[name], atol=atol, err_msg=str(name))
    for name in ("slice_a", "slice_b"):
        assert found.uns["c2sti"]["inputs"][name] == known.uns["c2sti"]["inputs"][name]
