"""The sections of a call, each with the keys under which it is read.

They come as two arguments, as a list, or as one object with a column of `obs` that names the section of each row
(squidpy's `library_key`). Keys are one for all sections, or one for each.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from anndata import AnnData

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray
from c2sti.io._places import is_spatialdata, library_names
from c2sti.io._read import Container, SliceGrid, Source
from c2sti.io._spatialdata import table_of

LEAST_GAP = 0.02  # of the pitch; real sections are 5 µm apart or more, spots 500 µm or less
SMALL_GAP = 20.0  # between sections this near to each other z may lie below 1

Key: TypeAlias = str | None | Sequence[str | None] | Mapping[str, str | None]  # one for all, in order, or by name
Window: TypeAlias = Sequence[float] | FloatArray  # (x0, y0, x1, y1), or (k, 2) corners
Windows: TypeAlias = Window | None | Sequence[Window | None] | Mapping[str, Window | None]


def pair_sources(
    slice_a: Container,
    slice_b: Container | None,
    context: Mapping[float, Container | str] | None = None,
    **keys: Any,
) -> tuple[Source, Source, dict[float, Source]]:
    """Two sections and those around them: an object each, or sections of one object, by `library_key`.

    `context` holds further sections by position: objects, or names of sections of `slice_a` (or `slice_b`). `keys` are
    those of :func:`sources`; those of each section go on from the pair to the context.
    """
    library_key = keys.get("library_key")
    if slice_b is None and library_key is None:
        raise TypeError(
            "slice_b is missing; give two sections, or one object that holds both and library_key=, the column of obs "
            "that names the section of each row"
        )
    if context is not None:
        _validators.a(context, "context", Mapping, "a dict of sections by their position")
    around = {_validators.number(q, "context: a position"): section for q, section in (context or {}).items()}
    own = {_keys.SLICE_A: slice_a} | ({} if slice_b is None else {_keys.SLICE_B: slice_b})
    others = {q: section for q, section in around.items() if not isinstance(section, str)}
    names = [*(own if slice_b is not None else ["the object"]), *(f"context[{q:g}]" for q in others)]
    found = sources([*own.values(), *others.values()], names=names, **keys)
    by_name = {s.name: s for s in found if s.library is not None}
    beside: dict[float, Source] = {}
    for q, section in around.items():
        if isinstance(section, str):
            if section not in by_name:
                raise KeyError(
                    f"context= names the section {section!r}; those of library_key= are {[s.name for s in found]}"
                )
            beside[q] = by_name[section]
            continue
        here = [s for s in found if s.place == len(own) + list(others).index(q)]
        if len(here) != 1:
            raise ValueError(f"context[{q:g}] holds {len(here)} sections, by obs[{library_key!r}]; give one")
        beside[q] = here[0]
    pair = [s for s in found if s.place < len(own) and s not in beside.values()]
    if len(pair) != 2:
        listed = ", ".join(s.name for s in pair)
        raise ValueError(
            f"obs[{library_key!r}] leaves {len(pair)} sections for the pair ({listed}), and two are needed: give "
            f"a part of the object, adata[adata.obs[{library_key!r}].isin([…])], name others in context={{-1.0: …}}, "
            "or give the whole series to c2sti.tl.interpolate_series"
        )
    return pair[0], pair[1], beside


def sources(
    slices: Container | Sequence[Container],
    *,
    names: Sequence[str] = (),
    what: str = "slices",
    least: int = 1,
    library_key: str | None = None,
    layer: Key = None,
    spatial_key: str | None = None,
    table_key: Key = None,
    image_key: Key = None,
    coordinate_system: Key = None,
    aligned: bool = True,
) -> list[Source]:
    """The sections of a list, or of one object with a column that names them, in order.

    `names` are what messages call the objects, ``what[0]`` … by default, and `least` is how many sections are needed.
    With `aligned`, common coordinates by :func:`c2sti.pp.align` are read where every section has them and no others
    are named.
    """
    one = isinstance(slices, AnnData) or is_spatialdata(slices)
    if one and library_key is None:
        raise TypeError(
            f"{what} is one object; name the column of obs that parts its sections with library_key=, or give a "
            "list, one AnnData or SpatialData for each section"
        )
    containers = [slices] if one else _validators.several(slices, what, "sections")
    names = names or ([what] if one else [f"{what}[{i}]" for i in range(len(containers))])
    found = [
        Source(container, name if library is None else library, i, library_key, library)
        for i, (container, name) in enumerate(zip(containers, names, strict=True))
        for library in _libraries(container, i, name, library_key, table_key)
    ]
    if len(found) < least:
        raise ValueError(f"{what} holds {len(found)} section(s); {least} or more are needed, in order of z")
    called = [s.name for s in found]
    twice = [name for name in called if called.count(name) > 1]
    if twice:
        raise ValueError(f"two sections of {what} are called {twice[0]!r} in obs[{library_key!r}]; rename one of them")
    each = {"layer": layer, "table_key": table_key, "image_key": image_key, "coordinate_system": coordinate_system}
    columns = [_key_for_each(value, name, called) for name, value in each.items()]
    found = [replace(s, **dict(zip(each, row, strict=True))) for s, *row in zip(found, *columns, strict=True)]
    return _with_frames(found, spatial_key, aligned)


def _libraries(
    container: Container, place: int, name: str, library_key: str | None, table_key: Key
) -> Sequence[str | None]:
    """Names of the sections of one container; None for one that is a section."""
    if library_key is None:
        return [None]
    if isinstance(container, AnnData):
        return library_names(container, library_key, name)
    if not is_spatialdata(container):
        raise TypeError(f"{name} is a {type(container).__name__}; an AnnData or SpatialData is needed")
    if not (table_key is None or isinstance(table_key, str)):  # by container, as its sections are not known yet
        given = table_key.values() if isinstance(table_key, Mapping) else table_key
        listed = _validators.several(given, "table_key", "keys, one for each section")
        table_key = listed[place] if place < len(listed) else None
    return library_names(container.tables[table_of(container, name, table_key)], library_key, name)


def _key_for_each(value: Key, argument: str, names: Sequence[str]) -> list[str | None]:
    same = value is None or isinstance(value, str)
    found = [value] * len(names) if same else _for_each(value, argument, names, "keys")
    return [None if key is None else _validators.text(key, argument) for key in found]


def window_for_each(windows: Windows, names: Sequence[str]) -> list[Any]:
    """Capture windows of some sections, which are checked where the sections are read."""
    if windows is None:
        return [None] * len(names)
    if not isinstance(windows, Mapping):
        windows = _validators.several(windows, "window", "numbers, corners, or windows for each section")
        if all(one is not None and np.shape(one) in ((), (2,)) for one in windows):  # numbers, or corners
            return [windows] * len(names)
    return _for_each(windows, "window", names, "windows")


def _for_each(values: Any, argument: str, names: Sequence[str], kind: str) -> list[Any]:
    """Values of each section, from a dict by name or a list in order."""
    if isinstance(values, Mapping):
        strangers = [name for name in values if name not in names]
        if strangers:
            raise KeyError(f"{argument}= names the section {strangers[0]!r}; the sections are {list(names)}")
        return [values.get(name) for name in names]
    found = _validators.several(values, argument, f"{kind}, one for each section")
    if len(found) != len(names):
        raise ValueError(f"{argument}= holds {len(found)} {kind} for {len(names)} sections ({', '.join(names)})")
    return found


def _with_frames(found: list[Source], spatial_key: str | None, aligned: bool) -> list[Source]:
    """Sections with the coordinates that are read: common ones where all have them and none are named."""
    common = False
    if aligned and spatial_key is None and all(s.coordinate_system is None for s in found):
        having, without = ([s.name for s in found if s.has_aligned == has] for has in (True, False))
        common = not without
        if having and without:
            _logging.warning(
                f"{', '.join(having)} {'has' if len(having) == 1 else 'have'} common coordinates, {_keys.ALIGNED!r}, "
                f"and {', '.join(without)} {'has' if len(without) == 1 else 'have'} not: all are read in "
                f"{_keys.SPATIAL!r}. c2sti.pp.align gives them to both sections"
            )
        _logging.info(f"sections are read in {_keys.ALIGNED if common else _keys.SPATIAL!r}")
    framed = []
    for s in found:
        key = spatial_key or (_keys.ALIGNED if common or s.coordinate_system == _keys.ALIGNED else _keys.SPATIAL)
        system = s.coordinate_system or (_keys.ALIGNED if key == _keys.ALIGNED else None)
        framed.append(replace(s, spatial_key=key, coordinate_system=system))
    return framed


def depth_of_each(z: Sequence[float], n_sections: int) -> FloatArray:
    """(n_sections,) z of the sections, checked to be one number for each."""
    depths = _validators.reals(z, "z")
    if depths.shape != (n_sections,):
        raise ValueError(f"z has shape {depths.shape}; one number for each of the {n_sections} sections is needed")
    return depths


def position_of(positions: Sequence[float], z_a: float | None, z_b: float | None) -> FloatArray:
    """Fractions in (0, 1), from a to b, of positions given as fractions or as z.

    They are read as z where both sections carry one, unless all lie within (0, 1).
    """
    wanted = np.atleast_1d(_validators.reals(positions, "positions"))
    if wanted.ndim != 1 or len(wanted) == 0 or not np.isfinite(wanted).all():
        raise ValueError(f"positions = {positions!r} must be a list of at least one number")
    fractions, where = wanted, "0 (slice_a) and 1 (slice_b); z is understood when both sections carry obs['z_um']"
    if z_a is not None and z_b is not None and z_a != z_b:
        if not ((wanted > 0) & (wanted < 1)).all():
            fractions, where = (wanted - z_a) / (z_b - z_a), f"the z of the two sections ({z_a:g} and {z_b:g})"
        elif min(z_a, z_b) < wanted.min() and wanted.max() < max(z_a, z_b) and abs(z_b - z_a) < SMALL_GAP:
            warnings.warn(
                f"positions = {wanted.tolist()} are read as fractions, not as z between {z_a:g} and {z_b:g}",
                UserWarning,
                stacklevel=4,
            )
    if not ((fractions > 0) & (fractions < 1)).all():
        raise ValueError(f"positions = {wanted.tolist()} must lie strictly between {where}")
    if (np.diff(fractions) <= 0).any():
        ordered = wanted[np.unique(fractions, return_index=True)[1]].tolist()
        raise ValueError(
            f"positions = {wanted.tolist()} must increase from slice_a to slice_b without repeats; try {ordered}"
        )
    return fractions


def with_distinct_z(a: SliceGrid, b: SliceGrid) -> tuple[SliceGrid, SliceGrid]:
    """The two sections; without z, and with a warning, where both carry the same."""
    if a.z is None or b.z is None:
        return a, b
    if a.z == b.z:
        warnings.warn(
            f"{a.name} and {b.name} both carry z = {a.z:g}, which does not tell how far apart they are; the result "
            "carries no z. Put the z of each into obs['z_um']",
            UserWarning,
            stacklevel=3,
        )
        return replace(a, z=None), replace(b, z=None)
    check_unit([a.z, b.z], a.pitch)
    return a, b


def check_unit(z: Sequence[float] | FloatArray, pitch: float) -> None:
    """Warn where z of some sections counts them, or runs from 0 to 1, beside coordinates in µm or pixels."""
    largest = np.abs(np.diff(z)).max()
    if largest <= 1 and largest < LEAST_GAP * pitch:
        warnings.warn(
            f"z of the sections differs by {largest:g}, and spots are {pitch:.4g} apart: z looks like an order, not "
            "like a distance in the unit of the coordinates. Put z in that unit into obs['z_um'] (or z=)",
            UserWarning,
            stacklevel=4,
        )
