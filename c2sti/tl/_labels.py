"""Annotations of the spots, carried into interpolated sections: as far as tissue moves, they move with it.

What is known near the place where a bin's material lies in either section is averaged by a Gaussian, as
:func:`c2sti.baselines.naive.linear` averages expression, and the two means are blended 1 - p : p. Of labels that gives
probabilities; of a table, such as cell-type proportions, a mean of each column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, grid
from c2sti._types import FloatArray, Lattice
from c2sti.baselines.naive import WIDTH
from c2sti.ops import gaussian_operator, nearest
from c2sti.tl._kinds import Kind, Table, written_columns

NEAR = 2.0  # spot spacings: what is known farther away says nothing of a bin
GREY = "#bbbbbb"
DECIMALS = 6  # of probabilities that are compared: rounding must not choose between equal ones


# ---- pairs


def carry(
    out: AnnData,
    a: grid.SliceGrid,
    b: grid.SliceGrid,
    labels: Mapping[str, Kind],
    *,
    displacement: Sequence[FloatArray] | None,
    lattice: Lattice,
    spacing: float,
    key_added: str,
) -> None:
    """Write the annotations of two sections, and of those interpolated between them, into a result.

    Parameters
    ----------
    out
        Made by :func:`c2sti.grid.write_slices`.
    a, b
        The sections as they were read.
    labels
        What :func:`shared_labels` says of them.
    displacement
        Field of each interpolated section, see :func:`c2sti.grid.material_places`; None where nothing moves.
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
            at, tissue = _keys.annotation(name, key), out.obs[_keys.tissue(name)].to_numpy()
            if isinstance(kind, Table):
                out.obsm[at] = table(measured_table(g, key, points, tissue, kind), kind, out.obs_names)
            else:
                obs[at] = measured(g, key, points, tissue, kind)
        for name, where, p in zip(names, places, positions, strict=True):
            at, known = _keys.annotation(name, key), _annotation_at(key, kind, (a, b), where, p, spacing)
            if kind is not None:
                out.obsm[at] = table(known, kind, out.obs_names)
            if not isinstance(kind, Table):
                obs[at] = known[:, 0] if kind is None else most_probable(known, kind)
    out.obs = pd.concat([out.obs, pd.DataFrame(obs, index=out.obs_names)], axis=1)
    note_carried(out, (a, b), labels, key_added, [str(name) for name in record["sections"]])


def _annotation_at(
    key: str,
    kind: Kind,
    pair: tuple[grid.SliceGrid, grid.SliceGrid],
    places: tuple[FloatArray, FloatArray],
    p: float,
    spacing: float,
) -> FloatArray:
    """(M, C) probabilities of labels or values of a table, or (M, 1) numbers, of an interpolated section."""
    sides = [_around(g.xy, _as_numbers(g, key, kind), at, spacing) for g, at in zip(pair, places, strict=True)]
    mixed = blend(sides[0], sides[1], p)
    return mixed / mixed.sum(axis=1, keepdims=True) if isinstance(kind, Table) and kind.shares else mixed


def _as_numbers(g: grid.SliceGrid, key: str, kind: Kind) -> FloatArray:
    """(n, C) one column a label, 1 where a spot has it; a table; or (n, 1) numbers. NaN where unknown."""
    if kind is None:
        return g.annotations.numbers(key)[:, None]
    if isinstance(kind, Table):
        return _table_values(g, key, kind)
    code = _codes(g, key, kind)
    values = (code[:, None] == np.arange(len(kind.categories))).astype(np.float64)
    values[code < 0] = np.nan
    return values


def _codes(g: grid.SliceGrid, key: str, labels: pd.CategoricalDtype) -> NDArray[np.integer]:
    """(n,) place of each spot's label among all, -1 where it is unknown."""
    return np.asarray(pd.Categorical(g.annotations.labels(key), dtype=labels).codes)


def _table_values(g: grid.SliceGrid, key: str, kind: Table) -> FloatArray:
    """(n, C) a section's table with the columns of all; a column that proportions lack is 0."""
    found = g.annotations.tables[key]
    values = found.reindex(columns=kind.columns, fill_value=0.0).to_numpy()
    unknown = found.isna().any(axis=1).to_numpy() if kind.shares else np.zeros(len(found), dtype=bool)
    return np.where(unknown[:, None] | (found.shape[1] == 0), np.nan, values)


