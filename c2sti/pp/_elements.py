"""Which elements of a SpatialData move with a section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from c2sti import _log
from c2sti.grid import Source, frame_of
from c2sti.grid._elements import frames_of
from c2sti.grid._libraries import UnusableImage
from c2sti.grid._spatialdata import is_own, read_table, region_of, slide_key

if TYPE_CHECKING:
    from spatialdata import SpatialData


def section_elements(sdata: SpatialData, sources: Sequence[Source]) -> list[list[str]]:
    """Names of the elements that move with each of the sections of one SpatialData.

    All that are in the coordinate system of the section. Where another section is in it too: the region of the section,
    its H&E, and elements that are called after its region or library.
    """
    frames = [frame_of_source(sdata, source) for source in sources]
    regions = [_region(sdata, source) for source in sources]
    slides = [_slide(sdata, source, region) for source, region in zip(sources, regions, strict=True)]
    uses = Counter(zip(frames, slides, strict=True))
    found = []
    for i, (source, frame) in enumerate(zip(sources, frames, strict=True)):
        inside = [key for kind, key, one in sdata.gen_elements() if kind != "tables" and frame in frames_of(one)]
        beside = [j for j in range(len(sources)) if j != i and frames[j] == frame]
        if not beside:
            found.append(inside)
            continue
        own = {regions[i], source.name}
        others = {name for j in beside for name in (regions[j], sources[j].name)}
        kept = {key for key in inside if is_own(key, own, others)} | {regions[i]}
        slide = slides[i]
        if slide is not None and uses[frame, slide] == 1:
            kept.add(slide)
        elif slide is not None:
            _log.warning(f"image {slide!r} lies under several sections, {source.name} among them, and is not moved")
        found.append([key for key in inside if key in kept])
    return found


def frame_of_source(sdata: SpatialData, source: Source) -> str:
    """The coordinate system in which a section is read; `sdata` is its container or a copy of that."""
    keys = source.keys
    return frame_of(sdata, source.name, keys.table_key, keys.coordinate_system, keys.library_key, keys.library)


def _region(sdata: SpatialData, source: Source) -> str:
    keys = source.keys
    return region_of(sdata, source.name, keys.table_key, keys.library_key, keys.library)


def _slide(sdata: SpatialData, source: Source, region: str) -> str | None:
    """Name of the image that is the H&E of a section."""
    keys, name = source.keys, source.name
    if keys.image_key is not None:
        return keys.image_key
    _, _, xy, frame = read_table(sdata, name, keys.table_key, keys.coordinate_system, keys.library_key, keys.library)
    try:
        return slide_key(sdata, xy, name, frame, keys.library, region)
    except UnusableImage:  # which was said when the section was read
        return None
