"""Which library of `uns` is that of a section, by squidpy's convention, and how its images are scaled.

``uns["spatial"]`` holds a library for each slide: ``{"images": {"hires": array, …}, "scalefactors":
{"tissue_hires_scalef": pixels per unit, …}}``. Entries beside the libraries, such as CELLxGENE's "is_single", are
passed over.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _check, _keys, _log
from c2sti.grid._rows import obs_column

LIBRARY_ID = "library_id"  # obs: library of each row, by squidpy's convention
FIRST = ("hires", "lowres")  # images that are taken before any other
PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


class UnusableImage(ValueError):
    """An image that is there and cannot be used; the message says why, and what the fix is."""


@dataclass(frozen=True)
class Library:
    """Images of one slide.

    Parameters
    ----------
    name
        Its key.
    where
        What messages call it, e.g. ``"uns['spatial']['S1']"``.
    content
        ``{"images": …, "scalefactors": …}``.
    foreign
        Whether it lies in the frame of ``obsm["spatial"]``, and that is not the one that is read.
    """

    name: str
    where: str
    content: Mapping[str, Any]
    foreign: bool = False

    @property
    def images(self) -> dict[str, Any]:
        """Images by the name of their resolution, hires and lowres first, then from fine to coarse.

        Raises
        ------
        UnusableImage
            They are no dict.
        """
        held = self.content.get("images")
        found = {k: v for k, v in _mapping(held, f"{self.where}['images']").items() if v is not None}
        first = [name for name in FIRST if name in found]
        rest = sorted(found.keys() - set(first), key=lambda name: (-(self.scale(name) or 0.0), str(name)))
        return {name: found[name] for name in (*first, *rest)}

    @property
    def factors(self) -> Mapping[str, Any]:
        """Scale factors by name; none where there are none."""
        return _mapping(self.content.get("scalefactors"), f"{self.where}['scalefactors']")

    def scale(self, resolution: str) -> float | None:
        """Pixels per unit of the coordinates; None where there is no such number, or it is not positive and finite."""
        found = as_number(self.factors.get(scale_key(resolution)))
        return found if found is not None and 0 < found < np.inf else None


def scale_key(resolution: str) -> str:
    """Scale factor of an image."""
    return f"tissue_{resolution}_scalef"


def as_number(value: Any) -> float | None:
    """A number as Python's, numpy's, text or the only entry of an array; None where it is none."""
    if isinstance(value, str | bytes):
        try:
            return float(value)
        except ValueError:
            return None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    try:
        return _check.number(value, "value")
    except (TypeError, ValueError):
        return None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UnusableImage(f"{where} is a {type(value).__name__}; a dict by squidpy's convention is needed, or none")
    return value or {}


def unusable(fault: UnusableImage, name: str, *, named: bool) -> str:
    """Say that a section has an image that cannot be used: an error where the user named it, else a warning.

    Returns
    -------
    The reason.
    """
    if named:
        raise UnusableImage(f"the image of {name} cannot be used: {fault}") from fault
    warnings.warn(f"the image of {name} is not used: {fault}", UserWarning, stacklevel=outside())
    return str(fault)


def outside() -> int:
    """The `stacklevel` of a warning by which it points to the line that called c2sti."""
    level, frame = 0, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    return level + 1


def section_library(
    adata: AnnData,
    name: str,
    spatial_key: str,
    image_key: str | None = None,
    library: str | None = None,
    rows: NDArray[np.intp] | None = None,
) -> Library | None:
    """The library with the images of a section; None where there is none.

    The one that `image_key` names; else `library`; else the one that a text column of `obs` names in every row of the
    section; else the only one that there is, unless it is another section's.

    Parameters
    ----------
    adata
        That holds the section.
    name
        What errors call the section.
    spatial_key
        Key of its coordinates. Where `uns` holds no images under it, those of ``uns["spatial"]`` are looked at.
    image_key
        Library that the user names.
    library
        Name of the section, where one object holds several.
    rows
        (n,) rows of the section, None for all.

    Raises
    ------
    KeyError
        There is no library `image_key`.
    ValueError
        There are several, and nothing tells which is meant.
    UnusableImage
        What is there is no library, or belongs to another section.
    """
    key = spatial_key
    held = _libraries(adata.uns.get(key), f"uns[{key!r}]")
    if not _with_images(held):
        elsewhere = _libraries(adata.uns.get(_keys.SPATIAL), f"uns[{_keys.SPATIAL!r}]")
        key, held = (_keys.SPATIAL, elsewhere) if _with_images(elsewhere) else (key, held)
    if image_key is None:
        chosen = _chosen(adata, name, key, held, library, rows)
    else:
        chosen = _named(adata, name, key, held, image_key, rows)
    if chosen not in _with_images(held):
        return None
    foreign = key != spatial_key and not _one_frame(adata, spatial_key, rows)
    found = Library(str(chosen), f"uns[{key!r}][{chosen!r}]", held[chosen], foreign)
    return found if found.images and found.factors is not None else None


def _libraries(found: Any, where: str) -> dict[Any, Mapping[str, Any]]:
    """Entries that are libraries."""
    return {key: value for key, value in _mapping(found, where).items() if isinstance(value, Mapping)}


def _with_images(held: Mapping[Any, Mapping[str, Any]]) -> list[Any]:
    """Names of the libraries that hold images, sorted; a mapping without any holds none."""
    return sorted((k for k, one in held.items() if not _is_empty(one.get("images"))), key=str)


def _is_empty(images: Any) -> bool:
    return images is None or (isinstance(images, Mapping) and not images)


def _named(
    adata: AnnData,
    name: str,
    key: str,
    held: Mapping[Any, Mapping[str, Any]],
    image_key: str,
    rows: NDArray[np.intp] | None,
) -> Any:
    """The library that the user names; the section's own where one name was given for all sections."""
    there = _with_images(held)
    if image_key not in there:
        raise KeyError(f"{name} has no image {image_key!r} in uns[{key!r}]; it has {there}")
    columns = {column: own for column, (own, _) in _text_columns(adata, rows).items() if own in there}
    if len(set(columns.values())) != 1 or image_key in columns.values():
        return image_key
    column, own = next(iter(columns.items()))
    warnings.warn(
        f"obs[{column!r}] of {name} says that its image is {own!r}, which is used, and not {image_key!r}; leave out "
        f"image_key=, or correct obs[{column!r}]",
        UserWarning,
        stacklevel=outside(),
    )
    return own


