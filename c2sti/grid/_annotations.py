"""What a section says of its spots beside expression: labels, numbers, and tables such as cell-type proportions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys
from c2sti._types import FloatArray
from c2sti.grid._colours import label_text, read_colours
from c2sti.grid._rows import obs_column


@dataclass(frozen=True)
class Annotations:
    """Columns of `obs` and tables of `obsm` of one section, in the order asked for.

    Parameters
    ----------
    columns
        (n, number of keys): labels as categories of text; whole numbers and booleans as the container has them; other
        numbers as float64. All NaN where the section has nothing under a key.
    colours
        By key of a column of labels, the colour of each category that has one, as hex text.
    tables
        By key, (n, C) float64 with names of columns; NaN where unknown, C = 0 where the section has no such table.
    absent
        By key that the section has nothing of, what to raise where no other section has either.
    """

    columns: pd.DataFrame = field(default_factory=pd.DataFrame)
    colours: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    absent: Mapping[str, KeyError | ValueError] = field(default_factory=dict)

    def labels(self, key: str) -> pd.Series:
        """(n,) a column as categories of text."""
        return _as_labels(self.columns[key])

    def numbers(self, key: str) -> FloatArray:
        """(n,) a column of numbers as float64, NaN where unknown."""
        return self.columns[key].to_numpy(dtype=np.float64, na_value=np.nan)


def read_annotations(
    adata: AnnData, rows: NDArray[np.intp], name: str, obs_keys: Sequence[str], obsm_keys: Sequence[str]
) -> Annotations:
    """Read columns of `obs` with their colours, ``uns["<key>_colors"]``, and tables of `obsm`.

    Parameters
    ----------
    adata
        The object that holds it.
    rows
        (n,) those of the section.
    name
        What errors call the section.
    obs_keys, obsm_keys
        Columns and tables wanted. What is not there, or NaN throughout, is noted in `absent`.

    Raises
    ------
    TypeError, ValueError
        A column holds neither labels nor numbers, a table something other than numbers, or a name is taken in a result.
    """
    for argument, keys, elsewhere in (("obs_keys", obs_keys, obsm_keys), ("obsm_keys", obsm_keys, obs_keys)):
        for key in keys:
            _check_name(key, argument, key in elsewhere)
    index, absent = adata.obs_names[rows], {}
    columns, colours, tables = {}, {}, {}
    for key in obs_keys:
        column = _column(adata, name, key)
        columns[key] = _unknown(index) if column is None else _typed(column, f"obs[{key!r}] of {name}").iloc[rows]
        if column is None or not columns[key].notna().any():
            columns[key], absent[key] = _unknown(index), _reason(adata, name, key, "obs", column is not None)
        elif is_labels(columns[key]) and (found := read_colours(adata, name, key, _declared(column, key))):
            colours[key] = found
    for key in obsm_keys:
        tables[key] = _table(adata, rows, name, key) if key in adata.obsm else pd.DataFrame(index=index)
        if not tables[key].notna().any(axis=None):
            tables[key] = pd.DataFrame(index=index)
            absent[key] = _reason(adata, name, key, "obsm", key in adata.obsm)
    return Annotations(pd.DataFrame(columns, index=index), colours, tables, absent)


def is_labels(column: pd.Series) -> bool:
    """Whether a column of annotations holds labels, not numbers."""
    return isinstance(column.dtype, pd.CategoricalDtype)


def _check_name(key: str, argument: str, twice: bool) -> None:
    new = "my_" + key.replace("/", "_")
    fix = f"adata.obs = adata.obs.rename(columns={{{key!r}: {new!r}}})"
    fix = fix if argument == "obs_keys" else f"adata.obsm[{new!r}] = adata.obsm.pop({key!r})"
    if twice:
        raise ValueError(f"obs_keys= and obsm_keys= both name {key!r}; rename one of the two: {fix}")
    if key in _keys.TAKEN or "/" in key:
        reason = 'holds a "/", which files take for a folder' if "/" in key else "is a name that results use"
        raise ValueError(f"{argument}= names {key!r}, which {reason}; rename it first: {fix}")


def _unknown(index: pd.Index) -> pd.Series:
    return pd.Series(np.nan, index=index)


def _reason(adata: AnnData, name: str, key: str, where: str, there: bool) -> KeyError | ValueError:
    """Why a section has nothing under a key."""
    if there:
        return ValueError(
            f"{where}[{key!r}] of {name} holds nothing but NaN; leave it out of {where}_keys=, or fill it in"
        )
    known = {"obs": sorted(map(str, adata.obs)), "obsm": sorted(map(str, adata.obsm))}
    listed = "its columns are" if where == "obs" else "it has"
    other = "obsm" if where == "obs" else "obs"
    hint = f"; there is {other}[{key!r}], which {other}_keys= carries" if key in known[other] else ""
    return KeyError(f"{name} has no {where}[{key!r}] ({where}_keys=); {listed} {known[where]}{hint}")


# ---- columns


def _column(adata: AnnData, name: str, key: str) -> pd.Series | None:
    """A column of `obs`, of all rows: colours go by the categories of all of them."""
    if key not in adata.obs:
        return None
    column = obs_column(adata, key)
    if column.ndim != 1:
        raise ValueError(f"{name} has {column.shape[1]} columns obs[{key!r}]; rename or drop all but one")
    return column


def _typed(column: pd.Series, where: str) -> pd.Series:
    """Labels as categories of text, whole numbers and booleans as they are, other numbers as float64."""
    if is_labels(column):
        return _as_labels(column)
    values = _of_numpy(column)
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_integer_dtype(values.dtype):
        return values
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_complex_dtype(values.dtype):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        return pd.Series(np.where(np.isfinite(numbers), numbers, np.nan), index=column.index)
    kinds = {type(value) for value in values.dropna()}
    if all(issubclass(kind, str | bytes | int | float | np.number | np.bool_) for kind in kinds):
        return _as_labels(values.map(label_text, na_action="ignore"))
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ValueError(f"{where} holds {found}; labels (str, categories) or numbers can be carried")


def _of_numpy(column: pd.Series) -> pd.Series:
    """A column without the types of arrow, of sparse arrays, or of objects that are all of one kind of number."""
    if isinstance(column.dtype, pd.SparseDtype):
        return column.sparse.to_dense()
    if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
        return column
    values = column.astype(object)
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind == "boolean":
        return values.astype("boolean")
    if kind in ("empty", "integer", "floating", "mixed-integer-float", "decimal"):
        numbers = pd.Series(values.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index)
        return numbers.astype("Int64") if kind == "integer" and numbers.abs().max() < 2**53 else numbers
    return values


def _as_labels(column: pd.Series) -> pd.Series:
    """A column as categories of text, in the order of its categories; those of the same text are one."""
    column = column if is_labels(column) else column.astype("category")
    text = pd.Index([label_text(category) for category in column.cat.categories], dtype=object)
    codes = np.append(text.unique().get_indexer(text), -1)[column.cat.codes]
    labels = pd.Categorical.from_codes(codes, categories=text.unique(), ordered=column.cat.ordered)
    return pd.Series(labels, index=column.index)


def _declared(column: pd.Series, key: str) -> list[str]:
    """All categories of a column as text, in the order of its colours."""
    return [label_text(category) for category in (column if is_labels(column) else _typed(column, key)).cat.categories]


# ---- tables


def _table(adata: AnnData, rows: NDArray[np.intp], name: str, key: str) -> pd.DataFrame:
    """(n, C) a table of `obsm` as float64, with names of columns as text."""
    where = f"obsm[{key!r}] of {name}"
    held = _rows_in_memory(adata.obsm[key], rows)
    if not hasattr(held, "shape") or len(held.shape) > 2:
        found = f"has shape {held.shape}" if hasattr(held, "shape") else f"is a {type(held).__name__}"
        raise ValueError(f"{where} {found}; a DataFrame or an (n, C) array of numbers can be carried")
    frame = held if isinstance(held, pd.DataFrame) else pd.DataFrame(held)
    frame = frame.set_axis([label_text(column) for column in frame.columns], axis=1).set_axis(adata.obs_names[rows])
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"{where} has more than one column {twice[0]!r}; rename or drop all but one")
    typed = {column: _typed(frame[column], f"column {column!r} of {where}") for column in frame}
    labels = [column for column, values in typed.items() if is_labels(values)]
    if labels:
        raise ValueError(
            f"{where} holds labels in {labels}; tables of numbers can be carried, and labels from obs: "
            f"adata.obs[{labels[0]!r}] = adata.obsm[{key!r}][{labels[0]!r}], obs_keys={labels[0]!r}"
        )
    columns = {column: values.to_numpy(dtype=np.float64, na_value=np.nan) for column, values in typed.items()}
    return pd.DataFrame(columns, index=frame.index)


def _rows_in_memory(held: Any, rows: NDArray[np.intp]) -> Any:
    """Some rows of what `obsm` holds, dense; of lazy objects no others are read."""
    if hasattr(held, "iloc"):  # a DataFrame, or the one that anndata.experimental.read_lazy leaves on disk
        held = held.iloc[rows]
        return held.to_memory() if hasattr(held, "to_memory") else held
    if not hasattr(held, "shape"):
        return held
    held = held.tocsr() if sp.issparse(held) else held
    some = held[rows]
    some = some.compute() if hasattr(some, "compute") else some
    return some.toarray() if sp.issparse(some) else np.asarray(some)
