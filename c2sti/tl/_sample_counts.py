"""Counts for interpolated sections, as they might have been measured: for tools that want counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _logging, _result, _validators, counts, io
from c2sti._types import FloatArray, Lattice
from c2sti.tl._describe import call_of
from c2sti.tl._to_slices import frame_of_stack

SAME_PLACE = 1e-3  # of a bin: rows of two sections this near are one bin
TOTAL_COUNTS = "total_counts"  # obs, by scanpy's convention


def sample_counts(
    adata: AnnData,
    *,
    sections: str | Sequence[str] | None = None,
    genes: str | Sequence[str] | pd.Index | None = None,
    key: str = "c2sti",
    seed: int = 0,
) -> AnnData:
    """Draw counts for interpolated sections, as noisy as those that were measured beside them.

    For tools that take counts only. What is drawn is a *sample*: another seed gives another one, and none of them holds
    more than the interpolated section and its neighbours do. Do not test with it, and do not count it as a replicate.

    Parameters
    ----------
    adata
        Result of :func:`interpolate` or :func:`interpolate_series`, or a stack of :func:`to_slices`, made from raw
        counts by a model whose answers are smooth (any but ``"copy"``).
    sections
        Which of its interpolated sections; all by default.
    genes
        Names of the genes wanted, or what a text column of `var` calls them; by default all. What is drawn for a gene
        does not depend on which others are.
    key
        The `key_added` that it was made with.
    seed
        Of everything that is drawn.

    Returns
    -------
    AnnData with one row for each interpolated section and bin of its tissue, in the layout of :func:`to_slices`:

    - ``X``: CSR float32, whole numbers.
    - ``obs["total_counts"]``: their sum over the genes returned (``obs["c2sti_total_counts"]`` where an annotation
      called "total_counts" was carried along, which keeps its values); ``obs["library_size"]``: the size, over all
      genes that were measured, that the row was drawn with; ``obs["section"]``, ``obs["inserted"]`` (True),
      ``obs["z"]``, annotations; ``obsm["spatial"]``, ``obsm["spatial_3d"]``.
    - ``uns["spatial"]``: the H&E of each section, so that ``sq.pl.spatial_scatter(…, library_key="section")`` draws
      it. ``uns["c2sti"]``: provenance of the result, ``synthetic: True``, and in ``"counts"`` the seed and what was
      done.

    Raises
    ------
    KeyError
        ``uns[key]`` is missing, or there is no such section or gene.
    ValueError
        The sections that the result was made from were not counts; or a measured neighbour is not in the stack.

    Notes
    -----
    Counts are negative binomial: their mean is a library size times a share of the gene. All is learnt from the two
    measured neighbours at the place of the section (``c2sti/counts`` says how): library sizes are of nearby spots,
    on a level between the two sections; shares come from the interpolated values, with the gap closed that lies between
    the mean of a logarithm and the logarithm of a mean; dispersions are those of the neighbours' counts around such
    shares; and what genes share beyond a smooth section, along up to 20 axes, is drawn for all of them together, so
    that co-expression is kept. docs/experiments.md has how near held-out sections that comes.

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
    stacked = _keys.SECTION in adata.obs
    seed = _validators.seed(seed)
    wanted = _sections(record, sections)
    chosen = _genes(adata, genes)
    frame = adata[:, :0] if stacked else frame_of_stack(adata[:, :0], key)
    label = frame.obs[_keys.SECTION].astype(str).to_numpy()
    drawn, sizes = [], []
    for name in wanted:
        place = _place(adata, frame, record, name, stacked)
        found, library = counts.draw(place, counts.fit(place, seed), seed=seed, genes=chosen)
        drawn.append(found)
        sizes.append(library)
    rows = np.concatenate([np.flatnonzero(label == name) for name in wanted])
    totals = _result.free_name(TOTAL_COUNTS, frame.obs)
    out = _assembled(frame, rows, adata.var.iloc[chosen], sp.vstack(drawn, format="csr"), np.concatenate(sizes), totals)
    out.obs[_keys.SECTION] = pd.Categorical(label[rows], categories=wanted, ordered=True)
    out.uns[_keys.SPATIAL] = {n: v for n, v in frame.uns.get(_keys.SPATIAL, {}).items() if n in wanted}
    out.uns[key] = _provenance(record, wanted, seed, call)
    if totals != TOTAL_COUNTS:
        _logging.warning(
            f"obs[{TOTAL_COUNTS!r}] is an annotation; the totals of the drawn counts are in obs[{totals!r}]"
        )
    _logging.info(f"drew counts of {out.n_vars} genes for {', '.join(wanted)} ({out.n_obs} bins, seed {seed})")
    return out


