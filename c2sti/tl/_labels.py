"""Labels and numbers of the spots, carried into inserted sections: as far as tissue moves, they move with it.

What is known near the place where a bin's material lies in either section is averaged by a Gaussian, as
:func:`c2sti.baselines.naive.linear` averages expression, and the two answers are blended 1 - p : p. Of labels that
gives probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _log, grid
from c2sti._types import FloatArray, Lattice
from c2sti.baselines.naive import WIDTH
from c2sti.ops import gaussian_operator

NEAR = 2.0  # spot spacings: what is known farther away says nothing of a bin
GREY = "#bbbbbb"
DECIMALS = 6  # of probabilities that are compared: rounding must not choose between equal ones


def shared_labels(grids: Sequence[grid.SliceGrid]) -> dict[str, pd.CategoricalDtype | None]:
    """By key, the labels that an annotation of some sections may have; None where it holds numbers.

    Raises
    ------
    ValueError
        An annotation is a label in one section and a number in another.
    """
    keys = list(grids[0].annotations.columns)
    for key in keys:
        _check_kind(key, grids)
    return {key: _categories(key, grids) if grid.is_labels(grids[0].annotations.columns[key]) else None for key in keys}


def carry(
    out: AnnData,
    a: grid.SliceGrid,
    b: grid.SliceGrid,
    labels: Mapping[str, pd.CategoricalDtype | None],
    *,
    displacement: Sequence[FloatArray] | None,
    lattice: Lattice,
    spacing: float,
    key_added: str,
) -> None:
    """Write the annotations of two sections, and of those inserted between them, into a result.

    Parameters
    ----------
    out
        Made by :func:`c2sti.grid.write_slices`.
    a, b
        The sections as they were read.
    labels
        What :func:`shared_labels` says of them.
    displacement
        Field of each inserted section, see :func:`c2sti.grid.material_places`; None where nothing moves.
    lattice, spacing
        Of the pair.
    key_added
        As in :func:`interpolate`.
    """
    if not labels:
        return
    record, points = out.uns[key_added], np.asarray(out.obsm[_keys.SPATIAL])
    names, positions = [str(name) for name in record["inserted"]], record["positions"][1:-1]
    fields = [None] * len(names) if displacement is None else displacement
    places = [grid.material_places(points, field, lattice, p) for field, p in zip(fields, positions, strict=True)]
    obs: dict[str, pd.Categorical | FloatArray] = {}
    for key, kind in labels.items():
        for name, g in ((_keys.SLICE_A, a), (_keys.SLICE_B, b)):
            tissue = out.obs[_keys.tissue(name)].to_numpy()
            obs[_keys.annotation(name, key)] = measured(g, key, points, tissue, kind)
        for name, where, p in zip(names, places, positions, strict=True):
            known = _annotation_at(key, kind, (a, b), where, p, spacing)
            obs[_keys.annotation(name, key)] = known[:, 0] if kind is None else most_probable(known, kind)
            if kind is not None:
                out.obsm[_keys.annotation(name, key)] = table(known, kind, out.obs_names)
        colours = [] if kind is None else palette(kind, (a, b), key)
        if colours:
            for name in record["sections"]:
                out.uns[_keys.colours(_keys.annotation(name, key))] = np.array(colours)
    out.obs = pd.concat([out.obs, pd.DataFrame(obs, index=out.obs_names)], axis=1)
    record[_keys.OBS_KEYS] = np.array(list(labels))


def _annotation_at(
    key: str,
    labels: pd.CategoricalDtype | None,
    pair: tuple[grid.SliceGrid, grid.SliceGrid],
    places: tuple[FloatArray, FloatArray],
    p: float,
    spacing: float,
) -> FloatArray:
    """(M, C) probabilities of labels, or (M, 1) numbers, of an inserted section."""
    sides = [
        _around(g.xy, _as_numbers(g.annotations.columns[key], labels), at, spacing)
        for g, at in zip(pair, places, strict=True)
    ]
    return blend(sides[0], sides[1], p)


def _check_kind(key: str, grids: Sequence[grid.SliceGrid]) -> None:
    kinds = {g.name: "labels" if grid.is_labels(g.annotations.columns[key]) else "numbers" for g in grids}
    first, *others = kinds
    for other in others:
        if kinds[other] != kinds[first]:
            raise ValueError(
                f"obs[{key!r}] holds {kinds[first]} in {first} and {kinds[other]} in {other}; make both of one kind: "
                f"adata.obs[{key!r}] = adata.obs[{key!r}].astype('category'), or .astype(float)"
            )


def _categories(key: str, grids: Sequence[grid.SliceGrid]) -> pd.CategoricalDtype:
    """Labels that some section uses, in the order in which they are declared."""
    columns = [g.annotations.columns[key] for g in grids]
    used = {g.name: set(column.dropna()) for g, column in zip(grids, columns, strict=True)}
    merged = [
        label
        for label in reduce(merge, (list(column.cat.categories) for column in columns))
        if any(label in labels for labels in used.values())
    ]
    for label in merged:
        having = [name for name, labels in used.items() if label in labels]
        if len(having) < len(grids):
            _log.info(f"obs[{key!r}]: only {', '.join(having)} {'has' if len(having) == 1 else 'have'} {label!r}")
    return pd.CategoricalDtype(merged, ordered=all(column.cat.ordered for column in columns))


def merge(first: list[str], second: list[str]) -> list[str]:
    """Both lists as one without repeats: what only the second has comes after its predecessor there."""
    merged, place = list(first), 0
    for label in second:
        if label not in merged:
            merged.insert(place, label)
        place = merged.index(label) + 1
    return merged


def _as_numbers(column: pd.Series, labels: pd.CategoricalDtype | None) -> FloatArray:
    """(n, C) one column a label, 1 where a spot has it; or (n, 1) numbers. NaN where unknown."""
    if labels is None:
        return column.to_numpy(dtype=np.float64)[:, None]
    code = pd.Categorical(column, dtype=labels).codes
    values = (code[:, None] == np.arange(len(labels.categories))).astype(np.float64)
    values[code < 0] = np.nan
    return values


def _around(xy: FloatArray, values: FloatArray, places: FloatArray, spacing: float) -> FloatArray:
    """(M, C) Gaussian mean of what is known around places; NaN where nothing is."""
    known = np.isfinite(values).all(axis=1)
    mean = gaussian_operator(xy[known], places, WIDTH * spacing) @ values[known]
    mean[KDTree(xy[known]).query(places)[0] > NEAR * spacing] = np.nan
    return mean


def blend(from_a: FloatArray, from_b: FloatArray, p: float) -> FloatArray:
    """(M, C) blend 1 - p : p; of one side alone where the other knows nothing, NaN where neither does."""
    weights = np.stack([np.where(np.isnan(side[:, :1]), 0, w) for side, w in ((from_a, 1 - p), (from_b, p))])
    total = weights.sum(axis=0)
    mixed = weights[0] * np.nan_to_num(from_a) + weights[1] * np.nan_to_num(from_b)
    return np.where(total > 0, mixed / np.where(total > 0, total, 1), np.nan)


def table(probabilities: FloatArray, labels: pd.CategoricalDtype, index: pd.Index) -> pd.DataFrame:
    """(M, C) probabilities as they are written."""
    columns = [_keys.label_column(label) for label in labels.categories]
    return pd.DataFrame(probabilities.astype(np.float32), index=index, columns=columns)


def most_probable(probabilities: FloatArray, labels: pd.CategoricalDtype) -> pd.Categorical:
    """(M,) labels of (M, C) probabilities; of equal ones the first, unknown where they are NaN."""
    code = np.nan_to_num(probabilities).round(DECIMALS).argmax(axis=1)
    return pd.Categorical.from_codes(np.where(np.isnan(probabilities[:, 0]), -1, code), dtype=labels)


def measured(
    g: grid.SliceGrid, key: str, points: FloatArray, tissue: NDArray[np.bool_], labels: pd.CategoricalDtype | None
) -> pd.Categorical | FloatArray:
    """(M,) the nearest spot's annotation, unknown outside of the section's tissue."""
    column, nearest = g.annotations.columns[key], KDTree(g.xy).query(points)[1]
    if labels is None:
        return np.where(tissue, column.to_numpy()[nearest], np.nan)
    code = pd.Categorical(column, dtype=labels).codes[nearest]
    return pd.Categorical.from_codes(np.where(tissue, code, -1), dtype=labels)


def certain(labels: pd.Categorical) -> NDArray[np.float32]:
    """(M, C) probabilities of what was measured: 1 for the label of each row, 0 for the others, NaN where unknown."""
    code = np.asarray(labels.codes)
    table = (code[:, None] == np.arange(len(labels.categories))).astype(np.float32)
    table[code < 0] = np.nan
    return table


def palette(labels: pd.CategoricalDtype, grids: Sequence[grid.SliceGrid], key: str) -> list[str]:
    """Colour of each label: that of the first section that has one, else one not yet used; none if no section has."""
    known = {label: colour for g in reversed(grids) for label, colour in g.annotations.colours.get(key, {}).items()}
    if not known:
        return []
    from scanpy.plotting.palettes import default_102  # noqa: PLC0415 - scanpy takes a second to import

    used = {colour.lower() for colour in known.values()}
    free = (colour for colour in default_102 if colour.lower() not in used)
    return [known[label] if label in known else next(free, GREY) for label in labels.categories]
