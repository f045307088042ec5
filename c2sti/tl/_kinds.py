"""What all sections say under a key of annotations: which labels there are, which columns a table has, or numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
import pandas as pd

from c2sti import _keys, _log, grid
from c2sti._types import FloatArray

CLUSTERS = 50  # different whole numbers up to which a column may be a clustering
WHOLE = 1e-2  # how far from 1 the sum of proportions may lie
UNWRITABLE = ("", ".", "..", "_index")  # names of columns that files refuse


@dataclass(frozen=True)
class Table:
    """A table that is carried: names of its columns, and whether they are shares, whose rows add up to 1."""

    columns: list[str]
    shares: bool


Kind: TypeAlias = pd.CategoricalDtype | Table | None  # labels, a table, or numbers


def shared_labels(grids: Sequence[grid.SliceGrid]) -> dict[str, Kind]:
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


def _having(key: str, grids: Sequence[grid.SliceGrid]) -> list[grid.SliceGrid]:
    """Sections that have an annotation."""
    errors = [g.annotations.absent[key] for g in grids if key in g.annotations.absent]
    having = [g for g in grids if key not in g.annotations.absent]
    if not having:
        raise next((error for error in errors if isinstance(error, ValueError)), errors[0])
    for error in errors:
        names = ", ".join(g.name for g in having)
        _log.warning(f"{error.args[0].partition(';')[0]}. It is unknown there, and carried from {names}")
    return having


def _kind(key: str, having: Sequence[grid.SliceGrid]) -> pd.CategoricalDtype | None:
    """Labels of a column, where it holds labels in some section and labels or whole numbers in the others."""
    labelled = [g.name for g in having if grid.is_labels(g.annotations.columns[key])]
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


def _warn_of_clusters(key: str, having: Sequence[grid.SliceGrid]) -> None:
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
        _log.warning(text.partition("; if they are amounts")[0])


def _categories(key: str, having: Sequence[grid.SliceGrid]) -> pd.CategoricalDtype:
    """Labels that some section uses, in the order in which they are declared."""
    columns = {g.name: g.annotations.labels(key) for g in having}
    used = {name: set(column.dropna()) for name, column in columns.items()}
    anywhere = set.union(*used.values())
    merged = [label for label in reduce(merge, (list(c.cat.categories) for c in columns.values())) if label in anywhere]
    for label in merged:
        names = [name for name, labels in used.items() if label in labels]
        if len(names) < len(having):
            _log.info(f"obs[{key!r}]: only {', '.join(names)} {'has' if len(names) == 1 else 'have'} {label!r}")
    for name, labels in used.items():
        others = set().union(*(found for other, found in used.items() if other != name))
        if others and not labels & others:
            _log.warning(
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


def _table_kind(key: str, having: Sequence[grid.SliceGrid]) -> Table:
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
    _log.warning(f"obsm[{key!r}]: {listed}. Its rows add up to 1 without them, so they are 0 there")