def _record(adata: AnnData, key: str) -> dict[str, Any]:
    record = dict(_result.record_of(adata, key, (*_result.NAMES, "expression")))
    if _keys.COUNTS in record:
        raise ValueError("adata holds drawn counts already; give the result that they were drawn from")
    if not str(record["expression"]).startswith("log1p of counts"):
        raise ValueError(
            f"the sections were given as normalised expression (uns[{key!r}]['expression'] is "
            f"{str(record['expression'])!r}), which does not tell how many were counted; make the result from raw "
            "counts: c2sti.tl.interpolate(slice_a, slice_b, layer='counts')"
        )
    _result.lattice_of(record, key)
    stacked = _keys.SECTION in adata.obs
    columns = [_keys.LIBRARY_SIZE] if stacked else [_keys.library_size(s) for s in (_keys.SLICE_A, _keys.SLICE_B)]
    missing = [column for column in columns if column not in adata.obs]
    if missing:
        raise ValueError(
            f"obs has no column {missing[0]!r}, without which counts cannot be told; make the result again with this "
            "version of c2sti"
        )
    if stacked:
        _result.check_stack(adata)
    else:
        _result.check_sections(adata, [str(name) for name in record["sections"]])
    return record


def _sections(record: dict[str, Any], sections: str | Sequence[str] | None) -> list[str]:
    inserted = [str(name) for name in record["inserted"]]
    wanted = inserted if sections is None else _validators.names(sections, "sections")
    unknown = [name for name in wanted if name not in inserted]
    if unknown or not wanted:
        raise KeyError(f"{(unknown or ['nothing'])[0]!r} is none of the interpolated sections, {inserted}")
    return [name for name in inserted if name in wanted]


def _genes(adata: AnnData, genes: str | Sequence[str] | pd.Index | None) -> NDArray[np.intp]:
    if genes is None:
        return np.arange(adata.n_vars)
    return adata.var_names.get_indexer(_result.genes_of(genes, adata.var_names, adata.var))


@dataclass(frozen=True)
class Values:
    """Some rows of a matrix, asked for by genes: dense, sparse, or on disk still."""

    matrix: Any
    rows: NDArray[np.intp]

    def __call__(self, genes: NDArray[np.intp]) -> FloatArray:
        """(m, n) values."""
        first, last = int(genes.min(initial=0)), int(genes.max(initial=-1))
        together = last - first + 1 == len(genes)
        some = self.matrix[:, slice(first, last + 1) if together else genes]
        dense = some.toarray() if sp.issparse(some) else np.asarray(some)
        return dense[self.rows]


@dataclass(frozen=True)
class Counted:
    """The counts behind measured rows of log1p expression."""

    values: Values
    library: FloatArray
    together: sp.csr_array

    def __call__(self, genes: NDArray[np.intp]) -> FloatArray:
        """(m, n) counts: of the spots that stand for each row, together."""
        shares = np.expm1(self.values(genes).astype(np.float64)) / counts.TARGET_SUM
        return self.together @ np.rint(shares * self.library[:, None])


def _place(adata: AnnData, frame: AnnData, record: dict[str, Any], name: str, stacked: bool) -> counts.Place:
    """An interpolated section with its measured neighbours at the rows that it shares with them."""
    lattice = _result.lattice_of(record, "uns")
    xy = _xy(frame, name)
    first, second, p = _neighbours(record, name)
    sides = []
    for neighbour, weight in ((first, 1 - p), (second, p)):
        rows, matrix = _where(adata, frame, neighbour, stacked)
        if stacked and len(rows) == 0:
            raise ValueError(
                f"{neighbour!r}, beside {name!r}, is not in the stack, and it tells how noisy counts are; ask for its "
                "depth as well: at_z=[…]"
            )
        column = _keys.LIBRARY_SIZE if stacked else _keys.library_size(neighbour)
        library = adata.obs[column].to_numpy(dtype=np.float64)[rows]
        together = _standing_for(_xy(frame, neighbour), xy, lattice, spots="neighbours" in record)
        (shared,) = np.nonzero(together.sum(axis=1) > 0)
        together = together[shared]
        found = Counted(Values(matrix, rows), library, together)
        sides.append(counts.Measured(shared, together @ library, found, weight))
    rows, matrix = _where(adata, frame, name, stacked)
    return counts.Place(name, xy, list(map(str, adata.var_names)), Values(matrix, rows), (sides[0], sides[1]))


