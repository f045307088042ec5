"""Annotations of spots: labels with their colours, numbers, and tables such as cell-type proportions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray
from c2sti.io._places import obs_column

R_NAMES = """
antiquewhite2:eedfcc azure3:c1cdcd chartreuse3:66cd00 darkolivegreen2:bcee68 firebrick3:cd2626 gold2:eec900
grey10:1a1a1a grey20:333333 grey30:4d4d4d grey40:666666 grey50:7f7f7f grey60:999999 grey65:a6a6a6 grey77:c4c4c4
grey80:cccccc grey90:e5e5e5 indianred3:cd5555 khaki2:eee685 lightblue3:9ac0cd mediumorchid1:e066ff
mediumpurple3:8968cd olivedrab3:9acd32 orchid3:b452cd palegreen3:7ccd7c palevioletred3:cd6889 plum3:cd96cd
purple4:551a8b seagreen4:2e8b57 slategray3:9fb6cd snow4:8b8989 tomato2:ee5c42 violetred:d02090 wheat4:8b7e66
yellow4:8b8b00
"""  # names of R that scanpy reads beside those of matplotlib


@dataclass(frozen=True)
class Annotations:
    """Columns of `obs` and tables of `obsm` of one section, in the order asked for."""

    # (n, keys): labels as categories of text, whole numbers and booleans as they are, other numbers as float64; all NaN
    # where the section has nothing under a key.
    columns: pd.DataFrame = field(default_factory=pd.DataFrame)
    # By key of a column of labels, the colour of each category that has one, as hex text.
    colours: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # By key, (n, C) float64 with names of columns; NaN where unknown, C = 0 where the section has no such table.
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    # By key that the section has nothing of, what to raise where no other section has either.
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

    What is not there, or NaN throughout, is noted in `absent`. ValueError where a column holds neither labels nor
    numbers, a table something other than numbers, or a name is taken in a result.
    """
    for key in obs_keys:
        _check_name(key, "obs_keys", key in obsm_keys, "adata.obs = adata.obs.rename(columns={{{0!r}: {1!r}}})")
    for key in obsm_keys:
        _check_name(key, "obsm_keys", key in obs_keys, "adata.obsm[{1!r}] = adata.obsm.pop({0!r})")
    index, absent = adata.obs_names[rows], {}
    columns, colours, tables = {}, {}, {}
    for key in obs_keys:
        columns[key] = pd.Series(np.nan, index=index)
        if key in adata.obs:
            column = obs_column(adata, key)  # of all rows, by whose categories colours go
            if column.ndim != 1:
                raise ValueError(f"{name} has {column.shape[1]} columns obs[{key!r}]; rename or drop all but one")
            typed = _typed(column, f"obs[{key!r}] of {name}")
            if typed.iloc[rows].notna().any():
                columns[key] = typed.iloc[rows]
                if is_labels(typed):
                    categories = (column if is_labels(column) else typed).cat.categories
                    colours[key] = _colours(adata, name, key, [label_text(category) for category in categories])
                continue
        absent[key] = _reason(adata.obs, name, "obs", key)
    for key in obsm_keys:
        tables[key] = _table(adata, rows, name, key) if key in adata.obsm else pd.DataFrame(index=index)
        if not tables[key].notna().any(axis=None):
            tables[key] = pd.DataFrame(index=index)
            absent[key] = _reason(adata.obsm, name, "obsm", key)
    return Annotations(pd.DataFrame(columns, index=index), colours, tables, absent)


def is_labels(column: pd.Series) -> bool:
    """Whether a column of annotations holds labels, not numbers."""
    return isinstance(column.dtype, pd.CategoricalDtype)