def _around(xy: FloatArray, values: FloatArray, places: FloatArray, spacing: float) -> FloatArray:
    """(M, C) Gaussian mean of what is known around places; NaN where nothing is."""
    known, mean = np.isfinite(values), np.full((len(places), values.shape[1]), np.nan)
    for of_spots in np.unique(known, axis=1).T:  # columns that are known of the same spots; as a rule that is all
        if of_spots.any():
            columns = (known == of_spots[:, None]).all(axis=0)
            near = KDTree(xy[of_spots]).query(places)[0] <= NEAR * spacing
            smoothed = gaussian_operator(xy[of_spots], places[near], WIDTH * spacing) @ values[of_spots][:, columns]
            mean[np.ix_(near, columns)] = smoothed
    return mean


def blend(from_a: FloatArray, from_b: FloatArray, p: float) -> FloatArray:
    """(M, C) blend 1 - p : p; of one side alone where the other knows nothing, NaN where neither does."""
    weights = np.stack([np.where(np.isnan(side), 0, w) for side, w in ((from_a, 1 - p), (from_b, p))])
    total = weights.sum(axis=0)
    mixed = weights[0] * np.nan_to_num(from_a) + weights[1] * np.nan_to_num(from_b)
    return np.where(total > 0, mixed / np.where(total > 0, total, 1), np.nan)


def most_probable(probabilities: FloatArray, labels: pd.CategoricalDtype) -> pd.Categorical:
    """(M,) labels of (M, C) probabilities; of equal ones the first, unknown where they are NaN."""
    code = np.nan_to_num(probabilities).round(DECIMALS).argmax(axis=1)
    return pd.Categorical.from_codes(np.where(np.isnan(probabilities[:, 0]), -1, code), dtype=labels)


# ---- measured sections


def measured(
    g: grid.SliceGrid, key: str, points: FloatArray, tissue: NDArray[np.bool_], labels: pd.CategoricalDtype | None
) -> pd.Categorical | FloatArray:
    """(M,) the nearest spot's label or number, unknown outside of the section's tissue."""
    spot = nearest(g.xy, points)
    if labels is None:
        return np.where(tissue, g.annotations.numbers(key)[spot], np.nan)
    return pd.Categorical.from_codes(np.where(tissue, _codes(g, key, labels)[spot], -1), dtype=labels)


def measured_table(
    g: grid.SliceGrid, key: str, points: FloatArray, tissue: NDArray[np.bool_], kind: Table
) -> FloatArray:
    """(M, C) the nearest spot's row of a table, NaN outside of the section's tissue."""
    return np.where(tissue[:, None], _table_values(g, key, kind)[nearest(g.xy, points)], np.nan)


def certain(labels: pd.Categorical) -> NDArray[np.float32]:
    """(M, C) probabilities of what was measured: 1 for the label of each row, 0 for the others, NaN where unknown."""
    code = np.asarray(labels.codes)
    values = (code[:, None] == np.arange(len(labels.categories))).astype(np.float32)
    values[code < 0] = np.nan
    return values


def table(values: FloatArray, kind: pd.CategoricalDtype | Table, index: pd.Index) -> pd.DataFrame:
    """(M, C) probabilities of labels, or a carried table, as they are written."""
    names = kind.columns if isinstance(kind, Table) else kind.categories
    return pd.DataFrame(values.astype(np.float32), index=index, columns=written_columns(names))


# ---- stacks


def carry_measured(part: AnnData, g: grid.SliceGrid, labels: Mapping[str, Kind]) -> None:
    """Write the annotations of a measured section into its rows of a series, under their own names."""
    points = np.asarray(part.obsm[_keys.SPATIAL])
    tissue = np.ones(len(points), dtype=bool)
    for key, kind in labels.items():
        if isinstance(kind, Table):
            part.obsm[key] = table(measured_table(g, key, points, tissue, kind), kind, part.obs_names)
            continue
        part.obs[key] = known = measured(g, key, points, tissue, kind)
        if isinstance(known, pd.Categorical):
            part.obsm[key] = table(certain(known), known.dtype, part.obs_names)


