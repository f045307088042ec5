"""Which rows of a container are a section: those that its library column names, less those outside of the tissue."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging, _validators

OUTSIDE = frozenset({"0", "0.0", "false", "no"})  # how text says that a spot is not in tissue


def obs_column(adata: AnnData, key: str) -> pd.Series:
    """A column of `obs` in memory; ``anndata.experimental.read_lazy`` leaves it on disk."""
    return adata.obs[key] if isinstance(adata.obs, pd.DataFrame) else adata.obs[[key]].to_memory()[key]


def as_numbers(column: pd.Series, where: str) -> NDArray[np.float64]:
    """(n,) a column as float64, NaN where it is missing, whatever pandas keeps it as.

    Raises
    ------
    TypeError
        It holds something other than numbers.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    known = column.dropna()
    numbers = pd.Series(np.nan, index=column.index)
    numbers[known.index] = _validators.reals(known.to_numpy(), where)
    return numbers.to_numpy()


def library_names(adata: AnnData, library_key: str, name: str) -> list[str]:
    """Names of the sections that one object holds, in order of z where every section has one, else of the categories.

    Parameters
    ----------
    adata
        The object, or the table of one.
    library_key
        Column of `obs` that names the section of each row.
    name
        What errors call the object.

    Raises
    ------
    KeyError
        There is no such column; the message lists those that are.
    ValueError
        It is empty.

    Warns
    -----
    UserWarning
        The order is that of text, which numbers in the names contradict ("s10" before "s2").
    """
    if _validators.text(library_key, "library_key") not in adata.obs:
        raise KeyError(
            f"{name} has no obs[{library_key!r}] (library_key=); its columns are {sorted(map(str, adata.obs))}"
        )
    column = obs_column(adata, library_key)
    if column.isna().any():
        raise ValueError(
            f"obs[{library_key!r}] of {name} is missing for {int(column.isna().sum())} of {len(column)} rows; name the "
            "section of each row, or drop them"
        )
    names = _ordered(column)
    if not names:
        raise ValueError(f"{name} has no rows")
    z = [_z_of_rows(adata, np.flatnonzero((column.astype(str) == n).to_numpy())) for n in names]
    if len(set(z)) == len(z) and not np.isnan(z).any():
        names = [names[i] for i in np.argsort(z)]
        _logging.info(f"sections of {name} in order of z: {', '.join(names)}")
        return names
    natural = sorted(names, key=_natural)
    if names == sorted(names) and names != natural:
        where = f"adata.obs[{library_key!r}]"
        warnings.warn(
            f"the sections of {name} are taken in the order of text, {', '.join(names)}; if {', '.join(natural)} is "
            f"the order of the series, say so: {where} = {where}.astype('category').cat.reorder_categories("
            f"{natural}), or give each section its z in obs['z_um']",
            UserWarning,
            stacklevel=5,
        )
    _logging.info(f"sections of {name} in order of obs[{library_key!r}]: {', '.join(names)}")
    return names


def _ordered(column: pd.Series) -> list[str]:
    """Values that occur: categories in their order, others as they first appear."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [str(c) for c in column.cat.remove_unused_categories().cat.categories]
    return [str(value) for value in column.unique()]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which "s2" comes before "s10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _z_of_rows(adata: AnnData, rows: NDArray[np.intp]) -> float:
    """The z that all of some rows carry; NaN where they carry none or several."""
    for key in (_keys.Z_UM, _keys.Z):
        if key in adata.obs:
            found = np.unique(as_numbers(obs_column(adata, key).iloc[rows], f"obs[{key!r}]"))
            found = found[np.isfinite(found)]
            return float(found[0]) if len(found) == 1 else float("nan")
    return float("nan")


def library_rows(adata: AnnData, library_key: str, library: str) -> NDArray[np.intp]:
    """(n,) rows that belong to one section."""
    return np.flatnonzero((obs_column(adata, library_key).astype(str) == library).to_numpy())


def tissue_rows(adata: AnnData, rows: NDArray[np.intp], name: str) -> NDArray[np.intp]:
    """The rows less those that ``obs["in_tissue"]`` says lie outside of the tissue; a missing value says nothing.

    Raises
    ------
    ValueError
        None is left.
    """
    if _keys.IN_TISSUE not in adata.obs:
        return rows
    column = obs_column(adata, _keys.IN_TISSUE).iloc[rows]
    codes, values = pd.factorize(column)  # -1 where a value is missing
    outside = np.array([*map(_is_outside, values), False])[codes]
    if outside.all():
        raise ValueError(
            f"obs[{_keys.IN_TISSUE!r}] of {name} says that none of its {len(rows)} rows lies in tissue; correct the "
            "column, or delete it"
        )
    if outside.any():
        _logging.info(f"{name}: {int(outside.sum())} of {len(rows)} rows lie outside of the tissue (obs['in_tissue'])")
    return rows[~outside]


def _is_outside(value: Any) -> bool:
    return str(value).strip().lower() in OUTSIDE