def label_text(value: Any) -> str:
    """A label as text, the same for 1, 1.0 (whole numbers beside NaN) and "1"."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_name(key: str, argument: str, twice: bool, rename: str) -> None:
    fix = rename.format(key, "my_" + key.replace("/", "_"))
    if twice:
        raise ValueError(f"obs_keys= and obsm_keys= both name {key!r}; rename one of the two: {fix}")
    if key in _keys.TAKEN or "/" in key:
        raise ValueError(f"{argument}= names {key!r}; results use that name, or files cannot hold it: rename it, {fix}")


def _reason(held: Any, name: str, where: str, key: str) -> KeyError | ValueError:
    """Why a section has nothing under a key."""
    if key in held:
        return ValueError(
            f"{where}[{key!r}] of {name} holds nothing but NaN; leave it out of {where}_keys=, or fill it in"
        )
    return KeyError(f"{name} has no {where}[{key!r}] ({where}_keys=); it has {sorted(map(str, held))}")


# ---- colours


def _colours(adata: AnnData, name: str, key: str, categories: list[str]) -> dict[str, str]:
    """Colours of all categories of a column of `obs` as hex text; the log says which cannot be read."""
    palette = adata.uns.get(_keys.colours(key))
    if palette is None:
        return {}
    where = f"uns[{_keys.colours(key)!r}] of {name}"
    given = _by_category(palette, categories)
    if not given:
        found = _validators.shown(palette)
        _logging.warning(f"{where} holds {found}, not a colour for each of {len(categories)} categories; left out")
    colours = {category: _hex(colour) for category, colour in given.items()}
    wrong = [f"{_validators.shown(given[category])} for {category!r}" for category, c in colours.items() if c is None]
    if wrong:
        _logging.warning(f"{where} holds {', '.join(wrong)}, which cannot be read as a colour; left out")
    return {category: colour for category, colour in colours.items() if colour is not None}


def _by_category(palette: Any, categories: list[str]) -> dict[str, Any]:
    """What a palette gives each category: by name, or in their order; nothing where it gives fewer."""
    palette = palette.compute() if hasattr(palette, "compute") else palette  # of a lazy object
    palette = palette.to_numpy() if hasattr(palette, "to_numpy") else palette
    if isinstance(palette, np.ndarray):  # of one: a view of anndata puts a dict, or one text, into an array
        palette = palette.item() if palette.size == 1 else list(palette)
    if isinstance(palette, Mapping):
        by_name = {label_text(category): colour for category, colour in palette.items()}
        return {category: by_name[category] for category in categories if category in by_name}
    colours = [palette] if isinstance(palette, str | bytes) else list(palette) if isinstance(palette, Iterable) else []
    if colours and isinstance(colours[0], Real):  # the channels of one colour
        colours = [tuple(colours)]
    return dict(zip(categories, colours, strict=False)) if len(colours) >= len(categories) else {}


def _hex(colour: Any) -> str | None:
    """A colour as hex text, with alpha where it is not opaque; None if it is none."""
    from matplotlib.colors import to_hex, to_rgba  # noqa: PLC0415 - loaded where colours are carried only

    colour = colour.decode() if isinstance(colour, bytes) else colour
    if isinstance(colour, str):
        of_r = dict(pair.split(":") for pair in R_NAMES.split())
        colour = f"#{of_r[short]}" if (short := colour.replace(" ", "")) in of_r else colour
    try:
        return str(to_hex(colour, keep_alpha=to_rgba(colour)[3] < 1))
    except (ValueError, TypeError):
        return None


# ---- columns


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


# ---- tables


def _table(adata: AnnData, rows: NDArray[np.intp], name: str, key: str) -> pd.DataFrame:
    """(n, C) a table of `obsm` as float64, with names of columns as text."""
    where = f"obsm[{key!r}] of {name}"
    held = _rows_in_memory(adata.obsm[key], rows)
    if np.ndim(held) > 2:
        raise ValueError(f"{where} has shape {held.shape}; a DataFrame or an (n, C) array of numbers can be carried")
    frame = pd.DataFrame(held)
    frame = frame.set_axis([label_text(column) for column in frame.columns], axis=1).set_axis(adata.obs_names[rows])
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"{where} has more than one column {twice[0]!r}; rename or drop all but one")
    columns = {}
    for column in frame:
        values = _typed(frame[column], f"column {column!r} of {where}")
        if is_labels(values):
            raise ValueError(
                f"{where} holds labels in {column!r}; tables of numbers can be carried, and labels from obs: "
                f"adata.obs[{column!r}] = adata.obsm[{key!r}][{column!r}], obs_keys={column!r}"
            )
        columns[column] = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.DataFrame(columns, index=frame.index)


def _rows_in_memory(held: Any, rows: NDArray[np.intp]) -> Any:
    """Some rows of what `obsm` holds, dense; of lazy objects no others are read."""
    if hasattr(held, "iloc"):  # a DataFrame, or the one that anndata.experimental.read_lazy leaves on disk
        held = held.iloc[rows]
        return held.to_memory() if hasattr(held, "to_memory") else held
    held = held.tocsr() if sp.issparse(held) else held
    some = held[rows]
    some = some.compute() if hasattr(some, "compute") else some
    return some.toarray() if sp.issparse(some) else np.asarray(some)
