"""Counts for interpolated sections, as they might have been measured: for tools that want counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _logging, _result, _validators, counts, io
from c2sti._types import TARGET_SUM, FloatArray, Lattice
from c2sti.tl._describe import call_of, neighbours_of
from c2sti.tl._to_slices import stack_of

SAME_PLACE = 1e-3  # of a bin: rows of two sections this near are one bin
TOTAL_COUNTS = "total_counts"  # obs, by scanpy's convention
HOW = "negative binomial around the interpolated values, with the neighbours' noise"


def sample_counts(
    adata: AnnData,
    *,
    sections: str | Sequence[str] | None = None,
    genes: str | Sequence[str] | pd.Index | None = None,
    key: str = "c2sti",
    seed: int = 0,
) -> AnnData:
    """Draw counts for interpolated sections, as noisy as those that were measured beside them.

    The counts are a *sample* for tools that take counts only. Tests on them find about as much as on a measured
    section, those on interpolated values far too much. They are no new evidence: do not count them as a replicate.

    Parameters
    ----------
    adata
        Result of :func:`interpolate` or :func:`interpolate_series`, or a stack of :func:`to_slices`, made from raw
        counts by a model whose predictions are smooth (any but ``"copy"``).
    sections
        Which of its interpolated sections; all by default.
    genes
        Names of the genes, or what a text column of `var` calls them; by default all. The counts of a gene do not
        depend on which others are drawn.
    key
        The `key_added` that it was made with.
    seed
        Of everything that is drawn.

    Returns
    -------
    AnnData with one row for each interpolated section and bin of its tissue, in the layout of :func:`to_slices`:

    - ``X``: CSR float32, whole numbers.
    - ``obs["total_counts"]``: their sum over the genes returned (``obs["c2sti_total_counts"]`` where an annotation
      called "total_counts" was carried along); ``obs["library_size"]``: the size, over all genes that were measured,
      that the row was drawn with.
    - ``uns["c2sti"]``: provenance of the result, ``synthetic: True``, and in ``"counts"`` the seed and the method.

    Raises
    ------
    KeyError
        ``uns[key]`` or a part of the result is missing, or there is no such section or gene.
    ValueError
        The result was not made from counts, or a measured neighbour is not in the stack.

    Notes
    -----
    Counts are negative binomial, with library sizes and dispersions of the neighbours' counts; ``c2sti/counts.py`` has
    the model. docs/experiments.md compares drawn counts with held-out sections.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, n_slices=2, show_progress_bar=False)
    >>> drawn = c2sti.tl.sample_counts(out, sections="c2sti_1")
    >>> bool((drawn.X.data % 1 == 0).all())
    True
    """
    call = call_of(sample_counts, locals())
    record = _record(adata, key)
    seed = _validators.seed(seed)
    wanted = _sections(record, sections)
    chosen = np.arange(adata.n_vars)
    if genes is not None:
        chosen = adata.var_names.get_indexer(_result.genes_of(genes, adata.var_names, adata.var))
    stack = adata if _keys.SECTION in adata.obs else stack_of(adata, key)
    section = stack.obs[_keys.SECTION].astype(str).to_numpy()
    for name in wanted if stack is adata else ():
        for neighbour in neighbours_of(record, name)[:2]:
            if neighbour not in section:
                raise ValueError(
                    f"{neighbour!r}, beside {name!r}, is not in the stack, and the noise of counts is learnt from it; "
                    "include its z as well: at_z=[…]"
                )
    places = [_place(stack, section, record, key, name) for name in wanted]
    drawn = [counts.draw(place, counts.fit(place, seed), seed=seed, genes=chosen) for place in places]
    rows = np.concatenate([np.flatnonzero(section == name) for name in wanted])
    obs, totals = stack.obs.iloc[rows].copy(), _result.free_name(TOTAL_COUNTS, stack.obs)
    matrix = sp.csr_matrix(sp.vstack([found for found, _ in drawn], format="csr"))
    obs[_keys.LIBRARY_SIZE] = np.concatenate([library for _, library in drawn])
    obs[totals] = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    obs[_keys.SECTION] = pd.Categorical(section[rows], categories=wanted, ordered=True)
    obsm = {k: v.iloc[rows] if isinstance(v, pd.DataFrame) else np.asarray(v)[rows] for k, v in stack.obsm.items()}
    uns = {k: v for k, v in stack.uns.items() if k.endswith(_keys.colours(""))}
    uns[_keys.SPATIAL] = {n: v for n, v in stack.uns.get(_keys.SPATIAL, {}).items() if n in wanted}
    uns[key] = {
        **{k: v for k, v in _result.record_of_some(record, wanted).items() if k != _keys.STATISTICS},
        "expression": "counts, drawn",
        "calls": np.array([*map(str, record.get("calls", ())), call], dtype=str),
        _keys.COUNTS: {"seed": seed, "how": HOW},
    }
    out = AnnData(X=matrix, obs=obs, var=adata.var.iloc[chosen].copy(), obsm=obsm, uns=uns)
    if totals != TOTAL_COUNTS:
        _logging.warning(
            f"obs[{TOTAL_COUNTS!r}] is an annotation; the totals of the drawn counts are in obs[{totals!r}]"
        )
    _logging.info(f"drew counts of {out.n_vars} genes for {', '.join(wanted)} ({out.n_obs} bins, seed {seed})")
    return out


def _record(adata: AnnData, key: str) -> Mapping[str, Any]:
    """Provenance of a result that counts can be drawn from."""
    record = _result.record_of(adata, key, (*_result.NAMES, "expression"))
    if _keys.COUNTS in record:
        raise ValueError("adata holds drawn counts already; give the result that they were drawn from")
    if not str(record["expression"]).startswith("log1p of counts"):
        raise ValueError(
            f"the sections were given as normalised expression (uns[{key!r}]['expression'] is "
            f"{str(record['expression'])!r}), without library sizes; make the result from raw counts: "
            "c2sti.tl.interpolate(slice_a, slice_b, layer='counts')"
        )
    if _keys.CELLS in record:
        raise ValueError("adata holds cells; c2sti.tl.interpolate_cells gives them with counts: counts=True")
    if _keys.PLANE in record:
        raise ValueError(
            "adata is a section of c2sti.tl.slice_series, without the measured sections that the noise of counts is "
            "learnt from; draw counts of the stack of c2sti.tl.interpolate_series"
        )
    if _keys.SECTION in adata.obs:
        _result.check_stack(adata)
        columns = [_keys.LIBRARY_SIZE]
    else:
        columns = [_keys.library_size(name) for name in (_keys.SLICE_A, _keys.SLICE_B)]
    _result.check_parts(adata, obs=columns)
    return record


def _sections(record: Mapping[str, Any], sections: str | Sequence[str] | None) -> list[str]:
    """Names of the interpolated sections wanted, in order of z."""
    inserted = [str(name) for name in record["inserted"]]
    wanted = inserted if sections is None else _validators.names(sections, "sections")
    unknown = [name for name in wanted if name not in inserted]
    if unknown or not wanted:
        raise KeyError(f"{(unknown or ['nothing'])[0]!r} is none of the interpolated sections, {inserted}")
    return [name for name in inserted if name in wanted]


def _place(stack: AnnData, section: NDArray[Any], record: Mapping[str, Any], key: str, name: str) -> counts.Place:
    """An interpolated section with its measured neighbours at the rows that it shares with them."""
    places, lattice = np.asarray(stack.obsm[_keys.SPATIAL]), _result.lattice_of(record, key)
    xy = places[section == name]
    first, second, p = neighbours_of(record, name)
    sides = []
    for neighbour, weight in ((first, 1 - p), (second, p)):
        rows = section == neighbour
        library = stack.obs[_keys.LIBRARY_SIZE].to_numpy(dtype=np.float64)[rows]
        together = _standing_for(places[rows], xy, lattice, spots="neighbours" in record)
        (shared,) = np.nonzero(together.sum(axis=1) > 0)
        together = together[shared]
        found = _counts_of(_values_of(stack, rows), library, together)
        sides.append(counts.Measured(shared, together @ library, found, weight))
    values = _values_of(stack, section == name)
    return counts.Place(name, xy, list(map(str, stack.var_names)), values, (sides[0], sides[1]))


def _standing_for(measured: FloatArray, bins: FloatArray, lattice: Lattice, *, spots: bool) -> sp.csr_array:
    """(M, n) 0/1: the measured rows that stand for each bin: spots, as a series has them, or the same bin."""
    if len(measured) == 0:
        return sp.csr_array((len(bins), 0))
    if spots:
        return io.on_bins(measured, bins, lattice)
    distance, at = KDTree(measured).query(bins)
    (row,) = np.nonzero(distance < SAME_PLACE * lattice.pitch)
    return sp.csr_array((np.ones(len(row)), (row, at[row])), shape=(len(bins), len(measured)))


def _values_of(stack: AnnData, rows: NDArray[np.bool_]) -> Callable[[NDArray[np.intp]], FloatArray]:
    """Gives (m, n) values of some genes in some rows; they may be dense, sparse, lazy, or on disk still."""
    matrix = stack.X
    if hasattr(matrix, "compute"):  # the other rows are not computed
        matrix, rows = matrix[np.flatnonzero(rows)], np.ones(rows.sum(), dtype=bool)
    elif sp.issparse(matrix):
        matrix = matrix.tocsc()

    def values(genes: NDArray[np.intp]) -> FloatArray:
        first, last = int(genes.min(initial=0)), int(genes.max(initial=-1))
        together = last - first + 1 == len(genes)
        some = matrix[:, slice(first, last + 1) if together else genes]
        return (some.toarray() if sp.issparse(some) else np.asarray(some))[rows]

    return values


def _counts_of(
    values: Callable[[NDArray[np.intp]], FloatArray], library: FloatArray, together: sp.csr_array
) -> Callable[[NDArray[np.intp]], FloatArray]:
    """Gives (m, n) counts behind log1p expression, those of the spots that stand for each row together."""
    return lambda genes: together @ np.rint(np.expm1(values(genes).astype(np.float64)) / TARGET_SUM * library[:, None])
