"""Factors of a prediction ↔ AnnData, where principal components have theirs: `obsm` and `varm`.

A section is ``np.maximum(obsm["c2sti_1_factors"] @ varm["c2sti_loadings"].T, 0)``. Whatever takes rows or genes out of
an AnnData takes them out of its factors as well. Each row says in `obs` which loadings its factors belong to, so that
rows of several results, put together by another tool, are not expanded by the loadings of one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _result
from c2sti._types import InterpolatedSection, Noise, Prediction
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
