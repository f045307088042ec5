"""How near is an interpolated section of single cells to the measured one? Cells have no partners: maps are compared.

Density, composition and expression are compared in square bins of `PER_BIN` cells on average, distances of neighbours
and the types of neighbours over the whole section.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import metrics
from c2sti._types import FloatArray
from c2sti.models.cells import nearest_cell, spacing

PER_BIN = 16  # cells of a bin, on average, of the measured section
LEAST = 5  # cells of a bin in both sections, from which its mean expression is compared
LEAST_OF_TYPE = 10  # measured cells of a type, from which its mean expression is compared
NEIGHBOURS, N_PERMUTATIONS = 6, 100  # of squidpy's neighbourhood enrichment
TYPE = "type"
OF_TYPES = (  # scores that need types
    "composition_tv",
    "local_composition_tv",
    "neighbourhood_pcc",
    "neighbourhood_rmse",
    "type_pcc",
    "type_rmse",
)


@dataclass(frozen=True)
class Cells:
    """Cells of one section."""

    xy: FloatArray  # (n, 2) places
    types: NDArray[np.intp] | None  # (n,) numbers of their types, −1 where unknown; None where there are none
    expression: FloatArray  # (n, N) log1p expression

    def part(self, kept: NDArray[np.bool_]) -> Cells:
        """Some of the cells."""
        return Cells(self.xy[kept], None if self.types is None else self.types[kept], self.expression[kept])


def mixture(a: Cells, b: Cells, position: float, rng: np.random.Generator) -> Cells:
    """Cells of both sections where they are, each kept with probability 1 − p or p: what a method has to beat."""
    first, second = a.part(rng.random(len(a.xy)) >= position), b.part(rng.random(len(b.xy)) < position)
    types = None if first.types is None or second.types is None else np.concatenate([first.types, second.types])
    return Cells(np.concatenate([first.xy, second.xy]), types, np.concatenate([first.expression, second.expression]))


def cell_scores(predicted: Cells, measured: Cells, seed: int = 0) -> dict[str, float]:
    """Scores of predicted cells; the columns are described in :func:`c2sti.tl.evaluate`."""
    from scipy.stats import wasserstein_distance  # noqa: PLC0415 - slow to import

    nearest = nearest_cell(predicted.xy), nearest_cell(measured.xy)
    bins = _bins([predicted.xy, measured.xy], np.sqrt(PER_BIN) * spacing(measured.xy))
    density = [operator.sum(axis=1) for operator in bins]
    any_cell = np.add(*density) > 0
    p, m = (found[any_cell] for found in density)
    scores = {
        "n_cells": len(predicted.xy),
        "density_rmse": float(np.sqrt(np.square(p - m).mean()) / m.mean()),
        "density_pcc": metrics.pcc(p[:, None], m[:, None]),
        # Of the distances to nearest neighbours, by the mean of the measured ones.
        "spacing": float(wasserstein_distance(*nearest) / nearest[1].mean()),
        **dict.fromkeys(OF_TYPES, float("nan")),
        **_local_expression(predicted, measured, bins),
    }
    if predicted.types is not None and measured.types is not None:
        scores |= _composition(predicted.types, measured.types, bins)
        scores |= _neighbourhoods(predicted, measured, seed)
        scores |= _expression_of_types(predicted, measured)
    return scores


def _bins(places: list[FloatArray], side: float) -> list[sp.csr_array]:
    """(B, n) 0/1 matrix of the cells of each section in bins of a side."""
    first = np.min([xy.min(axis=0) for xy in places], axis=0)
    index = [np.floor((xy - first) / side).astype(np.intp) for xy in places]
    columns, rows = np.max([i.max(axis=0) for i in index], axis=0) + 1
    flat = [i @ [1, columns] for i in index]
    return [sp.csr_array((np.ones(len(i)), (i, np.arange(len(i)))), shape=(columns * rows, len(i))) for i in flat]


def _local_expression(predicted: Cells, measured: Cells, bins: list[sp.csr_array]) -> dict[str, float]:
    """Mean expression of bins: PCC over bins, mean over genes; and RMSE."""
    numbers = [operator.sum(axis=1) for operator in bins]
    full = np.min(numbers, axis=0) >= LEAST
    if full.sum() < 2:
        return {"local_pcc": float("nan"), "local_rmse": float("nan")}
    p, m = (
        (operator @ cells.expression)[full] / n[full, None]
        for operator, cells, n in zip(bins, (predicted, measured), numbers, strict=True)
    )
    return {"local_pcc": metrics.pcc(p, m), "local_rmse": metrics.rmse(p, m)}


def _composition(predicted: NDArray[np.intp], measured: NDArray[np.intp], bins: list[sp.csr_array]) -> dict[str, float]:
    """Total variation of the shares of types: of the whole sections, and of bins, by their measured cells."""
    n_types = int(max(predicted.max(), measured.max())) + 2  # the first is what is unknown
    of_each = [np.eye(n_types)[types + 1] for types in (predicted, measured)]
    p, m = (operator @ types for operator, types in zip(bins, of_each, strict=True))
    both = (p.sum(axis=1) > 0) & (m.sum(axis=1) > 0)
    local = _total_variation(p[both], m[both])
    return {
        "composition_tv": float(_total_variation(p.sum(axis=0)[None], m.sum(axis=0)[None])[0]),
        "local_composition_tv": float(np.average(local, weights=m[both].sum(axis=1))),
    }


def _total_variation(p: FloatArray, m: FloatArray) -> FloatArray:
    """(B,) total variation of the shares of numbers (B, T)."""
    return np.abs(p / p.sum(axis=1, keepdims=True) - m / m.sum(axis=1, keepdims=True)).sum(axis=1) / 2


def _neighbourhoods(predicted: Cells, measured: Cells, seed: int) -> dict[str, float]:
    """PCC and RMSE of squidpy's z-scores of neighbourhood enrichment, over pairs of types that both sections have."""
    p, m = _enrichment(predicted, seed), _enrichment(measured, seed)
    shared = p.index.intersection(m.index)
    first, second = (np.nan_to_num(z.loc[shared, shared].to_numpy().ravel()[:, None]) for z in (p, m))
    if len(shared) < 2:
        return {}
    return {"neighbourhood_pcc": metrics.pcc(first, second), "neighbourhood_rmse": metrics.rmse(first, second)}


