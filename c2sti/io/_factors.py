"""Factors of predictions in AnnData, where principal components are kept, and the layers computed from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, TypeAlias

import dask
import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _result
from c2sti._backed import Expression
from c2sti._tasks import compute
from c2sti._types import InterpolatedSection, Noise, Prediction, Section
from c2sti.factors import TOLERANCE
from c2sti.ops import nearest
from c2sti.uncertainty import Intervals, Spread

VERSION = 1
FACTORS, LOADINGS, NOISE = "factors", "loadings", "noise"
FROM, FROM_A, FROM_B = "from", "from_a", "from_b"  # sections right beside the measured ones, for standard deviations
APART, KNOTS = "disagreement", "intervals"
VALUES = None  # kind of a section's own values, beside standard deviations and ends of intervals

CHUNK_ROWS = 8192
CHUNK_VALUES = 2**20  # 4 MB
LEAST_GENES = 64
GENES = 2048  # of a sparse layer that are made dense together


# ---- layers of interpolated sections


@dataclass(frozen=True)
class Layers:
    """What the layers of S interpolated sections on one basis are computed from, with uncertainty if wanted."""

    names: Sequence[str]
    slices: tuple[InterpolatedSection, ...]
    spread: Spread | None = None
    intervals: Intervals | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and genes, (M, N)."""
        return self.slices[0].weights.shape[0], len(self.slices[0].offset)

    def kinds(self) -> list[str]:
        """Kinds of layers beside the values."""
        return [_keys.STD] * (self.spread is not None) + [_keys.LOWER, _keys.UPPER] * (self.intervals is not None)

    def block(self, i: int, kind: str | None, rows: slice, genes: slice) -> NDArray[np.float32]:
        """(m, n) values of section i, or of a kind beside them."""
        if kind == _keys.STD and self.spread is not None:
            return self.spread.std(i, genes, rows)
        values = self.slices[i].block(rows, genes)
        if kind is VALUES or self.intervals is None:
            return values
        return self.intervals.bounds(values, genes)[int(kind == _keys.UPPER)]

    def section(self, i: int, rows: NDArray[np.intp], name: str) -> Layers:
        """One of the sections, at some of its rows, with a new name."""
        spread = None if self.spread is None else self.spread.section(i, rows)
        return replace(self, names=[name], slices=(self.slices[i].rows(rows),), spread=spread)

    def _by_genes(self) -> Layers:
        """The same with sparse bases stored by genes, of which blocks take few."""
        ends = () if self.spread is None else self.spread.ends
        bases = {id(section.basis): section.basis for section in (*self.slices, *ends)}
        stored = {key: sp.csc_array(basis) if sp.issparse(basis) else basis for key, basis in bases.items()}
        slices, spread = tuple(replace(s, basis=stored[id(s.basis)]) for s in self.slices), self.spread
        if spread is not None:
            from_a, from_b = (replace(end, basis=stored[id(end.basis)]) for end in ends)
            spread = replace(spread, ends=(from_a, from_b), calibration=None)
        return replace(self, slices=slices, spread=spread)

    def lazily(self, *, by_rows: bool = False) -> dict[str, da.Array]:
        """All layers by name, (M, N) float32: section after section, each followed by the kinds beside its values.

        Chunks are tall, for looking at a gene; or some rows of all genes, as they lie side by side in memory.
        """
        # One task that gives the factors, and not a copy in each of the tasks that take them.
        shared = dask.delayed(self if by_rows else self._by_genes(), pure=False, traverse=False)
        chunks = rows_of(self.shape) if by_rows else chunks_of(self.shape)
        return {
            _keys.layer_of(name, kind) if kind else name: _blockwise(
                _block, shared, i, kind, shape=self.shape, chunks=chunks
            )
            for i, name in enumerate(self.names)
            for kind in (VALUES, *self.kinds())
        }


def _blockwise(function: Callable[..., Any], *given: Any, shape: tuple[int, int], chunks: Any) -> da.Array:
    """(M, N) float32 values of a function of blocks."""
    chunks = da.core.normalize_chunks(chunks, shape)
    return da.map_blocks(function, *given, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))


def _block(layers: Layers, i: int, kind: str | None, block_info: Any = None) -> NDArray[np.float32]:
    (first, last), (start, stop) = block_info[None]["array-location"]
    return layers.block(i, kind, slice(first, last), slice(start, stop))


