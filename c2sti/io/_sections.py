"""The sections of a call, each with the keys under which it is read.

They come as two arguments, as a list, or as one object with a column of `obs` that names the section of each row
(squidpy's `library_key`). Keys are one for all sections, or one for each.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from anndata import AnnData

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray
from c2sti.io._places import is_spatialdata
from c2sti.io._read import SliceGrid, read_slice
from c2sti.io._rows import library_names
from c2sti.io._spatialdata import table_of

if TYPE_CHECKING:
    from spatialdata import SpatialData


Container: TypeAlias = "AnnData | SpatialData"
Key: TypeAlias = str | None | Sequence[str | None] | Mapping[str, str | None]  # one for all, in order, or by name
Window: TypeAlias = Sequence[float] | FloatArray  # (x0, y0, x1, y1), or (k, 2) corners
Windows: TypeAlias = Window | None | Sequence[Window | None] | Mapping[str, Window | None]


@dataclass(frozen=True)
class Keys:
    """Where in its container a section is kept; fields as the arguments of :func:`c2sti.io.read_slice`."""

    layer: str | None = None
    spatial_key: str | None = None
    table_key: str | None = None
    image_key: str | None = None
    coordinate_system: str | None = None
    library_key: str | None = None
    library: str | None = None


@dataclass(frozen=True)
class Source:
    """A section that has not been read.

    Parameters
    ----------
    container
        That holds it, perhaps beside others.
    name
        What messages and results call it.
    keys
        Where it is kept there.
    place
        Of its container among those that were given.
    """

    container: Container
    name: str
    keys: Keys
    place: int

    @property
    def has_aligned(self) -> bool:
        """Whether :func:`c2sti.pp.align` has given it common coordinates."""
        if is_spatialdata(self.container):
            return _keys.ALIGNED in self.container.coordinate_systems
        return isinstance(self.container, AnnData) and _keys.ALIGNED in self.container.obsm

    def told(self) -> dict[str, str | None]:
        """The keys that provenance tells."""
        frame = "coordinate_system" if is_spatialdata(self.container) else "spatial_key"
        return {name: getattr(self.keys, name) for name in ("library_key", "layer", frame)}

    def read(self, **wanted: Any) -> SliceGrid:
        """The section; further arguments as of :func:`c2sti.io.read_slice`."""
        return read_slice(self.container, name=self.name, **vars(self.keys), **wanted)


def pair_sources(
    slice_a: Container,
    slice_b: Container | None,
    context: Mapping[float, Container | str] | None = None,
    **keys: Any,
) -> tuple[Source, Source, dict[float, Source]]:
    """Two sections and those around them: an object each, or sections of one object, as `library_key` tells.

    Parameters
    ----------
    slice_a, slice_b
        The pair; None for `slice_b` where `slice_a` holds both.
    context
        Further sections by position: objects, or names of sections of `slice_a` (or `slice_b`).
    **keys
        As of :func:`sources`; those of each section go on from the pair to the context.

    Raises
    ------
    TypeError, ValueError, KeyError
        The pair is not of two; the message says how many. A name in `context` is not that of a section.
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
    one = ["the object"] if slice_b is None else list(own)
    names = [*one, *(f"context[{q:g}]" for q in others)]
    found = sources([*own.values(), *others.values()], names=names, **keys)
    named = {q: _by_name(found, str(section)) for q, section in around.items() if q not in others}
    pair = [s for s in found if s.place < len(own) and s not in named.values()]
    if len(pair) != 2:
        listed = ", ".join(s.name for s in pair)
        raise ValueError(
            f"obs[{library_key!r}] leaves {len(pair)} sections for the pair ({listed}), and two are needed: give "
            f"a part of the object, adata[adata.obs[{library_key!r}].isin([…])], name others in context={{-1.0: …}}, "
            "or give the whole series to c2sti.tl.interpolate_series"
        )
    beside = {}
    for i, q in enumerate(others, start=len(own)):
        here = [s for s in found if s.place == i]
        if len(here) != 1:
            raise ValueError(f"context[{q:g}] holds {len(here)} sections, by obs[{library_key!r}]; give one")
        beside[q] = here[0]
    return pair[0], pair[1], {q: named[q] if q in named else beside[q] for q in around}


