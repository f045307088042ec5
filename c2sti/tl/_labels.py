"""Labels and numbers of the spots, carried into inserted sections: as far as tissue moves, they move with it.

What is known near the place where a bin's material lies in either section is averaged by a Gaussian, as
:func:`c2sti.baselines.naive.linear` averages expression, and the two answers are blended 1 - p : p. Of labels that
gives probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def shared_labels(a: grid.SliceGrid, b: grid.SliceGrid) -> dict[str, pd.CategoricalDtype | None]:
    """By key, the labels that an annotation of two sections may have; None where it holds numbers.

    Raises
    ------
    ValueError
        An annotation is a label in one section and a number in the other.
    """
    for key in a.annotations.columns:
        _check_kind(key, a, b)
    return {
        key: _categories(key, a, b) if grid.is_labels(column) else None for key, column in a.annotations.columns.items()
    }


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
            obs[_keys.annotation(name, key)] = _measured(g.xy, g.annotations.columns[key], points, tissue, kind)
        for name, where, p in zip(names, places, positions, strict=True):
            known = _annotation_at(key, kind, (a, b), where, p, spacing)
            obs[_keys.annotation(name, key)] = known[:, 0] if kind is None else most_probable(known, kind)
            if kind is not None:
                columns = [_keys.label_column(label) for label in kind.categories]
                table = pd.DataFrame(known.astype(np.float32), index=out.obs_names, columns=columns)
                out.obsm[_keys.annotation(name, key)] = table
        palette = [] if kind is None else _palette(kind, a, b, key)
        if palette:
            for name in record["sections"]:
                out.uns[_keys.colours(_keys.annotation(name, key))] = np.array(palette)
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


def _check_kind(key: str, a: grid.SliceGrid, b: grid.SliceGrid) -> None:
    kinds = ["labels" if grid.is_labels(g.annotations.columns[key]) else "numbers" for g in (a, b)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"obs[{key!r}] holds {kinds[0]} in {a.name} and {kinds[1]} in {b.name}; make both of one kind: "
            f"adata.obs[{key!r}] = adata.obs[{key!r}].astype('category'), or .astype(float)"
        )


def _categories(key: str, a: grid.SliceGrid, b: grid.SliceGrid) -> pd.CategoricalDtype:
    """Labels that either section uses, in the order in which they are declared."""
    columns = [g.annotations.columns[key] for g in (a, b)]
    declared = [list(column.cat.categories) for column in columns]
    used = [set(column.dropna()) for column in columns]
    for g, mine, others in ((a, used[0], used[1]), (b, used[1], used[0])):
        if mine - others:
            _log.info(f"obs[{key!r}]: only {g.name} has {', '.join(sorted(mine - others))}")
    merged = [label for label in merge(*declared) if label in used[0] | used[1]]
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


def most_probable(probabilities: FloatArray, labels: pd.CategoricalDtype) -> pd.Categorical:
    """(M,) labels of (M, C) probabilities; of equal ones the first, unknown where they are NaN."""
    code = np.nan_to_num(probabilities).round(DECIMALS).argmax(axis=1)
    return pd.Categorical.from_codes(np.where(np.isnan(probabilities[:, 0]), -1, code), dtype=labels)


def _measured(
    xy: FloatArray,
    column: pd.Series,
    points: FloatArray,
    tissue: NDArray[np.bool_],
    labels: pd.CategoricalDtype | None,
) -> pd.Categorical | FloatArray:
    """The nearest spot's annotation, unknown outside of the section's tissue."""
    nearest = KDTree(xy).query(points)[1]
    if labels is None:
        return np.where(tissue, column.to_numpy()[nearest], np.nan)
    code = pd.Categorical(column, dtype=labels).codes[nearest]
    return pd.Categorical.from_codes(np.where(tissue, code, -1), dtype=labels)


def _palette(labels: pd.CategoricalDtype, a: grid.SliceGrid, b: grid.SliceGrid, key: str) -> list[str]:
    """Colour of each label: that of slice_a, else that of slice_b, else one not yet used; none if both have none."""
    known = {**b.annotations.colours.get(key, {}), **a.annotations.colours.get(key, {})}
    if not known:
        return []
    from scanpy.plotting.palettes import default_102  # noqa: PLC0415 - scanpy takes a second to import

    used = {colour.lower() for colour in known.values()}
    free = (colour for colour in default_102 if colour.lower() not in used)
    return [known[label] if label in known else next(free, GREY) for label in labels.categories]