def chunks_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and genes of a 4 MB chunk for looking at a gene in all rows."""
    rows = max(min(shape[0], CHUNK_ROWS), 1)
    return rows, max(min(shape[1], max(CHUNK_VALUES // rows, LEAST_GENES)), 1)


def rows_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and genes of a 4 MB chunk of some rows of all genes."""
    return max(CHUNK_VALUES // max(shape[1], 1), 1), shape[1]


# ---- values of measured sections


def spot_of_each(section: Section, frame: AnnData, name: str) -> NDArray[np.intp]:
    """(M,) the spot of a measured section nearest to each row of a result; -1 outside of the section's tissue."""
    tissue = frame.obs[_keys.tissue(name)].to_numpy(dtype=bool)
    return np.where(tissue, nearest(section.xy, np.asarray(frame.obsm[_keys.SPATIAL])), -1)


def rows_lazily(expression: Expression, spot: NDArray[np.intp]) -> da.Array:
    """(M, N) dense rows of a matrix by their number, NaN where that is -1."""
    shape = (len(spot), expression.shape[1])
    shared = dask.delayed(expression, pure=False, traverse=False)
    return _blockwise(_measured_block, shared, spot, shape=shape, chunks=rows_of(shape))


def _measured_block(expression: Expression, spot: NDArray[np.intp], block_info: Any = None) -> NDArray[np.float32]:
    (first, last), (_, n_genes) = block_info[None]["array-location"]
    here = spot[first:last]
    found = np.full((len(here), n_genes), np.nan, dtype=np.float32)
    found[here >= 0] = expression[here[here >= 0]].toarray()
    return found


def densely(sparse: da.Array) -> da.Array:
    """(M, N) values of a lazy array of sparse blocks of rows, some genes at a time: a look at one makes few dense."""
    parts = []
    for first in range(0, sparse.shape[1], GENES):
        genes = slice(first, min(first + GENES, sparse.shape[1]))
        n = genes.stop - first
        chunks = (sparse.chunks[0], (n,))
        parts.append(_blockwise(_dense, sparse, genes, shape=(sparse.shape[0], n), chunks=chunks))
    return da.concatenate(parts, axis=1)


def _dense(rows: sp.csr_array, genes: slice) -> NDArray[np.float32]:
    return rows[:, genes].toarray()


# ---- values of a stack, whose sections have rows of their own: spots of measured ones, bins of interpolated ones

# The layers of one interpolated section; or the expression of measured spots, in memory or as sparse blocks of rows.
StackPart: TypeAlias = Layers | Expression | da.Array


def values_lazily(
    stack: Sequence[StackPart], n_genes: int, kinds: Sequence[str], *, by_rows: bool = False
) -> dict[str | None, da.Array]:
    """(M, N) values of all sections, and kinds beside those of the interpolated ones, NaN where measured."""
    found: dict[str | None, list[da.Array]] = {kind: [] for kind in (VALUES, *kinds)}
    for part in stack:
        if isinstance(part, Layers):
            for parts, values in zip(found.values(), part.lazily(by_rows=by_rows).values(), strict=True):
                parts.append(values)
            continue
        measured = densely(part) if isinstance(part, da.Array) else rows_lazily(part, np.arange(part.shape[0]))
        found[VALUES].append(measured)
        for kind in kinds:
            found[kind].append(da.full(measured.shape, np.nan, dtype=np.float32, chunks=(8192, n_genes)))
    return {kind: da.concatenate(parts) for kind, parts in found.items()}


def add_stack_confidence(
    frame: AnnData, stack: Sequence[StackPart], values: Mapping[str | None, Any], n_threads: int
) -> None:
    """Write the confidence of each bin of a stack into `obs`, NaN where measured; none without standard deviations."""
    if _keys.STD not in values or not any(isinstance(part, Layers) for part in stack):
        return
    parts, last = [], 0
    for part in stack:
        first, last = last, last + part.shape[0]
        every = np.full(part.shape[0], isinstance(part, Layers))
        rows = slice(first, last)
        sure = confidence(values[VALUES][rows], values[_keys.STD][rows], every) if every.any() else every * np.nan
        parts.append(sure)
    frame.obs[_keys.CONFIDENCE] = np.concatenate(compute(parts, n_threads=n_threads))


# ---- factors into AnnData


def put(adata: AnnData, layers: Layers, key: str) -> None:
    """Write the factors of a pair's layers into `obsm` and `varm`, and their description into ``uns[key]``."""
    record = put_loadings(adata, layers, key)
    for i, name in enumerate(layers.names):
        for kind, weights in weights_of(layers, i).items():
            adata.obsm[f"{key if kind.startswith(FROM) else name}_{kind}"] = weights
    adata.obs[f"{key}_{FACTORS}"] = pd.Categorical([record["loadings"]] * adata.n_obs)
    adata.uns[key][FACTORS] = {"version": VERSION, "tolerance": TOLERANCE, **record}


def weights_of(layers: Layers, i: int) -> dict[str, Any]:
    """(M, K) factors of section i, (M, R) of its noise, and (M, K) right beside either measured section, by kind."""
    found = {FACTORS: layers.slices[i].weights}
    if layers.spread is not None:
        if layers.spread.noise is not None:
            found[NOISE] = layers.spread.noise[0][i]
        for end, section in zip((FROM_A, FROM_B), layers.spread.ends, strict=True):
            found[f"{end}_{FACTORS}"] = section.weights
    return {kind: _stored(weights) for kind, weights in found.items()}


def put_loadings(adata: AnnData, layers: Layers, key: str, suffix: str = "") -> dict[str, Any]:
    """Write what all rows of some layers share into `varm`; returns its description."""
    basis, spread = layers.slices[0].basis, layers.spread
    values = basis.data if sp.issparse(basis) else np.ascontiguousarray(basis)
    record: dict[str, Any] = {"loadings": sha256(values.tobytes()).hexdigest()[:16]}
    matrices = {LOADINGS: basis}
    if spread is not None:
        record["std"] = True
        matrices |= {f"{FROM}_{LOADINGS}": spread.ends[0].basis, APART: spread.disagreement[None]}
        if spread.noise is not None:
            matrices[f"{NOISE}_{LOADINGS}"] = spread.noise[1]
    if layers.intervals is not None:
        record["knots"], _, n_genes = layers.intervals.knots.shape
        matrices[KNOTS] = layers.intervals.knots.reshape(-1, n_genes)
    for name, matrix in matrices.items():
        adata.varm[f"{key}_{name}{suffix}"] = _stored(matrix.T)
    return record


def _stored(matrix: Any) -> Any:
    return sp.csr_matrix(matrix) if sp.issparse(matrix) else np.ascontiguousarray(matrix, dtype=np.float32)


# ---- and from AnnData


def layers_of(
    adata: AnnData,
    key: str,
    record: Mapping[str, Any],
    names: Sequence[str],
    positions: Sequence[float],
    *,
    prefixes: Sequence[str],
    rows: NDArray[np.intp] | slice = slice(None),
    suffix: str = "",
) -> Layers:
    """Layers of sections that share loadings, by what :func:`put_loadings` returned.

    `prefixes` are those of each section's matrices in `obsm`, of which it has the `rows`; `suffix` is that of the
    loadings in `varm`. KeyError or ValueError where the factors are incomplete or do not fit.
    """
    _check_rows(adata, key, str(record["loadings"]), rows, suffix)
    nothing = np.zeros(adata.n_vars, dtype=np.float32)

    def shared(name: str) -> Any:
        return _part(adata, "varm", f"{key}_{name}{suffix}").T

    def section(prefix: str, basis: Any) -> InterpolatedSection:
        weights = _part(adata, "obsm", f"{prefix}_{FACTORS}")[rows][:, : basis.shape[0]]
        return InterpolatedSection(weights, basis, nothing)

    basis = shared(LOADINGS)
    slices = tuple(section(prefix, basis) for prefix in prefixes)
    spread = intervals = None
    if record.get("std", False):
        noise = None
        if f"{key}_{NOISE}_{LOADINGS}{suffix}" in adata.varm:
            variances = shared(f"{NOISE}_{LOADINGS}")
            of_each = [_part(adata, "obsm", f"{prefix}_{NOISE}")[rows][:, : len(variances)] for prefix in prefixes]
            weights = np.stack(of_each)
            noise = Noise(lambda: weights, lambda: variances)
        beside = shared(f"{FROM}_{LOADINGS}")
        ends = (section(f"{key}_{FROM_A}", beside), section(f"{key}_{FROM_B}", beside))
        _result.check_parts(adata, obs=[_keys.SUPPORT])
        support = adata.obs[_keys.SUPPORT].astype(str).to_numpy()[rows]
        covered = np.stack([np.isin(support, ["both", side]) for side in "ab"])
        spread = Spread(Prediction(slices, noise=noise), list(positions), ends, None, covered, shared(APART)[0])
    if "knots" in record:
        intervals = Intervals(np.ascontiguousarray(shared(KNOTS)).reshape(int(record["knots"]), 3, adata.n_vars))
    return Layers(names, slices, spread, intervals)


def _check_rows(adata: AnnData, key: str, loadings: str, rows: NDArray[np.intp] | slice, suffix: str) -> None:
    """Refuse rows whose factors belong to the loadings of another result."""
    column = f"{key}_{FACTORS}"
    _result.check_parts(adata, obs=[column])
    own = adata.obs[column].astype(str).to_numpy()[rows]
    others = int((own != loadings).sum())
    if others:
        raise ValueError(
            f"{others} of {len(own)} rows of obs[{column!r}] belong to the loadings of another result, and "
            f"varm[{f'{key}_{LOADINGS}{suffix}'!r}] to this one; expand each by c2sti.tl.materialize before they are "
            "put together"
        )


def _part(adata: AnnData, where: str, name: str) -> Any:
    """One of the matrices; KeyError if it is missing."""
    held = getattr(adata, where)
    if name not in held:
        lost = "; anndata.concat keeps varm only with merge=" if where == "varm" else ""
        raise KeyError(f"{where}[{name!r}] is missing from the result, which has {sorted(held)}{lost}; {_result.AGAIN}")
    found = held[name]
    return sp.csr_array(found) if sp.issparse(found) else np.asarray(found)


def without_factors(adata: AnnData, key: str) -> AnnData:
    """The result with its layers alone."""
    record = _result.record_of(adata, key)
    kinds = [FACTORS, NOISE, f"{FROM_A}_{FACTORS}", f"{FROM_B}_{FACTORS}"]
    weights = {f"{prefix}_{kind}" for prefix in (key, *map(str, record["inserted"])) for kind in kinds}
    shared = "|".join([LOADINGS, f"{FROM}_{LOADINGS}", f"{NOISE}_{LOADINGS}", APART, KNOTS])
    loadings = re.compile(rf"{re.escape(key)}_({shared})(_\d+)?")
    return AnnData(
        X=adata.X,
        obs=adata.obs.drop(columns=f"{key}_{FACTORS}", errors="ignore"),
        var=adata.var,
        layers=dict(adata.layers),
        obsm={name: values for name, values in adata.obsm.items() if name not in weights},
        varm={name: values for name, values in adata.varm.items() if not loadings.fullmatch(name)},
        varp=dict(adata.varp),
        obsp=dict(adata.obsp),
        uns={**adata.uns, key: {name: value for name, value in record.items() if name != FACTORS}},
    )


# ---- computed


def store(
    arrays: Sequence[da.Array],
    targets: Sequence[Any],
    *,
    n_threads: int,
    progress: Callable[[float], object] = lambda share: None,
) -> None:
    """Write arrays into others, numpy's or zarr's of the same chunks, by threads or on the caller's cluster."""
    writing = da.store(list(arrays), list(targets), lock=False, compute=False)
    compute([writing], n_threads=n_threads, progress=progress)


def filled(lazy: Mapping[Any, da.Array], n_threads: int) -> dict[Any, NDArray[np.float32]]:
    """The values of lazy arrays, in memory."""
    dense = {name: np.empty(values.shape, dtype=np.float32) for name, values in lazy.items()}
    store(list(lazy.values()), list(dense.values()), n_threads=n_threads)
    return dense


def confidence(values: Any, std: Any, inside: NDArray[np.bool_]) -> Any:
    """(M,) share of the variance between the bins of a section that is not uncertainty: V / (V + std² of the bin).

    V is the variance of the (M, N) values over the section's bins; both are summed over genes. 1 where nothing is
    uncertain, ½ where a bin is as uncertain as bins differ; 0 where no bin differs from another.
    """
    known = values[np.flatnonzero(inside)].var(axis=0, dtype=np.float64).sum() if inside.any() else 0.0
    uncertain = np.square(std, dtype=np.float64).sum(axis=1)
    return known / np.maximum(known + uncertain, np.finfo(np.float64).tiny)
