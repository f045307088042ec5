"""Which image in `uns` is the H&E of a section, by squidpy's convention, and whether it can be used."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray
from c2sti.io._histology import HEImage, UnusableImage, check_colours, check_under, on_white
from c2sti.io._places import obs_column

if TYPE_CHECKING:
    from c2sti.io._read import Source

LIBRARY_ID = "library_id"  # obs: library of each row, by squidpy's convention
FIRST = ("hires", "lowres")  # images that are taken before any other
PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


@dataclass(frozen=True)
class Library:
    """Images of one slide."""

    name: str
    where: str  # what messages call it, e.g. ``"uns['spatial']['S1']"``
    content: Mapping[str, Any]  # ``{"images": …, "scalefactors": …}``

    @property
    def images(self) -> dict[str, Any]:
        """Images by the name of their resolution, hires and lowres first, then from fine to coarse."""
        held = _mapping(self.content.get("images"), f"{self.where}['images']")
        found = {name: image for name, image in held.items() if image is not None}
        first = [name for name in FIRST if name in found]
        rest = sorted(found.keys() - set(first), key=lambda name: (-(self.scale(name) or 0.0), str(name)))
        return {name: found[name] for name in (*first, *rest)}

    @property
    def factors(self) -> Mapping[str, Any]:
        """Scale factors by name; none where there are none."""
        return _mapping(self.content.get("scalefactors"), f"{self.where}['scalefactors']")

    def scale(self, resolution: str) -> float | None:
        """Pixels per unit of the coordinates; None where there is no such number, positive and finite."""
        found = as_number(self.factors.get(scale_key(resolution)))
        return found if found is not None and 0 < found < np.inf else None


def image_of(library: Mapping[str, Any], name: str) -> HEImage:
    """H&E of one library, of whatever coordinates; ValueError where it holds none that can be used."""
    whole = isinstance(library, Mapping) and {"images", "scalefactors"} <= set(library)
    found = first_usable(Library("", name, library), None) if whole else None
    if found is None:
        raise ValueError(
            f'{name} is no H&E image; give a library of uns["spatial"], {{"images": {{"hires": array}}, '
            '"scalefactors": {"tissue_hires_scalef": pixels per unit}}'
        )
    return found


def section_library(source: Source, adata: AnnData, rows: NDArray[np.intp]) -> Library | None:
    """The library with the images of a section, of the (n,) rows of an AnnData; None where there is none.

    The one that `image_key` names; else `library`; else the one that a text column of `obs` names in every row of the
    section; else the only one that there is, unless it is another section's. Where `uns` holds no images under the key
    of the coordinates, those of ``uns["spatial"]`` are looked at. KeyError or ValueError where there is no library
    `image_key`, or nothing tells which of several is meant; UnusableImage where what is there is no library, or belongs
    to another section or to other coordinates.
    """
    name, spatial_key, image_key, library = source.name, source.spatial_key, source.image_key, source.library
    for key in (spatial_key, _keys.SPATIAL):
        held = {k: v for k, v in _mapping(adata.uns.get(key), f"uns[{key!r}]").items() if isinstance(v, Mapping)}
        with_images = sorted((k for k, one in held.items() if not _is_empty(one.get("images"))), key=str)
        if with_images:
            break
    if image_key is not None and image_key not in with_images:
        raise KeyError(f"{name} has no image {image_key!r} in uns[{key!r}]; it has {with_images}")
    chosen: Any = library
    if image_key is not None or (with_images and library not in held):
        chosen = _chosen(name, key, held, with_images, image_key, library, _text_columns(adata, rows))
    if chosen not in with_images:
        return None
    found = Library(str(chosen), f"uns[{key!r}][{chosen!r}]", held[chosen])
    if not found.images or found.factors is None:
        return None
    if key != spatial_key and key in adata.obsm:
        read, own = (np.asarray(adata.obsm[one], dtype=np.float64)[rows, :2] for one in (spatial_key, key))
        if not np.allclose(read, own, rtol=1e-6, atol=1e-6 * np.ptp(own), equal_nan=True):
            first_usable(found, own)  # raises where the image cannot be used under its own coordinates either
            raise UnusableImage(
                f"{found.where} lies in the frame of obsm[{key!r}], and the coordinates read are "
                f"obsm[{spatial_key!r}]; c2sti.pp.align moves an image along, or put one that lies there into "
                f"uns[{spatial_key!r}]"
            )
    return found


def scale_key(resolution: str) -> str:
    """Key of an image's scale factor."""
    return f"tissue_{resolution}_scalef"


