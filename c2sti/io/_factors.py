"""Factors of a prediction in AnnData, where principal components are kept, and the layers made from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from typing import Any
from uuid import uuid4

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
from c2sti._types import FloatArray, InterpolatedSection, Noise, Prediction, Section
from c2sti.factors import TOLERANCE
from c2sti.ops import nearest
from c2sti.uncertainty import Intervals, Spread

VERSION = 1
FACTORS, LOADINGS, NOISE = "factors", "loadings", "noise"
FROM, FROM_A, FROM_B = (
    "from",
    "from_a",
    "from_b",
)  # sections right beside the measured ones, by which standard deviations are told
APART, KNOTS = "disagreement", "intervals"


def put(adata: AnnData, layers: Layers, key: str) -> None:
    """Write the factors of all layers of a pair into `obsm` and `varm`, and what they are into ``uns[key]``."""
    told = put_loadings(adata, layers, key)
    for i, name in enumerate(layers.names):
        for kind, weights in weights_of(layers, i).items():
            adata.obsm[f"{name}_{kind}"] = weights
    for kind, weights in ends_of(layers).items():
        adata.obsm[f"{key}_{kind}"] = weights
    adata.obs[f"{key}_{FACTORS}"] = pd.Categorical([told["loadings"]] * adata.n_obs)
    adata.uns[key][FACTORS] = {"version": VERSION, "tolerance": TOLERANCE, **told}


def weights_of(layers: Layers, i: int) -> dict[str, Any]:
    """(M, K) factors of section i, and (M, R) of its noise."""
    found = {FACTORS: _stored(layers.slices[i].weights)}
    if layers.spread is not None and layers.spread.noise is not None:
        found[NOISE] = _stored(layers.spread.noise[0][i])
    return found


def ends_of(layers: Layers) -> dict[str, Any]:
    """(M, K) factors right beside either measured section."""
    ends = () if layers.spread is None else zip((FROM_A, FROM_B), layers.spread.ends, strict=True)
    return {f"{end}_{FACTORS}": _stored(section.weights) for end, section in ends}


def put_loadings(adata: AnnData, layers: Layers, key: str, suffix: str = "") -> dict[str, Any]:
    """Write what all rows of some layers share into `varm`; gives back what they are."""
    basis = layers.slices[0].basis
    matrices = {LOADINGS: basis}
    told: dict[str, Any] = {"loadings": _fingerprint(basis)}
    spread = layers.spread
    if spread is not None:
        told["std"] = True
        matrices |= {f"{FROM}_{LOADINGS}": spread.ends[0].basis, APART: spread.disagreement[None]}
        if spread.noise is not None:
            matrices[f"{NOISE}_{LOADINGS}"] = spread.noise[1]
    if layers.intervals is not None:
        told["knots"], _, n_genes = layers.intervals.knots.shape
        matrices[KNOTS] = layers.intervals.knots.reshape(-1, n_genes)
    for name, matrix in matrices.items():
        adata.varm[f"{key}_{name}{suffix}"] = _stored(matrix.T)
    return told


def _stored(matrix: Any) -> Any:
    return sp.csr_matrix(matrix) if sp.issparse(matrix) else np.ascontiguousarray(matrix, dtype=np.float32)


def _fingerprint(basis: Any) -> str:
    values = basis.data if sp.issparse(basis) else np.ascontiguousarray(basis)
    return sha256(values.tobytes()).hexdigest()[:16]


def take(adata: AnnData, key: str) -> Layers:
    """The layers that the factors of a pair make.

    Raises
    ------
    KeyError
        Some of them are not there any more.
    ValueError
        They are of another version of c2sti, or rows of other results are among these.
    """
    record = _result.record_of(adata, key)
    told: Mapping[str, Any] = record[FACTORS]
    check_version(told, key)
    names = [str(name) for name in record["inserted"]]
    positions = np.asarray(record["positions"], dtype=float)[1:-1].tolist()
    return layers_of(adata, key, told, names, positions, prefixes=names)


def check_version(told: Mapping[str, Any], key: str) -> None:
    """Refuse factors of another version."""
    if int(told.get("version", 0)) != VERSION:
        raise ValueError(
            f"the factors of uns[{key!r}] are of version {told.get('version')}, and this c2sti reads {VERSION}; "
            "read them with the c2sti that wrote them, or make the result again"
        )


def layers_of(
    adata: AnnData,
    key: str,
    told: Mapping[str, Any],
    names: Sequence[str],
    positions: Sequence[float],
    *,
    prefixes: Sequence[str],
    rows: NDArray[np.intp] | slice = slice(None),
    suffix: str = "",
) -> Layers:
    """Layers of sections that share loadings.

    Parameters
    ----------
    adata, key
        The result, or a stack.
    told
        What :func:`put_loadings` gave.
    names, positions
        The sections, and where they lie between their neighbours.
    prefixes
        Of each section's matrices in `obsm`.
    rows
        Those of the sections.
    suffix
        Of the loadings in `varm`.
    """
    _check_rows(adata, key, str(told["loadings"]), rows, suffix)
    nothing = np.zeros(adata.n_vars, dtype=np.float32)

    def shared(name: str) -> Any:
        return _part(adata, "varm", f"{key}_{name}{suffix}").T

    def section(prefix: str, basis: Any) -> InterpolatedSection:
        weights = _part(adata, "obsm", f"{prefix}_{FACTORS}")[rows][:, : basis.shape[0]]
        return InterpolatedSection(weights, basis, nothing)

    basis = shared(LOADINGS)
    slices = tuple(section(prefix, basis) for prefix in prefixes)
    spread = None
    if told.get("std", False):
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
    intervals = None
    if "knots" in told:
        intervals = Intervals(np.ascontiguousarray(shared(KNOTS)).reshape(int(told["knots"]), 3, adata.n_vars))
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
    """One of the matrices.

    Raises
    ------
    KeyError
        It is not there.
    """
    held = getattr(adata, where)
    if name not in held:
        lost = "; anndata.concat keeps varm only with merge=" if where == "varm" else ""
        raise KeyError(f"{where}[{name!r}] is missing from the result, which has {sorted(held)}{lost}; {_result.AGAIN}")
    found = held[name]
    return sp.csr_array(found) if sp.issparse(found) else np.asarray(found)


def without_factors(adata: AnnData, key: str) -> AnnData:
    """The same result, with its layers alone."""
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
        uns={**adata.uns, key: {name: said for name, said in record.items() if name != FACTORS}},
    )


CHUNK_ROWS = 8192
CHUNK_VALUES = 2**20  # 4 MB
LEAST_GENES = 64
GENES = 2048  # of a sparse layer that are made dense together
READ_AT_ONCE = 256  # spots between two wanted ones that are read along rather than skipped


@dataclass(frozen=True)
class Layers:
    """What every layer of the interpolated sections is computed from, and nothing else.

    Parameters
    ----------
    names
        S names of the sections.
    slices
        S sections, on one basis.
    spread
        Uncertainty, where standard deviations are wanted.
    intervals
        Where the ends of intervals are wanted.
    """

    names: Sequence[str]
    slices: tuple[InterpolatedSection, ...]
    spread: Spread | None = None
    intervals: Intervals | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and genes, (M, N)."""
        return self.slices[0].weights.shape[0], len(self.slices[0].offset)

    @property
    def n_components(self) -> int:
        """K of dense weights; of sparse ones what takes as much room, a number and a place for each spot looked at."""
        weights: Any = self.slices[0].weights
        return -(-3 * weights.nnz // (2 * weights.shape[0])) if sp.issparse(weights) else weights.shape[1]

    def kinds(self) -> list[str]:
        """What there is of each section beside its values."""
        return [_keys.STD] * (self.spread is not None) + [_keys.LOWER, _keys.UPPER] * (self.intervals is not None)

    def block(self, i: int, kind: str | None, rows: slice, genes: slice) -> NDArray[np.float32]:
        """(m, n) values of section i, or what there is of that kind beside them."""
        if kind == _keys.STD and self.spread is not None:
            return self.spread.std(i, genes, rows)
        values = self.slices[i].block(rows, genes)
        if kind is None or self.intervals is None:
            return values
        return self.intervals.bounds(values, genes)[int(kind == _keys.UPPER)]

    def section(self, i: int, rows: NDArray[np.intp]) -> Layers:
        """One of the sections, at some of its rows."""
        spread = None if self.spread is None else self.spread.section(i, rows)
        return replace(self, names=[self.names[i]], slices=(self.slices[i].rows(rows),), spread=spread)

    def _by_genes(self) -> Layers:
        """The same with what is sparse stored by genes: blocks take few of them."""
        stored: dict[int, Any] = {}

        def changed(section: InterpolatedSection) -> InterpolatedSection:
            basis = section.basis  # shared by sections, and to stay so
            if id(basis) not in stored:
                stored[id(basis)] = sp.csc_array(basis) if sp.issparse(basis) else basis
            return replace(section, basis=stored[id(basis)])

        slices, spread = tuple(map(changed, self.slices)), self.spread
        if spread is not None:
            from_a, from_b = map(changed, spread.ends)
            spread = replace(spread, ends=(from_a, from_b), calibration=None)
        return replace(self, slices=slices, spread=spread)

    def lazily(self, *, by_rows: bool = False) -> dict[str, da.Array]:
        """All layers by name, (M, N) float32: the sections, then what is beside them.

        Chunks are tall, for looking at a gene; or some rows of all genes, as they lie side by side in memory.
        """
        # One task that gives the factors, and not a copy in each of the tasks that take them.
        shared = dask.delayed(self if by_rows else self._by_genes(), pure=False, traverse=False)
        chunks = da.core.normalize_chunks(rows_of(self.shape) if by_rows else chunks_of(self.shape), self.shape)
        made = {}
        for i, kind in product(range(len(self.names)), [None, *self.kinds()]):
            name = self.names[i] if kind is None else _keys.doubt(self.names[i], kind)
            how = {"chunks": chunks, "dtype": np.float32, "meta": np.empty((0, 0), np.float32)}
            made[name] = da.map_blocks(_block, shared, i, kind, name=f"{name}-{uuid4().hex}", **how)
        return made


def _block(layers: Layers, i: int, kind: str | None, block_info: Any = None) -> NDArray[np.float32]:
    (first, last), (start, stop) = block_info[None]["array-location"]
    return layers.block(i, kind, slice(first, last), slice(start, stop))


def chunks_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and genes of a chunk: tall, because one gene of all rows is what is looked at; 4 MB."""
    rows = max(min(shape[0], CHUNK_ROWS), 1)
    return rows, max(min(shape[1], max(CHUNK_VALUES // rows, LEAST_GENES)), 1)


def rows_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and genes of a chunk of some rows of all genes; 4 MB."""
    return max(CHUNK_VALUES // max(shape[1], 1), 1), shape[1]


# ---- the measured sections on the rows of a result


def measured_lazily(section: Section, points: FloatArray, tissue: NDArray[np.bool_]) -> da.Array:
    """(M, N) the nearest spot's expression, NaN outside of the section's tissue.

    Not smoothed: what was measured keeps its noise. Not zero outside: nothing was measured there.
    """
    return rows_lazily(section.expression, np.where(tissue, nearest(section.xy, points), -1))


def rows_lazily(expression: Expression, spot: NDArray[np.intp]) -> da.Array:
    """(M, N) dense rows of a matrix by their number, NaN where that is -1."""
    shape = (len(spot), expression.shape[1])
    shared = dask.delayed(expression, pure=False, traverse=False)
    return da.map_blocks(
        _measured_block,
        shared,
        spot,
        chunks=da.core.normalize_chunks(rows_of(shape), shape),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
        name=f"measured-{uuid4().hex}",
    )


def _measured_block(expression: Expression, spot: NDArray[np.intp], block_info: Any = None) -> NDArray[np.float32]:
    (first, last), (_, n_genes) = block_info[None]["array-location"]
    here = spot[first:last]
    found = np.full((len(here), n_genes), np.nan, dtype=np.float32)
    found[here >= 0] = spots(expression, here[here >= 0]).toarray()
    return found


def spots(expression: Any, wanted: NDArray[np.intp]) -> sp.csr_array:
    """(m, N) rows of an expression matrix, CSR float32; of one that is not in memory, asked for by slices."""
    if sp.issparse(expression):
        return sp.csr_array(expression[wanted], dtype=np.float32)
    needed, place = np.unique(wanted, return_inverse=True)
    if len(needed) == 0:
        return sp.csr_array((0, expression.shape[1]), dtype=np.float32)
    runs = np.split(needed, np.flatnonzero(np.diff(needed) > READ_AT_ONCE) + 1)
    parts = [sp.csr_array(expression[run[0] : run[-1] + 1])[run - run[0]] for run in runs]
    return sp.csr_array(sp.vstack(parts, format="csr"), dtype=np.float32)[place.ravel()]


def densely(sparse: da.Array) -> da.Array:
    """(M, N) values of a lazy array of sparse blocks of rows.

    By some genes at a time, so that whoever looks at one does not have all of them made dense.
    """
    parts = []
    for first in range(0, sparse.shape[1], GENES):
        genes = slice(first, min(first + GENES, sparse.shape[1]))
        chunks = (sparse.chunks[0], (genes.stop - genes.start,))
        how = {"chunks": chunks, "dtype": np.float32, "meta": np.empty((0, 0), np.float32)}
        parts.append(da.map_blocks(_dense, sparse, genes, **how))
    return da.concatenate(parts, axis=1)


def _dense(rows: sp.csr_array, genes: slice) -> NDArray[np.float32]:
    return rows[:, genes].toarray()


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


def confidence(values: da.Array, std: da.Array, inside: NDArray[np.bool_]) -> da.Array:
    """(M,) share of the variance between the bins of a section that is not uncertainty: V / (V + std² of the bin).

    V is the variance of the interpolated values over the section's bins; both are summed over genes. 1 where nothing
    is uncertain, ½ where a bin is as uncertain as bins differ; 0 where no bin differs from another.

    Parameters
    ----------
    values, std
        (M, N).
    inside
        (M,) rows of the section's tissue.
    """
    known = values[np.flatnonzero(inside)].astype(np.float64).var(axis=0).sum() if inside.any() else 0.0
    uncertain = (std.astype(np.float64) ** 2).sum(axis=1)
    return known / da.maximum(known + uncertain, np.finfo(np.float64).tiny)
