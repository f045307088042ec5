"""Factors of a prediction ↔ AnnData, where principal components have theirs: `obsm` and `varm`.

A section is ``np.maximum(obsm["c2sti_1_factors"] @ varm["c2sti_loadings"].T, 0)``. Whatever takes rows or genes out of
an AnnData takes them out of its factors as well. Each row says in `obs` which loadings its factors belong to, so that
rows of several results, put together by another tool, are not expanded by the loadings of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from c2sti import _check, _keys, _result
from c2sti._types import InsertedSection, Noise, Prediction
from c2sti.factors import TOLERANCE
from c2sti.grid._layers import Layers
from c2sti.spread import Intervals, Spread

VERSION = 1
FACTORS, LOADINGS, NOISE = "factors", "loadings", "noise"
FROM, FROM_A, FROM_B = (
    "from",
    "from_a",
    "from_b",
)  # sections right beside the measured ones, by which standard deviations are told
APART, KNOTS = "disagreement", "intervals"


def put(adata: AnnData, layers: Layers, key: str) -> None:
    """Write the factors of all layers into `obsm` and `varm`, and what they are into ``uns[key]``."""
    basis = layers.slices[0].basis
    _put_genes(adata, f"{key}_{LOADINGS}", basis)
    for name, section in zip(layers.names, layers.slices, strict=True):
        _put_rows(adata, _keys.annotation(name, FACTORS), section.weights)
    record: dict[str, Any] = {"version": VERSION, "tolerance": TOLERANCE, "loadings": _fingerprint(basis)}
    spread = layers.spread
    if spread is not None:
        record["std"] = True
        _put_genes(adata, f"{key}_{FROM}_{LOADINGS}", spread.ends[0].basis)
        for end, section in zip((FROM_A, FROM_B), spread.ends, strict=True):
            _put_rows(adata, f"{key}_{end}_{FACTORS}", section.weights)
        _put_genes(adata, f"{key}_{APART}", spread.disagreement[None])
        if spread.noise is not None:
            weights, variances = spread.noise
            _put_genes(adata, f"{key}_{NOISE}_{LOADINGS}", variances)
            for name, own in zip(layers.names, weights, strict=True):
                _put_rows(adata, _keys.annotation(name, NOISE), own)
    if layers.intervals is not None:
        n_knots, _, n_genes = layers.intervals.knots.shape
        record["knots"] = n_knots
        _put_genes(adata, f"{key}_{KNOTS}", layers.intervals.knots.reshape(3 * n_knots, n_genes))
    adata.uns[key][FACTORS] = record
    adata.obs[f"{key}_{FACTORS}"] = pd.Categorical([record["loadings"]] * adata.n_obs)


def _put_rows(adata: AnnData, name: str, weights: Any) -> None:
    adata.obsm[name] = sp.csr_matrix(weights) if sp.issparse(weights) else np.asarray(weights, dtype=np.float32)


def _put_genes(adata: AnnData, name: str, basis: Any) -> None:
    """A (K, N) matrix as (N, K)."""
    dense = None if sp.issparse(basis) else np.ascontiguousarray(np.asarray(basis, dtype=np.float32).T)
    adata.varm[name] = sp.csr_matrix(basis.T) if dense is None else dense


def _fingerprint(basis: Any) -> str:
    values = basis.data if sp.issparse(basis) else np.ascontiguousarray(basis)
    return sha256(values.tobytes()).hexdigest()[:16]


def has_factors(adata: AnnData, key: str) -> bool:
    """Whether the sections of a result are in it as factors."""
    return FACTORS in _result.record_of(adata, key)


def take(adata: AnnData, key: str) -> Layers:
    """The layers that the factors of a result make.

    Raises
    ------
    KeyError
        Some of them are not there any more.
    ValueError
        They are of another version of c2sti, or rows of other results are among these.
    """
    record = _result.record_of(adata, key)
    told: Mapping[str, Any] = record[FACTORS]
    if int(told.get("version", 0)) != VERSION:
        raise ValueError(
            f"the factors of uns[{key!r}] are of version {told.get('version')}, and this c2sti reads {VERSION}; "
            "read them with the c2sti that wrote them, or make the result again"
        )
    _check_rows(adata, key, str(told["loadings"]))
    names = [str(name) for name in record["inserted"]]
    basis = _part(adata, "varm", f"{key}_{LOADINGS}").T
    nothing = np.zeros(adata.n_vars, dtype=np.float32)

    def section(name: str, basis: Any) -> InsertedSection:
        return InsertedSection(_part(adata, "obsm", f"{name}_{FACTORS}"), basis, nothing)

    slices = tuple(section(name, basis) for name in names)
    spread = None
    if told.get("std", False):
        noise = None
        if f"{key}_{NOISE}_{LOADINGS}" in adata.varm:
            weights = np.stack([_part(adata, "obsm", _keys.annotation(name, NOISE)) for name in names])
            variances = _part(adata, "varm", f"{key}_{NOISE}_{LOADINGS}").T
            noise = Noise(lambda: weights, lambda: variances)
        beside = _part(adata, "varm", f"{key}_{FROM}_{LOADINGS}").T
        ends = (section(f"{key}_{FROM_A}", beside), section(f"{key}_{FROM_B}", beside))
        tissue = [_keys.tissue(name) for name in (_keys.SLICE_A, _keys.SLICE_B)]
        _result.check_parts(adata, obs=tissue)
        covered = np.stack([adata.obs[column].to_numpy(dtype=bool) for column in tissue])
        positions = np.asarray(record["positions"], dtype=float)[1:-1].tolist()
        apart = _part(adata, "varm", f"{key}_{APART}")[:, 0]
        spread = Spread(Prediction(slices, noise=noise), positions, ends, None, covered, apart)
    intervals = None
    if "knots" in told:
        knots = _part(adata, "varm", f"{key}_{KNOTS}")
        intervals = Intervals(np.ascontiguousarray(knots.T).reshape(int(told["knots"]), 3, adata.n_vars))
    return Layers(names, slices, spread, intervals)


def _check_rows(adata: AnnData, key: str, loadings: str) -> None:
    """Refuse rows whose factors belong to the loadings of another result."""
    column = f"{key}_{FACTORS}"
    _result.check_parts(adata, obs=[column])
    others = adata.obs[column].astype(str) != loadings
    if others.any():
        raise ValueError(
            f"{int(others.sum())} of {adata.n_obs} rows of obs[{column!r}] belong to the loadings of another result, "
            f"and varm[{f'{key}_{LOADINGS}'!r}] to this one; expand each by c2sti.tl.materialize before they are put "
            "together"
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
    names = [*map(str, record["inserted"]), f"{key}_{FROM_A}", f"{key}_{FROM_B}"]
    for name in names:
        for kind in (FACTORS, NOISE):
            adata.obsm.pop(_keys.annotation(name, kind), None)
    for kind in (LOADINGS, f"{FROM}_{LOADINGS}", f"{NOISE}_{LOADINGS}", APART, KNOTS):
        adata.varm.pop(f"{key}_{kind}", None)
    adata.uns[key] = {name: said for name, said in record.items() if name != FACTORS}
    adata.obs = adata.obs.drop(columns=f"{key}_{FACTORS}", errors="ignore")
    return adata


def completed(adata: AnnData) -> AnnData:
    """The same, with the layers of each result whose factors it holds."""
    for key, record in adata.uns.items():
        if isinstance(record, Mapping) and FACTORS in record:
            adata = with_layers(adata, key)
    return adata


def with_layers(adata: AnnData, key: str) -> AnnData:
    """The same result with its layers, made from its factors when somebody looks at them."""
    record = _result.record_of(adata, key)
    layers: dict[str, Any] = dict(adata.layers) | (take(adata, key).lazily() if has_factors(adata, key) else {})
    names = [str(name) for name in record["sections"]]
    for name in (names[0], names[-1]):
        if name in layers:
            layers[name] = dense_measured(layers[name], adata.obs[_keys.tissue(name)].to_numpy(dtype=bool))
    order = [*(name for name in names if name in layers), *(name for name in layers if name not in names)]
    inserted = [str(name) for name in record["inserted"]]
    rest = {part: dict(getattr(adata, part)) for part in ("obsm", "varm", "obsp", "varp", "uns")}
    return AnnData(
        X=layers[inserted[(len(inserted) - 1) // 2]],
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        layers={name: layers[name] for name in order},
        **rest,
    )


def dense_measured(values: Any, tissue: Any) -> Any:
    """(M, N) dense, lazily: rows of a CSR matrix, NaN where there is no tissue; what is dense already as it is."""
    import dask.array as da  # noqa: PLC0415

    if sp.issparse(values):
        values = da.from_array(values, chunks=(2048, values.shape[1]), asarray=False, name=False)
    if not sp.issparse(getattr(values, "_meta", None)):
        return values
    inside = da.from_array(tissue[:, None], chunks=(values.chunks[0], 1))
    dense = values.map_blocks(lambda block: block.toarray(), dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return da.where(inside, dense, np.float32(np.nan))


def read_zarr(path: str | Path, *, key: str = _keys.RESULT) -> AnnData:
    """A result that :func:`c2sti.tl.interpolate` wrote with ``out=``, its layers made when somebody looks at them.

    Parameters
    ----------
    path
        The store.
    key
        The `key_added` that it was made with.

    Returns
    -------
    AnnData as :func:`c2sti.tl.interpolate` returns it. Layers, and `X`, are arrays of dask; all the rest is in memory.
    :func:`c2sti.tl.materialize` brings layers, or some of their genes, into memory.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no zarr store at the path, or it cannot be read.
    KeyError
        It is no result, or parts of it are missing.

    Examples
    --------
    >>> import c2sti, tempfile
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = c2sti.tl.interpolate(a, b, out=f"{folder}/sections.zarr", show_progress_bar=False)
    ...     out = c2sti.read_zarr(f"{folder}/sections.zarr")
    ...     out[:, "gene_001"].to_memory().layers["c2sti_1"].shape == (out.n_obs, 1)
    True
    """
    import zarr  # noqa: PLC0415
    from anndata.experimental import read_elem_lazy  # noqa: PLC0415
    from anndata.io import read_elem  # noqa: PLC0415

    path = _check.path(path, "path")
    if not path.is_dir():
        raise FileNotFoundError(f"there is no zarr store {path}")
    try:
        store = zarr.open_group(str(path), mode="r")
        small = ("obs", "var", "obsm", "varm", "varp", "uns")
        parts: dict[str, Any] = {name: read_elem(store[name]) for name in small if name in store}
        on_disk: Any = store["layers"] if "layers" in store else {}
        layers = {name: read_elem_lazy(on_disk[name]) for name in on_disk}
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} is no store that c2sti wrote, or it is cut off ({error}); make it again") from error
    return with_layers(AnnData(layers=layers, **parts), key)