def note_carried(
    out: AnnData,
    grids: Sequence[grid.SliceGrid],
    labels: Mapping[str, Kind],
    key_added: str,
    sections: Sequence[str] | None = None,
) -> None:
    """Write the colours of labels, of each section of a pair or of a whole stack, and which annotations there are."""
    for key, kind in labels.items():
        colours = palette(kind, grids, key) if isinstance(kind, pd.CategoricalDtype) else []
        for name in [key] if sections is None else [_keys.annotation(section, key) for section in sections]:
            if colours:
                out.uns[_keys.colours(name)] = np.array(colours)
    tables = [key for key, kind in labels.items() if isinstance(kind, Table)]
    for entry, keys in ((_keys.OBS_KEYS, [key for key in labels if key not in tables]), (_keys.OBSM_KEYS, tables)):
        if keys:
            out.uns[key_added][entry] = np.array(keys)


def palette(labels: pd.CategoricalDtype, grids: Sequence[grid.SliceGrid], key: str) -> list[str]:
    """Colour of each label: that of the first section that has one, else one not yet used; none if no section has.

    A colour that stands for another label in an earlier section is not used again.
    """
    known: dict[str, str] = {}
    for g in grids:
        used = set(known.values())
        found = g.annotations.colours.get(key, {}).items()
        known |= {label: c for label, c in found if label in labels.categories and label not in known and c not in used}
    if not known:
        return []
    from scanpy.plotting.palettes import default_102  # noqa: PLC0415 - scanpy takes a second to import

    used = {colour.lower() for colour in known.values()}
    free = (colour for colour in default_102 if colour.lower() not in used)
    return [known[label] if label in known else next(free, GREY) for label in labels.categories]


def stack_carried(
    adata: AnnData,
    stack: AnnData,
    record: Mapping[str, Any],
    names: Sequence[str],
    rows: Sequence[NDArray[np.intp]],
) -> None:
    """Write the annotations of a result into a stack of its sections, one column or table for all sections.

    Parameters
    ----------
    adata, stack
        The result, and the stack without annotations.
    record
        Provenance of the result.
    names, rows
        The sections, and the rows of the result that the stack has of each.
    """
    for key in map(str, record.get(_keys.OBS_KEYS, ())):
        columns = {name: adata.obs[_keys.annotation(name, key)].iloc[r] for name, r in zip(names, rows, strict=True)}
        if grid.is_labels(columns[names[0]]):
            _stack_labels(adata, stack, key, columns, dict(zip(names, rows, strict=True)))
        else:
            stack.obs[key] = np.concatenate([column.to_numpy() for column in columns.values()])
    for key in map(str, record.get(_keys.OBSM_KEYS, ())):
        parts = [adata.obsm[_keys.annotation(name, key)].iloc[r] for name, r in zip(names, rows, strict=True)]
        stack.obsm[key] = pd.concat(parts).set_axis(stack.obs_names)


def _stack_labels(
    adata: AnnData,
    stack: AnnData,
    key: str,
    columns: Mapping[str, pd.Series],
    rows: Mapping[str, NDArray[np.intp]],
) -> None:
    """Labels of all sections, their probabilities, which are 0 or 1 where measured, and their colours.

    anndata drops categories that a part of a result does not use, column by column; the tables still have all.
    """
    tables = {name: adata.obsm[at] for name in columns if (at := _keys.annotation(name, key)) in adata.obsm}
    by_column = {written_columns([label])[0]: label for column in columns.values() for label in column.cat.categories}
    every = [by_column.get(column, column) for column in next(iter(tables.values())).columns]
    kind = pd.CategoricalDtype(every, ordered=all(column.cat.ordered for column in columns.values()))
    labels = {name: pd.Categorical(column, dtype=kind) for name, column in columns.items()}
    stack.obs[key] = pd.Categorical.from_codes(np.concatenate([part.codes for part in labels.values()]), dtype=kind)
    values = [tables[n].iloc[rows[n]].to_numpy() if n in tables else certain(part) for n, part in labels.items()]
    stack.obsm[key] = table(np.concatenate(values), kind, stack.obs_names)
    colours: dict[str, str] = {}
    for name, column in columns.items():
        given = adata.uns.get(_keys.colours(_keys.annotation(name, key)), ())
        colours = dict(zip(column.cat.categories, map(str, given), strict=False)) | colours
    if colours:
        stack.uns[_keys.colours(key)] = np.array([colours.get(label, GREY) for label in every])
