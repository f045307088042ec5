"""What a section says of its spots beside expression: labels such as domains or cell types, and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData

from c2sti import _keys


@dataclass(frozen=True)
class Annotations:
    """Some columns of `obs`, in the order asked for.

    Parameters
    ----------
    columns
        (n, number of keys): labels as categories of strings, numbers as float64; NaN where unknown.
    colours
        For labels that the container has colours for, the colour of each category.
    """

    columns: pd.DataFrame = field(default_factory=pd.DataFrame)
    colours: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_annotations(adata: AnnData, name: str, keys: Sequence[str]) -> Annotations:
    """Read columns of `obs`, and their colours by scanpy's convention, ``uns["<key>_colors"]``.

    Raises
    ------
    KeyError
        There is no such column; the message lists those that are.
    ValueError
        A column holds nothing that is known, or neither labels nor numbers; or its name is taken in a result.
    """
    columns = {key: _column(adata, name, key) for key in keys}
    found = {key: _colours(adata, key, column) for key, column in columns.items() if is_labels(column)}
    return Annotations(
        pd.DataFrame(columns, index=adata.obs_names), {key: colours for key, colours in found.items() if colours}
    )


def is_labels(column: pd.Series) -> bool:
    """Whether a column of annotations holds labels, not numbers."""
    return isinstance(column.dtype, pd.CategoricalDtype)


def _column(adata: AnnData, name: str, key: str) -> pd.Series:
    if key not in adata.obs:
        raise KeyError(f"{name} has no obs[{key!r}] (obs_keys=); its columns are {sorted(map(str, adata.obs))}")
    if key in _keys.TAKEN or "/" in key:
        reason = 'holds a "/", which files take for a folder' if "/" in key else "is a column of every result"
        raise ValueError(
            f"obs_keys= names {key!r}, which {reason}; rename the column first: adata.obs.rename(columns=)"
        )
    # What anndata.experimental.read_lazy has left on disk is no DataFrame yet.
    known = adata.obs[key] if isinstance(adata.obs, pd.DataFrame) else adata.obs[[key]].to_memory()[key]
    column = _typed(known, f"obs[{key!r}] of {name}")
    if not column.notna().any():
        raise ValueError(f"obs[{key!r}] of {name} holds nothing but NaN; leave it out of obs_keys=, or fill it in")
    return column


def _typed(column: pd.Series, where: str) -> pd.Series:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.rename_categories([str(c) for c in column.cat.categories])
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return pd.Series(np.where(np.isfinite(numbers), numbers, np.nan), index=column.index)
    if column.map(lambda value: isinstance(value, str) or pd.isna(value)).all():
        return column.astype(object).astype("category")
    kinds = sorted({type(value).__name__ for value in column.dropna()})
    raise ValueError(f"{where} holds {', '.join(kinds)}; labels (str, categories) or numbers can be carried")


def _colours(adata: AnnData, key: str, column: pd.Series) -> dict[str, str]:
    """Colour of each category; none where the palette does not fit the categories."""
    palette, categories = adata.uns.get(_keys.colours(key)), column.cat.categories
    if palette is None or len(palette) != len(categories):
        return {}
    return {c: str(colour) for c, colour in zip(categories, palette, strict=True)}