def _by_name(found: Sequence[Source], name: str) -> Source:
    for source in found:
        if source.name == name and source.keys.library is not None:
            return source
    raise KeyError(f"context= names the section {name!r}; those of library_key= are {[s.name for s in found]}")


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

    Parameters
    ----------
    slices
        The sections.
    names
        What messages call them, where no column names them; ``slices[0]`` … by default.
    what
        Name of the argument.
    least
        Sections that are needed.
    library_key
        Column of `obs` that names the section of each row.
    layer, table_key, image_key, coordinate_system
        Of :func:`c2sti.io.read_slice`; one for all, one for each in order, or a dict by name.
    spatial_key
        The same for all.
    aligned
        Whether common coordinates by :func:`c2sti.pp.align` are read where every section has them and no others are
        named.

    Raises
    ------
    TypeError, ValueError, KeyError
        It is no list of sections; there are too few; a list of keys has another length; a dict names other sections.
    """
    found = [
        source
        for i, container in enumerate(_containers(slices, what, library_key))
        for source in _sources_of(
            container, i, names[i] if i < len(names) else _called(slices, what, i), library_key, _one_key(table_key, i)
        )
    ]
    if len(found) < least:
        raise ValueError(f"{what} holds {len(found)} section(s); {least} or more are needed, in order of z")
    twice = [s.name for s in found if sum(s.name == other.name for other in found) > 1]
    if twice:
        raise ValueError(f"two sections of {what} are called {twice[0]!r} in obs[{library_key!r}]; rename one of them")
    spread = {"layer": layer, "table_key": table_key, "image_key": image_key, "coordinate_system": coordinate_system}
    of_each = {name: _for_each(value, name, [s.name for s in found]) for name, value in spread.items()}
    found = [
        replace(s, keys=replace(s.keys, spatial_key=spatial_key, **{name: of_each[name][i] for name in spread}))
        for i, s in enumerate(found)
    ]
    return _in_frame(found, aligned)


def _called(slices: Any, what: str, place: int) -> str:
    return f"{what}[{place}]" if isinstance(slices, Sequence) else what


def _containers(slices: Any, what: str, library_key: str | None) -> list[Container]:
    if isinstance(slices, AnnData) or is_spatialdata(slices):
        if library_key is None:
            raise TypeError(
                f"{what} is one object; name the column of obs that parts its sections with library_key=, or give a "
                "list, one AnnData or SpatialData for each section"
            )
        return [slices]
    return _validators.several(slices, what, "sections")


def _sources_of(
    container: Container, place: int, name: str, library_key: str | None, table_key: str | None
) -> list[Source]:
    """The sections of one container."""
    if library_key is None:
        return [Source(container, name, Keys(), place)]
    if is_spatialdata(container):
        table = container.tables[table_of(container, name, table_key)]
    elif isinstance(container, AnnData):
        table = container
    else:
        raise TypeError(f"{name} is a {type(container).__name__}; an AnnData or SpatialData is needed")
    libraries = library_names(table, library_key, name)
    return [Source(container, library, Keys(library_key=library_key, library=library), place) for library in libraries]


def _one_key(value: Key, place: int) -> str | None:
    """The table of one container, before its sections are known: tables can be named by container only."""
    if value is None or not isinstance(value, Mapping | Sequence) or isinstance(value, str):
        return value  # checked where each section gets its own
    listed = list(value.values()) if isinstance(value, Mapping) else list(value)
    return listed[place] if place < len(listed) else None


def _for_each(value: Any, argument: str, names: Sequence[str]) -> list[str | None]:
    """One key for each section."""
    if value is None or isinstance(value, str):
        return [value] * len(names)
    if isinstance(value, Mapping):
        strangers = [name for name in value if name not in names]
        if strangers:
            raise KeyError(f"{argument}= names the section {strangers[0]!r}; the sections are {list(names)}")
        return [_key(value.get(name), argument) for name in names]
    found = [_key(one, argument) for one in _validators.several(value, argument, "keys, one for each section")]
    if len(found) != len(names):
        raise ValueError(f"{argument}= holds {len(found)} keys for {len(names)} sections ({', '.join(names)})")
    return found


def _key(value: Any, argument: str) -> str | None:
    return None if value is None else _validators.text(value, argument)


def _in_frame(found: list[Source], aligned: bool) -> list[Source]:
    """The same, each with the coordinates that are read: common ones where all have them and none are named."""
    named = any(s.keys.spatial_key is not None or s.keys.coordinate_system is not None for s in found)
    having = [s.name for s in found if s.has_aligned]
    common = aligned and not named and len(having) == len(found)
    if aligned and not named and having and not common:
        without = [s.name for s in found if not s.has_aligned]
        _logging.warning(
            f"{', '.join(having)} {'has' if len(having) == 1 else 'have'} common coordinates, {_keys.ALIGNED!r}, and "
            f"{', '.join(without)} {'has' if len(without) == 1 else 'have'} not: all are read in {_keys.SPATIAL!r}. "
            "c2sti.pp.align gives them to both sections"
        )
    if aligned and not named:
        _logging.info(f"sections are read in {_keys.ALIGNED if common else _keys.SPATIAL!r}")
    one = next((s.keys.spatial_key for s in found if s.keys.spatial_key is not None), None)
    return [replace(s, keys=replace(s.keys, **_frame_of(s.keys, common, one))) for s in found]


def _frame_of(keys: Keys, common: bool, spatial_key: str | None) -> dict[str, str | None]:
    """Key of the coordinates of an AnnData, and coordinate system of a SpatialData."""
    if common or spatial_key == _keys.ALIGNED:
        return {"spatial_key": _keys.ALIGNED, "coordinate_system": keys.coordinate_system or _keys.ALIGNED}
    if keys.spatial_key is None and keys.coordinate_system == _keys.ALIGNED:
        return {"spatial_key": _keys.ALIGNED, "coordinate_system": _keys.ALIGNED}
    return {"spatial_key": keys.spatial_key or _keys.SPATIAL, "coordinate_system": keys.coordinate_system}


def window_for_each(windows: Windows, names: Sequence[str]) -> list[Any]:
    """Capture windows of some sections, which are checked where the sections are read.

    Raises
    ------
    KeyError, ValueError
        A dict names other sections, or a list is not one for each.
    """
    if windows is None:
        return [None] * len(names)
    if isinstance(windows, Mapping):
        strangers = [name for name in windows if name not in names]
        if strangers:
            raise KeyError(f"window= names the section {strangers[0]!r}; the sections are {list(names)}")
        return [windows.get(name) for name in names]
    listed = _validators.several(windows, "window", "numbers, corners, or windows for each section")
    if all(one is not None and np.shape(one) in ((), (2,)) for one in listed):  # numbers, or corners
        return [windows] * len(names)
    if len(listed) != len(names):
        raise ValueError(f"window= holds {len(listed)} windows for {len(names)} sections ({', '.join(names)})")
    return listed


LEAST_GAP = 0.02  # of the pitch; real sections are 5 µm apart or more, spots 500 µm or less
SMALL_GAP = 20.0  # sections this near to each other may have depths below 1 between them


def depth_of_each(z: Sequence[float], n_sections: int) -> FloatArray:
    """(n_sections,) depths.

    Raises
    ------
    TypeError, ValueError
        They are no numbers; or not one a section.
    """
    depths = _validators.reals(z, "z")
    if depths.shape != (n_sections,):
        raise ValueError(f"z has shape {depths.shape}; one depth for each of the {n_sections} sections is needed")
    return depths


def position_of(positions: Sequence[float], z_a: float | None, z_b: float | None) -> FloatArray:
    """Fractions in (0, 1), from a to b, of positions given as fractions or as depths.

    Depths are understood where both sections carry one. Numbers that all lie within (0, 1) are read as fractions.

    Raises
    ------
    ValueError
        Not strictly increasing from a to b, or outside of the gap.
    """
    wanted = np.atleast_1d(_validators.reals(positions, "positions"))
    if wanted.ndim != 1 or len(wanted) == 0 or not np.isfinite(wanted).all():
        raise ValueError(f"positions = {positions!r} must be a list of at least one number")
    fractions, where = _fractions(wanted, z_a, z_b)
    if not ((fractions > 0) & (fractions < 1)).all():
        raise ValueError(f"positions = {wanted.tolist()} must lie strictly between {where}")
    if (np.diff(fractions) <= 0).any():
        ordered = wanted[np.unique(fractions, return_index=True)[1]].tolist()
        raise ValueError(
            f"positions = {wanted.tolist()} must increase from slice_a to slice_b without repeats; try {ordered}"
        )
    return fractions


def _fractions(wanted: FloatArray, z_a: float | None, z_b: float | None) -> tuple[FloatArray, str]:
    if z_a is None or z_b is None or z_a == z_b:
        return wanted, "0 (slice_a) and 1 (slice_b); depths are understood when both sections carry obs['z_um']"
    if not ((wanted > 0) & (wanted < 1)).all():
        return (wanted - z_a) / (z_b - z_a), f"the depths of the two sections ({z_a:g} and {z_b:g})"
    if min(z_a, z_b) < wanted.min() and wanted.max() < max(z_a, z_b) and abs(z_b - z_a) < SMALL_GAP:
        warnings.warn(
            f"positions = {wanted.tolist()} are read as fractions, not as depths between {z_a:g} and {z_b:g}",
            UserWarning,
            stacklevel=4,
        )
    return wanted, ""


def with_told_z(a: SliceGrid, b: SliceGrid) -> tuple[SliceGrid, SliceGrid]:
    """The two sections; without z where both carry the same, which does not tell how far apart they are.

    Warns
    -----
    UserWarning
        They carry the same z; or z that cannot be in the unit of the coordinates.
    """
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
    gaps = np.abs(np.diff(z))
    if gaps.max() <= 1 and gaps.max() < LEAST_GAP * pitch:
        warnings.warn(
            f"z of the sections differs by {gaps.max():g}, and spots are {pitch:.4g} apart: z looks like an order, not "
            "like a distance in the unit of the coordinates. Put z in that unit into obs['z_um'] (or z=)",
            UserWarning,
            stacklevel=4,
        )