def _standing_for(measured: FloatArray, bins: FloatArray, lattice: Lattice, *, spots: bool) -> sp.csr_array:
    """(M, n) 0/1: the measured rows that stand for each bin: spots, as a series has them, or the same bin."""
    if len(measured) == 0:
        return sp.csr_array((len(bins), 0))
    if spots:
        return io.on_bins(measured, bins, lattice)
    distance, at = KDTree(measured).query(bins)
    (row,) = np.nonzero(distance < SAME_PLACE * lattice.pitch)
    return sp.csr_array((np.ones(len(row)), (row, at[row])), shape=(len(bins), len(measured)))


def _xy(frame: AnnData, name: str) -> FloatArray:
    return np.asarray(frame.obsm[_keys.SPATIAL])[(frame.obs[_keys.SECTION] == name).to_numpy()]


def _where(adata: AnnData, frame: AnnData, name: str, stacked: bool) -> tuple[NDArray[np.intp], Any]:
    """Rows of a section in what was given, and the matrix in which they lie."""
    if stacked:
        return np.flatnonzero((frame.obs[_keys.SECTION] == name).to_numpy()), _columnwise(adata.X)
    return np.flatnonzero(adata.obs[_keys.tissue(name)].to_numpy()), _columnwise(adata.layers[name])


def _columnwise(matrix: Any) -> Any:
    return matrix.tocsc() if sp.issparse(matrix) else matrix


def _neighbours(record: dict[str, Any], name: str) -> tuple[str, str, float]:
    """Names of the measured sections on either side, and the position between them."""
    if "neighbours" in record:
        row = record["neighbours"].loc[name]
        first, second = (_result.name_of(record, int(row[side])) for side in "ab")
        return first, second, float(row["position"])
    names = [str(n) for n in record["sections"]]
    return _keys.SLICE_A, _keys.SLICE_B, float(record["positions"][names.index(name)])


def _assembled(
    frame: AnnData,
    rows: NDArray[np.intp],
    var: pd.DataFrame,
    drawn: sp.csr_matrix,
    library: FloatArray,
    totals: str,
) -> AnnData:
    obs = frame.obs.iloc[rows].copy()
    obs[_keys.LIBRARY_SIZE] = library
    obs[totals] = np.asarray(drawn.sum(axis=1), dtype=np.float64).ravel()
    obsm = {k: v.iloc[rows] if isinstance(v, pd.DataFrame) else np.asarray(v)[rows] for k, v in frame.obsm.items()}
    colours = {k: v for k, v in frame.uns.items() if k.endswith(_keys.colours(""))}
    return AnnData(X=sp.csr_matrix(drawn), obs=obs, var=var.copy(), obsm=obsm, uns=colours)


def _provenance(record: dict[str, Any], sections: Sequence[str], seed: int, call: str) -> dict[str, Any]:
    """That of the result, of what is left of it, and how counts were drawn."""
    before = [str(name) for name in record["sections"]]
    kept = [before.index(name) for name in sections]
    some: dict[str, Any] = {k: np.asarray(record[k])[kept] for k in ("positions", "z") if k in record}
    rest = {k: v for k, v in record.items() if k != _keys.COEXPRESSION}
    if "neighbours" in rest:
        rest["neighbours"] = rest["neighbours"].loc[list(sections)]
    return {
        **rest,
        **some,
        "synthetic": True,
        "sections": list(sections),
        "inserted": list(sections),
        "expression": "counts, drawn",
        "calls": np.array([*map(str, record.get("calls", ())), call], dtype=str),
        _keys.COUNTS: {
            "seed": seed,
            "how": "negative binomial around the interpolated values, with the neighbours' noise",
        },
    }
