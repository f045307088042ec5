"""Annotations of the spots, carried into interpolated sections: as far as tissue moves, they move with it.

What is known near the place where a bin's material lies in either section is averaged by a Gaussian, as
:func:`c2sti.models.naive.linear` averages expression, and the two means are blended 1 - p : p. Of labels that gives
probabilities; of a table, such as cell-type proportions, a mean of each column.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _logging, io
from c2sti._types import FloatArray, Lattice
from c2sti.models.naive import WIDTH
from c2sti.ops import gaussian_operator, nearest

CLUSTERS = 50  # different whole numbers up to which a column may be a clustering
WHOLE = 1e-2  # how far from 1 the sum of proportions may lie
UNWRITABLE = ("", ".", "..", "_index")  # names of columns that files refuse


@dataclass(frozen=True)
class Table:
    """A table that is carried: names of its columns, and whether they are shares, whose rows add up to 1."""

    columns: list[str]
    shares: bool


Kind: TypeAlias = pd.CategoricalDtype | Table | None  # labels, a table, or numbers


def shared_labels(grids: Sequence[io.SliceGrid]) -> dict[str, Kind]:
    """By key, the labels that an annotation of some sections may have, or the columns of a table; None for numbers.

    What one section lacks is unknown there, which the log says.

    Raises
    ------
    KeyError
        No section has an annotation.
    ValueError
        An annotation is unknown everywhere; a label in one section and a number that is not whole in another; or a
        table whose columns differ, unless they are proportions.

    Warns
    -----
    UserWarning
        A column of few whole numbers, as clusterings are, is averaged.
    """
    first = grids[0].annotations
    kinds: dict[str, Kind] = {}
    for key in first.columns:
        kinds[key] = _kind(key, _having(key, grids))
    for key in first.tables:
        kinds[key] = _table_kind(key, _having(key, grids))
    return kinds


def _having(key: str, grids: Sequence[io.SliceGrid]) -> list[io.SliceGrid]:
    """Sections that have an annotation."""
    errors = [g.annotations.absent[key] for g in grids if key in g.annotations.absent]
    having = [g for g in grids if key not in g.annotations.absent]
    if not having:
        raise next((error for error in errors if isinstance(error, ValueError)), errors[0])
    for error in errors:
        names = ", ".join(g.name for g in having)
        _logging.warning(f"{error.args[0].partition(';')[0]}. It is unknown there, and carried from {names}")
    return having


def _kind(key: str, having: Sequence[io.SliceGrid]) -> pd.CategoricalDtype | None:
    """Labels of a column, where it holds labels in some section and labels or whole numbers in the others."""
    labelled = [g.name for g in having if io.is_labels(g.annotations.columns[key])]
    if not labelled:
        _warn_of_clusters(key, having)
        return None
    for g in having:
        if g.name not in labelled and not _is_whole(g.annotations.numbers(key)):
            raise ValueError(
                f"obs[{key!r}] holds labels in {labelled[0]} and numbers in {g.name}; make both of one kind: "
                f"adata.obs[{key!r}] = adata.obs[{key!r}].astype('category'), or .astype(float)"
            )
    return _categories(key, having)


def _is_whole(values: FloatArray) -> bool:
    known = values[np.isfinite(values)]
    return bool((known == np.rint(known)).all())


def _warn_of_clusters(key: str, having: Sequence[io.SliceGrid]) -> None:
    """Say that whole numbers are averaged, where there are few different ones: a warning of integers.

    Floats beside NaN may have been integers, which the log says; other floats are amounts.
    """
    types = [g.annotations.columns[key].dtype for g in having]
    values = np.concatenate([g.annotations.numbers(key) for g in having])
    known = values[np.isfinite(values)]
    different = len(np.unique(known))
    if different > CLUSTERS or not _is_whole(known) or any(map(pd.api.types.is_bool_dtype, types)):
        return
    text = (
        f"obs[{key!r}] holds whole numbers, {different} different ones, which are averaged. If they name clusters: "
        f"adata.obs[{key!r}] = adata.obs[{key!r}].astype('category'); if they are amounts: .astype(float)"
    )
    if any(map(pd.api.types.is_integer_dtype, types)):
        warnings.warn(text, UserWarning, stacklevel=5)
    elif len(known) < len(values):
        _logging.warning(text.partition("; if they are amounts")[0])


def _categories(key: str, having: Sequence[io.SliceGrid]) -> pd.CategoricalDtype:
    """Labels that some section uses, in the order in which they are declared."""
    columns = {g.name: g.annotations.labels(key) for g in having}
    used = {name: set(column.dropna()) for name, column in columns.items()}
    anywhere = set.union(*used.values())
    merged = [label for label in reduce(merge, (list(c.cat.categories) for c in columns.values())) if label in anywhere]
    for label in merged:
        names = [name for name, labels in used.items() if label in labels]
        if len(names) < len(having):
            _logging.info(f"obs[{key!r}]: only {', '.join(names)} {'has' if len(names) == 1 else 'have'} {label!r}")
    for name, labels in used.items():
        others = set().union(*(found for other, found in used.items() if other != name))
        if others and not labels & others:
            _logging.warning(
                f"obs[{key!r}]: no label of {name} ({_some(labels)}) is in another section ({_some(others)}); if some "
                "mean the same, give them the same name: .cat.rename_categories({…})"
            )
    _check_names(f"obs[{key!r}]", merged)
    return pd.CategoricalDtype(merged, ordered=all(_in_order(column, merged) for column in columns.values()))


def _in_order(column: pd.Series, merged: list[str]) -> bool:
    """Whether a column is ordered, and its labels follow each other in a list as they do in it."""
    if not column.cat.ordered:
        return False
    places = [merged.index(label) for label in column.cat.categories if label in merged]
    return places == sorted(places)


def _some(labels: set[str]) -> str:
    listed = sorted(labels)
    return ", ".join(map(repr, listed[:3])) + (" …" if len(listed) > 3 else "")


def merge(first: list[str], second: list[str]) -> list[str]:
    """Both lists as one without repeats: what only the second has comes after its predecessor there."""
    merged, place = list(first), 0
    for label in second:
        if label not in merged:
            merged.insert(place, label)
        place = merged.index(label) + 1
    return merged


def written_columns(names: Sequence[str]) -> list[str]:
    """Names of columns that files can hold."""
    columns = [_keys.label_column(name) for name in names]
    return [f"({column})" if column in UNWRITABLE else column for column in columns]


def _check_names(where: str, names: list[str]) -> None:
    """Refuse names that a result would write as one."""
    twice = pd.Index(names)[pd.Index(written_columns(names)).duplicated(keep=False)]
    if len(twice):
        raise ValueError(f"{where} holds {_some(set(twice))}, which results write under one name; rename one of them")


# ---- tables


def _table_kind(key: str, having: Sequence[io.SliceGrid]) -> Table:
    """Columns of a table in all sections that have it."""
    tables = {g.name: g.annotations.tables[key] for g in having}
    shares = {name: _are_shares(table) for name, table in tables.items()}
    if any(shares.values()):
        _check_sums(key, tables, shares)
    columns = reduce(merge, (list(table.columns) for table in tables.values()))
    lacking = {name: [c for c in columns if c not in table] for name, table in tables.items()}
    lacking = {name: missing for name, missing in lacking.items() if missing}
    if lacking:
        _check_lacking(key, tables, lacking, all(shares.values()))
    _check_names(f"obsm[{key!r}]", columns)
    return Table(columns, all(shares.values()))


def _are_shares(table: pd.DataFrame) -> bool:
    """Whether each row holds shares of one whole."""
    known = table.dropna().to_numpy()
    return bool(known.size and known.min() >= -WHOLE and np.abs(known.sum(axis=1) - 1).max() <= WHOLE)


def _check_sums(key: str, tables: Mapping[str, pd.DataFrame], shares: Mapping[str, bool]) -> None:
    """Refuse proportions in one section beside abundances in another."""
    one = next(name for name, of_one in shares.items() if of_one)
    for name, table in tables.items():
        total = float(table.sum(axis=1)[table.notna().all(axis=1)].median())
        if not shares[name] and total > 1 + WHOLE:
            raise ValueError(
                f"obsm[{key!r}] holds proportions in {one}, whose rows add up to 1, and in {name} rows that add up to "
                f"{total:.3g}; bring both to one scale: adata.obsm[{key!r}] = adata.obsm[{key!r}] / "
                f"np.asarray(adata.obsm[{key!r}]).sum(axis=1, keepdims=True)"
            )


def _check_lacking(
    key: str, tables: Mapping[str, pd.DataFrame], lacking: Mapping[str, list[str]], shares: bool
) -> None:
    """Refuse columns that some sections lack; of proportions they are 0 there, because the others add up to 1."""
    columns = {name: list(table.columns) for name, table in tables.items()}
    unnamed = [name for name, found in columns.items() if found == [str(i) for i in range(len(found))]]
    listed = "; ".join(f"{name} lacks {missing}" for name, missing in lacking.items())
    if unnamed:
        raise ValueError(
            f"obsm[{key!r}] has unnamed columns in {', '.join(unnamed)}, and others elsewhere ({listed}); name them: "
            f"adata.obsm[{key!r}] = pd.DataFrame(adata.obsm[{key!r}], index=adata.obs_names, columns=[…])"
        )
    if not shares or not set.intersection(*map(set, columns.values())):
        every = reduce(merge, columns.values())
        raise ValueError(
            f"the columns of obsm[{key!r}] differ between sections: {listed}. If the missing ones are 0 there: "
            f"adata.obsm[{key!r}] = adata.obsm[{key!r}].reindex(columns={every}, fill_value=0); if they are unknown, "
            "the same without fill_value="
        )
    _logging.warning(f"obsm[{key!r}]: {listed}. Its rows add up to 1 without them, so they are 0 there")


NEAR = 2.0  # spot spacings: what is known farther away says nothing of a bin
GREY = "#bbbbbb"
DECIMALS = 6  # of probabilities that are compared: rounding must not choose between equal ones


# ---- pairs


def carry(
    out: AnnData,
    a: io.SliceGrid,
    b: io.SliceGrid,
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
        Made by :func:`c2sti.io.write_slices`.
    a, b
        The sections as they were read.
    labels
        What :func:`shared_labels` says of them.
    displacement
        Field of each interpolated section, see :func:`c2sti.io.source_places`; None where nothing moves.
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
    places = [io.source_places(points, field, lattice, p) for field, p in zip(fields, positions, strict=True)]
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
    pair: tuple[io.SliceGrid, io.SliceGrid],
    places: tuple[FloatArray, FloatArray],
    p: float,
    spacing: float,
) -> FloatArray:
    """(M, C) probabilities of labels or values of a table, or (M, 1) numbers, of an interpolated section."""
    sides = [_around(g.xy, _as_numbers(g, key, kind), at, spacing) for g, at in zip(pair, places, strict=True)]
    mixed = blend(sides[0], sides[1], p)
    return mixed / mixed.sum(axis=1, keepdims=True) if isinstance(kind, Table) and kind.shares else mixed


def _as_numbers(g: io.SliceGrid, key: str, kind: Kind) -> FloatArray:
    """(n, C) one column a label, 1 where a spot has it; a table; or (n, 1) numbers. NaN where unknown."""
    if kind is None:
        return g.annotations.numbers(key)[:, None]
    if isinstance(kind, Table):
        return _table_values(g, key, kind)
    code = _codes(g, key, kind)
    values = (code[:, None] == np.arange(len(kind.categories))).astype(np.float64)
    values[code < 0] = np.nan
    return values


def _codes(g: io.SliceGrid, key: str, labels: pd.CategoricalDtype) -> NDArray[np.integer]:
    """(n,) place of each spot's label among all, -1 where it is unknown."""
    return np.asarray(pd.Categorical(g.annotations.labels(key), dtype=labels).codes)


def _table_values(g: io.SliceGrid, key: str, kind: Table) -> FloatArray:
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
    g: io.SliceGrid, key: str, points: FloatArray, tissue: NDArray[np.bool_], labels: pd.CategoricalDtype | None
) -> pd.Categorical | FloatArray:
    """(M,) the nearest spot's label or number, unknown outside of the section's tissue."""
    spot = nearest(g.xy, points)
    if labels is None:
        return np.where(tissue, g.annotations.numbers(key)[spot], np.nan)
    return pd.Categorical.from_codes(np.where(tissue, _codes(g, key, labels)[spot], -1), dtype=labels)


def measured_table(g: io.SliceGrid, key: str, points: FloatArray, tissue: NDArray[np.bool_], kind: Table) -> FloatArray:
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


def carry_measured(part: AnnData, g: io.SliceGrid, labels: Mapping[str, Kind]) -> None:
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
    grids: Sequence[io.SliceGrid],
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


def palette(labels: pd.CategoricalDtype, grids: Sequence[io.SliceGrid], key: str) -> list[str]:
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
        if io.is_labels(columns[names[0]]):
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
