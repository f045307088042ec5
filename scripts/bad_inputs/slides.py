"""SpatialData to `tl.interpolate`, whose reader all tools share. Importing the library takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import c2sti
from scripts.bad_inputs import Bad
from scripts.bad_inputs.material import QUIET, pair, result


def _slides() -> list[Any]:
    """Two measured sections as SpatialData."""
    made = c2sti.tl.to_spatialdata(result(), originals=dict(zip("ab", pair(), strict=True)))
    return [made.subset([prefix, f"{prefix}_spots", f"{prefix}_histology"]) for prefix in "ab"]


def _tables(sdata: Any) -> Any:
    return sdata.tables["b"]


STEPS: dict[str, tuple[Callable[[Any], object], dict[str, Any], tuple[str, ...]]] = {
    "no table": (lambda s: s.tables.clear(), {}, ("slice_b", "no table")),
    "two tables": (lambda s: s.tables.update(other=_tables(s).copy()), {}, ("slice_b", "table_key")),
    "another table_key": (lambda s: None, {"table_key": "nothing"}, ("slice_a", "nothing")),
    "table_key=3": (lambda s: None, {"table_key": 3}, ("table_key",)),
    "a coordinate system that is not there": (
        lambda s: None,
        {"coordinate_system": "x"},
        ("slice_a", "coordinate_system"),
    ),
    "another image_key": (lambda s: None, {"image_key": "nothing"}, ("slice_a", "nothing")),
    "a region that is gone": (lambda s: s.shapes.clear(), {}, ("slice_b", "b_spots")),
    "rows of no instance": (
        lambda s: _tables(s).obs.update({"instance": _tables(s).obs["instance"] + 1}),
        {},
        ("slice_b", "b_spots"),
    ),
    "a table that annotates nothing": (lambda s: _tables(s).uns.clear(), {}, ("slice_b", "annotates no region")),
    "a table of few rows": (lambda s: s.tables.update(b=_tables(s)[:5].copy()), {}, ("slice_b", "5 spots")),
    "expression that is negative": (lambda s: setattr(_tables(s), "X", -_tables(s).X), {}, ("slice_b", "negative")),
}


def cases() -> Iterator[Bad]:
    """All of these."""
    for what, (step, given, says) in STEPS.items():
        yield Bad("tl.interpolate(SpatialData)", what, lambda _, s=step, g=given: _interpolate(s, g), says, quick=False)


def _interpolate(step: Callable[[Any], object], given: dict[str, Any]) -> object:
    a, b = _slides()
    step(b)
    return c2sti.tl.interpolate(a, b, **{"model": "linear", **QUIET, **given})