def _enrichment(cells: Cells, seed: int) -> pd.DataFrame:
    """(T, T) z-scores by type; empty where there are fewer than two types."""
    assert cells.types is not None
    known = cells.types >= 0
    names = pd.Categorical(cells.types[known].astype(str))
    if len(names.categories) < 2:
        return pd.DataFrame()
    import squidpy as sq  # noqa: PLC0415 - takes seconds to import

    n, xy = int(known.sum()), cells.xy[known]
    neighbours = KDTree(xy).query(xy, k=NEIGHBOURS + 1)[1][:, 1:].ravel()
    graph = sp.csr_matrix((np.ones(len(neighbours)), neighbours, np.arange(n + 1) * NEIGHBOURS), shape=(n, n))
    obs = pd.DataFrame({TYPE: names}, index=pd.RangeIndex(n).astype(str))
    adata = AnnData(obs=obs, obsp={"spatial_connectivities": graph})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of squidpy and what it is built on
        found = sq.gr.nhood_enrichment(
            adata, TYPE, n_perms=N_PERMUTATIONS, seed=seed, n_jobs=1, copy=True, show_progress_bar=False
        )
    return pd.DataFrame(np.asarray(found[0]), index=names.categories, columns=names.categories)


def _expression_of_types(predicted: Cells, measured: Cells) -> dict[str, float]:
    """Mean expression of each type: PCC over types, mean over genes; and RMSE."""
    assert predicted.types is not None
    assert measured.types is not None
    codes, n = np.unique(measured.types[measured.types >= 0], return_counts=True)
    codes = np.intersect1d(codes[n >= LEAST_OF_TYPE], predicted.types)
    if len(codes) < 2:
        return {}
    p, m = (np.stack([c.expression[c.types == code].mean(axis=0) for code in codes]) for c in (predicted, measured))
    return {"type_pcc": metrics.pcc(p, m), "type_rmse": metrics.rmse(p, m)}