def as_number(value: Any) -> float | None:
    """A number as such, as text or as the only entry of an array; None for anything else."""
    try:
        return float(np.asarray(value).item())
    except (TypeError, ValueError):
        return None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UnusableImage(f"{where} is a {type(value).__name__}; a dict by squidpy's convention is needed, or none")
    return value or {}


def _is_empty(images: Any) -> bool:
    return images is None or (isinstance(images, Mapping) and not images)


def _chosen(
    name: str,
    key: str,
    held: Mapping[Any, Mapping[str, Any]],
    with_images: list[Any],
    image_key: str | None,
    library: str | None,
    columns: Mapping[str, tuple[str | None, set[str]]],
) -> Any:
    """Name of the section's library; `columns` as of :func:`_text_columns`."""
    known = held if image_key is None else with_images
    named = {column: own for column, (own, _) in columns.items() if own in known}
    column, own = next(iter(named.items()), (None, None))
    if image_key is not None:  # one name may have been given for all sections
        if len(set(named.values())) != 1 or own == image_key:
            return image_key
        warn_caller(
            f"obs[{column!r}] of {name} says that its image is {own!r}, which is used, and not {image_key!r}; leave "
            f"out image_key=, or correct obs[{column!r}]"
        )
    if len(set(named.values())) == 1:
        return own
    only = with_images[0]
    if len(with_images) > 1:
        raise ValueError(
            f"{name} has images of {with_images} in uns[{key!r}]; choose one with image_key= (of several sections, one "
            f"each: image_key={with_images[:2]}), or delete the others: del adata.uns[{key!r}][{only!r}]"
        )
    for column, (own, values) in columns.items():
        for section in {own, library} - {None, only}:
            if {section, only} <= values:
                raise UnusableImage(
                    f"obs[{column!r}] says that the section is {section!r}, and the only image in uns[{key!r}] is that "
                    f"of {only!r}; put that of {section!r} there, or, if it shows both, image_key={only!r}"
                )
    if (own := columns.get(LIBRARY_ID, (None, set()))[0]) is not None:
        _logging.warning(
            f"obs[{LIBRARY_ID!r}] of {name} says {own!r}; the image used is that of {only!r}, the only one in "
            f"uns[{key!r}]"
        )
    return only


def _text_columns(adata: AnnData, rows: NDArray[np.intp]) -> dict[str, tuple[str | None, set[str]]]:
    """Of each column of text the value that all rows of the section share, if they do, and all values, used or not."""
    found = {}
    for key in adata.obs.columns:
        column = obs_column(adata, key)
        if not isinstance(column.dtype, pd.CategoricalDtype):
            if not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
                continue
            column = column.astype(str).astype("category")
        categories, codes = column.cat.categories.astype(str), column.cat.codes.to_numpy()[rows]
        constant = len(codes) > 0 and codes[0] >= 0 and bool((codes == codes[0]).all())
        found[str(key)] = (categories[codes[0]] if constant else None, set(categories))
    return found


def first_usable(library: Library, xy: FloatArray | None) -> HEImage | None:
    """The first image of a library that can be used, under (n, 2) spots if these are given; None without images."""
    faults = []
    for resolution, values in library.images.items():
        try:
            image = _image(library, resolution, values)
            if xy is not None:
                check_under(image, xy)
        except UnusableImage as fault:
            faults.append(str(fault))
            continue
        if faults:
            _logging.warning(f"{image.name} is used, others are not: {'; '.join(faults)}")
        return image
    if faults:
        raise UnusableImage("; ".join(faults))
    return None


def _image(library: Library, resolution: str, values: Any) -> HEImage:
    scale, key, name = library.scale(resolution), scale_key(resolution), f"{library.where}['images'][{resolution!r}]"
    if scale is None:
        raise UnusableImage(
            f"{library.where}['scalefactors'][{key!r}] is {_validators.shown(library.factors.get(key))} and no "
            "positive number; set it to the pixels of the image per unit of the coordinates"
        )
    pixels = np.asarray(values)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or 0 in pixels.shape:
        raise UnusableImage(
            f"{name} has shape {pixels.shape}; H&E has (height, width, 3): np.moveaxis(image, 0, -1) puts colours "
            "last, np.dstack([image] * 3) makes three of a grey one"
        )
    check_colours(pixels, name)
    return HEImage((on_white(pixels),), np.diag([scale, scale, 1.0]), name)


def warn_caller(text: str) -> None:
    """A warning that points to the line that called c2sti."""
    level, frame = 0, sys._getframe(0)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level + 1)