def _chosen(
    adata: AnnData,
    name: str,
    key: str,
    held: Mapping[Any, Mapping[str, Any]],
    library: str | None,
    rows: NDArray[np.intp] | None,
) -> Any:
    """Name of the section's library; None where it has none."""
    there = _with_images(held)
    if library in held or not there:
        return library
    columns = _text_columns(adata, rows)
    named = sorted({own for own, _ in columns.values() if own is not None and own in held})
    if len(named) == 1:
        return named[0]
    if len(there) > 1:
        raise ValueError(
            f"{name} has images of {there} in uns[{key!r}]; choose one with image_key= (of several sections, one each: "
            f"image_key={there[:2]}), or delete the others: del adata.uns[{key!r}][{there[0]!r}]"
        )
    for column, (own, values) in columns.items():
        for section in {own, library} - {None, there[0]}:
            if {section, there[0]} <= values:
                raise UnusableImage(
                    f"obs[{column!r}] says that the section is {section!r}, and the only image in uns[{key!r}] is that "
                    f"of {there[0]!r}; put that of {section!r} there, or, if it shows both, image_key={there[0]!r}"
                )
    if LIBRARY_ID in columns and columns[LIBRARY_ID][0] is not None:
        _log.warning(
            f"obs[{LIBRARY_ID!r}] of {name} says {columns[LIBRARY_ID][0]!r}; the image used is that of {there[0]!r}, "
            f"the only one in uns[{key!r}]"
        )
    return there[0]


def _text_columns(adata: AnnData, rows: NDArray[np.intp] | None) -> dict[str, tuple[str | None, set[str]]]:
    """Of each column of text the value that all rows of the section share, if they do, and all values, used or not."""
    found = {}
    for key in adata.obs.columns:
        column = obs_column(adata, key)
        if not isinstance(column.dtype, pd.CategoricalDtype):
            if not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
                continue
            column = column.astype(str).astype("category")
        categories = column.cat.categories.astype(str)
        codes = column.cat.codes.to_numpy()
        codes = codes if rows is None else codes[rows]
        constant = len(codes) > 0 and codes[0] >= 0 and bool((codes == codes[0]).all())
        found[str(key)] = (categories[codes[0]] if constant else None, set(categories))
    return found


def _one_frame(adata: AnnData, spatial_key: str, rows: NDArray[np.intp] | None) -> bool:
    """Whether the coordinates read are those of ``obsm["spatial"]``, or there are none of that name."""
    if _keys.SPATIAL not in adata.obsm:
        return True
    own = slice(None) if rows is None else rows
    read, spatial = (np.asarray(adata.obsm[key])[own] for key in (spatial_key, _keys.SPATIAL))
    if read.ndim != 2 or spatial.ndim != 2 or not (_check.is_real(read.dtype) and _check.is_real(spatial.dtype)):
        return False
    return bool(np.allclose(read[:, :2], spatial[:, :2], rtol=1e-6, atol=1e-6 * np.ptp(spatial[:, :2]), equal_nan=True))
