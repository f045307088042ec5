"""Annotations of spots, carried into interpolated sections: as far as tissue moves, they move with it.

What is known near the place where a bin's material lies in either section is averaged by a Gaussian, as
:func:`c2sti.models.naive.linear` averages expression, and the two means are blended 1 - p : p. Of labels that gives
probabilities; of a table, such as cell-type proportions, a mean of each column.

The labels of a section are the most probable ones that together have the composition of the section: of each label as
many as its probabilities sum to. The most probable label of each bin would leave out whatever is rare everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _logging, io
from c2sti._types import FloatArray, SlicePair
from c2sti.models.naive import WIDTH
from c2sti.ops import gaussian_operator, nearest

CLUSTERS = 50  # different whole numbers up to which a column may be a clustering
WHOLE = 1e-2  # how far from 1 the sum of proportions may lie
UNWRITABLE = ("", ".", "..", "_index")  # names of columns that files refuse
NEAR = 2.0  # spot spacings: annotations of spots farther away are not used
GREY = "#bbbbbb"  # of labels without a colour, once the palette is used up
SWEEPS = 30  # through the labels, to find the weights by which they have their counts; five are usual
DECIMALS = 6  # of probabilities that are compared: rounding must not choose between equal ones


class Table(NamedTuple):
    """Columns of a table that is carried, and whether its rows are proportions, which add up to 1."""

    columns: list[str]
    shares: bool


Kind: TypeAlias = pd.CategoricalDtype | Table | None  # labels, a table, or numbers


def shared_labels(grids: Sequence[io.SliceGrid]) -> dict[str, Kind]:
    """By key, the labels that an annotation of some sections may have, or the columns of a table; None for numbers.

    Refuses annotations that are unknown everywhere, labels in one section with numbers that are not whole in another,
    and tables whose columns differ, unless they are proportions.
    """
    kinds: dict[str, Kind] = {}
    for key in grids[0].annotations.columns:  # no comprehension: warnings count the calls to that of the user
        kinds[key] = _kind(key, _having(key, grids))
    for key in grids[0].annotations.tables:
        kinds[key] = _table_kind(key, _having(key, grids))
    return kinds


def carry(
    out: AnnData,
    a: io.SliceGrid,
    b: io.SliceGrid,
    labels: Mapping[str, Kind],
    *,
    displacement: Sequence[FloatArray] | None,
    pair: SlicePair,
    key_added: str,
) -> None:
    """Write the annotations of two sections, and of those interpolated between them, into a result.

    `displacement` has a field for each interpolated section, see :func:`c2sti.io.source_places`; None if nothing moves.
    """
    if not labels:
        return
    record, points = out.uns[key_added], np.asarray(out.obsm[_keys.SPATIAL])
    names, positions = [str(name) for name in record["inserted"]], record["positions"][1:-1]
    fields = [None] * len(names) if displacement is None else displacement
    places = [io.source_places(points, field, pair.lattice, p) for field, p in zip(fields, positions, strict=True)]
    spots = [nearest(g.xy, points) for g in (a, b)]
    obs: dict[str, pd.Categorical | FloatArray] = {}
    for key, kind in labels.items():
        values = [_as_numbers(g, key, kind) for g in (a, b)]
        for name, known, spot in zip((_keys.SLICE_A, _keys.SLICE_B), values, spots, strict=True):
            tissue = out.obs[_keys.tissue(name)].to_numpy()
            resampled = np.where(tissue[:, None], known[spot], np.nan)
            _write(out, obs, _keys.annotation(name, key), resampled, kind, probabilities=False)
        for name, where, p in zip(names, places, positions, strict=True):
            from_a = _around(a.xy, values[0], where[0], pair.spacing)
            from_b = _around(b.xy, values[1], where[1], pair.spacing)
            blended = _blend(from_a, from_b, p)
            if isinstance(kind, Table) and kind.shares:
                blended /= blended.sum(axis=1, keepdims=True)
            tissue = out.obs[_keys.tissue(name)].to_numpy(dtype=bool)
            _write(out, obs, _keys.annotation(name, key), blended, kind, tissue=tissue)
    out.obs = pd.concat([out.obs, pd.DataFrame(obs, index=out.obs_names)], axis=1)
    note_carried(out, (a, b), labels, key_added, [str(name) for name in record["sections"]])


def carry_measured(part: AnnData, g: io.SliceGrid, labels: Mapping[str, Kind]) -> None:
    """Write the annotations of a measured section into its rows of a series, under their own names."""
    spot = nearest(g.xy, np.asarray(part.obsm[_keys.SPATIAL]))
    for key, kind in labels.items():
        _write(part, part.obs, key, _as_numbers(g, key, kind)[spot], kind)


def note_carried(
    out: AnnData,
    grids: Sequence[io.SliceGrid],
    labels: Mapping[str, Kind],
    key_added: str,
    sections: Sequence[str] | None = None,
) -> None:
    """Write the colours of labels, of each section of a pair or of a whole stack, and which annotations there are."""
    for key, kind in labels.items():
        colours = _palette(kind, grids, key) if isinstance(kind, pd.CategoricalDtype) else []
        for name in [key] if sections is None else [_keys.annotation(section, key) for section in sections]:
            if colours:
                out.uns[_keys.colours(name)] = np.array(colours)
    tables = [key for key, kind in labels.items() if isinstance(kind, Table)]
    for entry, keys in ((_keys.OBS_KEYS, [key for key in labels if key not in tables]), (_keys.OBSM_KEYS, tables)):
        if keys:
            out.uns[key_added][entry] = np.array(keys)


def stack_carried(
    adata: AnnData, stack: AnnData, record: Mapping[str, Any], rows: Mapping[str, NDArray[np.intp]]
) -> None:
    """Write the annotations of a result into a stack of some `rows` of its sections, one column or table for all."""
    for key in map(str, record.get(_keys.OBS_KEYS, ())):
        at = {_keys.annotation(name, key): own for name, own in rows.items()}
        columns = [adata.obs[name].iloc[own] for name, own in at.items()]
        if not io.is_labels(columns[0]):
            stack.obs[key] = np.concatenate([column.to_numpy() for column in columns])
            continue
        # anndata drops categories that a part of a result does not use, column by column; the tables still have all
        by_column = {column: label for one in columns for label in one.cat.categories for column in _written([label])}
        tables = (_keys.annotation(str(name), key) for name in record["sections"])
        every = [by_column.get(c, c) for c in next(adata.obsm[name] for name in tables if name in adata.obsm).columns]
        kind = pd.CategoricalDtype(every, ordered=all(column.cat.ordered for column in columns))
        codes = [pd.Categorical(column, dtype=kind).codes for column in columns]
        stack.obs[key] = pd.Categorical.from_codes(np.concatenate(codes), dtype=kind)
        values = [
            adata.obsm[name].iloc[own].to_numpy() if name in adata.obsm else _one_hot(code, len(every))
            for (name, own), code in zip(at.items(), codes, strict=True)
        ]
        stack.obsm[key] = _frame(np.concatenate(values), every, stack.obs_names)
        colours: dict[str, str] = {}
        for name, column in zip(at, columns, strict=True):
            given = adata.uns.get(_keys.colours(name), ())
            colours = dict(zip(column.cat.categories, map(str, given), strict=False)) | colours
        if colours:
            stack.uns[_keys.colours(key)] = np.array([colours.get(label, GREY) for label in every])
    for key in map(str, record.get(_keys.OBSM_KEYS, ())):
        parts = [adata.obsm[_keys.annotation(name, key)].iloc[own] for name, own in rows.items()]
        stack.obsm[key] = pd.concat(parts).set_axis(stack.obs_names)


# ---- kinds of annotations


def _having(key: str, grids: Sequence[io.SliceGrid]) -> list[io.SliceGrid]:
    """Sections that have an annotation; the log names those that lack it."""
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
    """Warn that integers of few different values are averaged; of whole floats beside NaN only the log says it."""
    types = [g.annotations.columns[key].dtype for g in having]
    values = np.concatenate([g.annotations.numbers(key) for g in having])
    different = len(np.unique(values[np.isfinite(values)]))
    if different > CLUSTERS or not _is_whole(values) or any(map(pd.api.types.is_bool_dtype, types)):
        return
    text = (
        f"obs[{key!r}] holds whole numbers, {different} different ones, which are averaged. If they name clusters: "
        f"adata.obs[{key!r}] = adata.obs[{key!r}].astype('category')"
    )
    if any(map(pd.api.types.is_integer_dtype, types)):
        warnings.warn(f"{text}; if they are amounts: .astype(float)", UserWarning, stacklevel=5)
    elif not np.isfinite(values).all():
        _logging.warning(text)


def _categories(key: str, having: Sequence[io.SliceGrid]) -> pd.CategoricalDtype:
    """Labels that some section uses, in the order in which they are declared."""
    columns = {g.name: g.annotations.labels(key) for g in having}
    used = {name: set(column.dropna()) for name, column in columns.items()}
    declared = reduce(merge, (list(column.cat.categories) for column in columns.values()))
    labels = [label for label in declared if label in set.union(*used.values())]
    for label in labels:
        names = [name for name, found in used.items() if label in found]
        if len(names) < len(having):
            _logging.info(f"obs[{key!r}]: only {', '.join(names)} {'has' if len(names) == 1 else 'have'} {label!r}")
    for name, own in used.items():
        others = set().union(*(found for other, found in used.items() if other != name))
        if others and not own & others:
            _logging.warning(
                f"obs[{key!r}]: no label of {name} ({_some(own)}) is in another section ({_some(others)}); if some "
                "mean the same, give them the same name: .cat.rename_categories({…})"
            )
    _check_names(f"obs[{key!r}]", labels)
    order = [pd.Index(labels).get_indexer(column.cat.categories) for column in columns.values()]
    agree = all((np.diff(places[places >= 0]) > 0).all() for places in order)
    return pd.CategoricalDtype(labels, ordered=agree and all(column.cat.ordered for column in columns.values()))


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


def _check_names(where: str, names: list[str]) -> None:
    """Refuse names that a result would write as one."""
    twice = pd.Index(names)[pd.Index(_written(names)).duplicated(keep=False)]
    if len(twice):
        raise ValueError(f"{where} holds {_some(set(twice))}, which results write under one name; rename one of them")


def _table_kind(key: str, having: Sequence[io.SliceGrid]) -> Table:
    """Columns of a table in all sections that have it."""
    tables = {g.name: g.annotations.tables[key] for g in having}
    shares = {name: _are_shares(table) for name, table in tables.items()}
    for name, table in tables.items():
        total = float(table.sum(axis=1)[table.notna().all(axis=1)].median())
        if any(shares.values()) and not shares[name] and total > 1 + WHOLE:
            one = next(name for name, found in shares.items() if found)
            raise ValueError(
                f"obsm[{key!r}] holds proportions in {one}, whose rows add up to 1, and in {name} rows that add up to "
                f"{total:.3g}; bring both to one scale: adata.obsm[{key!r}] = adata.obsm[{key!r}] / "
                f"np.asarray(adata.obsm[{key!r}]).sum(axis=1, keepdims=True)"
            )
    columns = reduce(merge, (list(table.columns) for table in tables.values()))
    lacking = {name: missing for name, t in tables.items() if (missing := [c for c in columns if c not in t])}
    if lacking:
        _check_lacking(key, tables, columns, lacking, all(shares.values()))
    _check_names(f"obsm[{key!r}]", columns)
    return Table(columns, all(shares.values()))


def _are_shares(table: pd.DataFrame) -> bool:
    """Whether each row holds shares of one whole."""
    known = table.dropna().to_numpy()
    return bool(known.size and known.min() >= -WHOLE and np.abs(known.sum(axis=1) - 1).max() <= WHOLE)


def _check_lacking(
    key: str, tables: Mapping[str, pd.DataFrame], every: list[str], lacking: Mapping[str, list[str]], shares: bool
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
        raise ValueError(
            f"the columns of obsm[{key!r}] differ between sections: {listed}. If the missing ones are 0 there: "
            f"adata.obsm[{key!r}] = adata.obsm[{key!r}].reindex(columns={every}, fill_value=0); if they are unknown, "
            "the same without fill_value="
        )
    _logging.warning(f"obsm[{key!r}]: {listed}. Its rows add up to 1 without them, so they are 0 there")


# ---- annotations as numbers, and back


def _as_numbers(g: io.SliceGrid, key: str, kind: Kind) -> FloatArray:
    """(n, C) one column a label, 1 where a spot has it; a table; or (n, 1) numbers. NaN where unknown."""
    if kind is None:
        return g.annotations.numbers(key)[:, None]
    if isinstance(kind, pd.CategoricalDtype):
        return _one_hot(pd.Categorical(g.annotations.labels(key), dtype=kind).codes, len(kind.categories))
    found = g.annotations.tables[key]
    values = found.reindex(columns=kind.columns, fill_value=0.0).to_numpy()  # a column that proportions lack is 0
    unknown = found.isna().any(axis=1).to_numpy() if kind.shares else np.zeros(len(found), dtype=bool)
    return np.where(unknown[:, None] | (found.shape[1] == 0), np.nan, values)


def _one_hot(codes: NDArray[np.integer], n: int) -> FloatArray:
    """(M, n) 1 for the label of each row and 0 for the others; NaN where the code is -1, unknown."""
    return np.vstack([np.eye(n), np.full(n, np.nan)])[codes]


def _around(xy: FloatArray, values: FloatArray, places: FloatArray, spacing: float) -> FloatArray:
    """(M, C) Gaussian mean of what is known around places; NaN where nothing is."""
    known, mean = np.isfinite(values), np.full((len(places), values.shape[1]), np.nan)
    for of_spots in np.unique(known, axis=1).T:  # columns known of the same spots; as a rule that is all
        if of_spots.any():
            columns = (known == of_spots[:, None]).all(axis=0)
            near = KDTree(xy[of_spots]).query(places)[0] <= NEAR * spacing
            smoothed = gaussian_operator(xy[of_spots], places[near], WIDTH * spacing) @ values[of_spots][:, columns]
            mean[np.ix_(near, columns)] = smoothed
    return mean


def _blend(from_a: FloatArray, from_b: FloatArray, p: float) -> FloatArray:
    """(M, C) blend 1 - p : p; of one side alone where the other is unknown, NaN where both are."""
    weights = np.stack([np.where(np.isnan(side), 0, w) for side, w in ((from_a, 1 - p), (from_b, p))])
    total = weights.sum(axis=0)
    mixed = weights[0] * np.nan_to_num(from_a) + weights[1] * np.nan_to_num(from_b)
    return np.where(total > 0, mixed / np.where(total > 0, total, 1), np.nan)


def _write(
    out: AnnData,
    obs: dict[str, Any] | pd.DataFrame,
    name: str,
    values: FloatArray,
    kind: Kind,
    *,
    probabilities: bool = True,
    tissue: NDArray[np.bool_] | None = None,
) -> None:
    """Write (M, C) values: a table into `obsm`, numbers and labels into `obs`.

    Labels are the most probable ones; in the rows of `tissue`, those that together have the section's composition.
    """
    if isinstance(kind, Table) or (kind is not None and probabilities):
        columns = kind.columns if isinstance(kind, Table) else kind.categories
        out.obsm[name] = _frame(values, columns, out.obs_names)
    if kind is None:
        obs[name] = values[:, 0]
    elif isinstance(kind, pd.CategoricalDtype):
        known = ~np.isnan(values[:, 0])
        codes = np.where(known, np.nan_to_num(values).round(DECIMALS).argmax(axis=1), -1)  # of equal ones the first
        if tissue is not None:
            codes[known & tissue] = composed(values[known & tissue])
        obs[name] = pd.Categorical.from_codes(codes, dtype=kind)


def recompose(out: AnnData, labels: Mapping[str, Kind]) -> None:
    """Choose the labels of a section anew, by the composition of all of its rows."""
    for key, kind in labels.items():
        if isinstance(kind, pd.CategoricalDtype):
            _write(out, out.obs, key, out.obsm[key].to_numpy(dtype=float), kind, tissue=np.ones(out.n_obs, dtype=bool))


def composed(probabilities: FloatArray) -> NDArray[np.intp]:
    """(M,) label of each row: the likeliest ones of which there are as many as the probabilities, (M, C), sum to.

    Each label has a weight for all rows, found label by label, with which it is the likeliest of as many rows.
    """
    n_rows, n_labels = probabilities.shape
    total = probabilities.sum(axis=0)
    wanted = np.floor(total).astype(int)
    wanted[np.argsort(wanted - total, kind="stable")[: n_rows - wanted.sum()]] += 1
    scores = np.log(np.maximum(probabilities.round(DECIMALS), 10.0**-DECIMALS))
    for _ in range(SWEEPS):
        codes = scores.argmax(axis=1)
        if (np.bincount(codes, minlength=n_labels) == wanted).all():
            return codes
        for label, n in enumerate(wanted):
            lead = np.sort(np.delete(scores, label, axis=1).max(axis=1) - scores[:, label])
            last, first = lead[n - 1] if n else lead[0] - 1, lead[n] if n < n_rows else lead[-1] + 1
            scores[:, label] += (last + first) / 2
    return _settled(scores, probabilities > 0, wanted)


def _settled(scores: FloatArray, possible: NDArray[np.bool_], wanted: NDArray[np.intp]) -> NDArray[np.intp]:
    """(M,) labels whose counts equal scores leave open: rows go where they lose least, and only where they can."""
    codes = scores.argmax(axis=1)
    for label in range(len(wanted)):
        for other in range(len(wanted)):
            counts = np.bincount(codes, minlength=len(wanted))
            n = min(wanted[label] - counts[label], counts[other] - wanted[other])
            if n > 0:
                (rows,) = np.nonzero((codes == other) & possible[:, label])
                lost = (scores[rows, other] - scores[rows, label]).round(DECIMALS)
                codes[rows[np.argsort(lost, kind="stable")[:n]]] = label
    return codes


def _frame(values: FloatArray, names: Sequence[str], index: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(values.astype(np.float32), index=index, columns=_written(names))


def _written(names: Sequence[str]) -> list[str]:
    """Names of columns that files can hold."""
    columns = [_keys.label_column(name) for name in names]
    return [f"({column})" if column in UNWRITABLE else column for column in columns]


def _palette(labels: pd.CategoricalDtype, grids: Sequence[io.SliceGrid], key: str) -> list[str]:
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
