"""`pp.align`, `pp.align_series`, `pp.check_pair`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import c2sti
from scripts.bad_inputs import Bad, wrong_values
from scripts.bad_inputs.material import BROKEN, COMMON, pair, series


def align(**given: Any) -> object:
    """Two sections that are right."""
    a, b = pair()
    return c2sti.pp.align(a, b, **given)


def align_series(**given: Any) -> object:
    """A series that is right."""
    slices = given.pop("slices") if "slices" in given else series()
    return c2sti.pp.align_series(slices, **given)


def fit(**given: Any) -> object:
    """Two sections that are right."""
    a, b = pair()
    return c2sti.pp.check_pair(a, b, **given)


def cases() -> Iterator[Bad]:
    """All of these."""
    for what in COMMON:
        broken, says = BROKEN[what]
        yield Bad(
            "pp.align", f"moving: {what}", lambda _, b=broken: c2sti.pp.align(pair()[0], b(pair()[1])), ("moving", says)
        )
        if "picture" not in what and "scale factor" not in what:  # the fit looks at no image
            yield Bad(
                "pp.check_pair",
                f"slice_b: {what}",
                lambda _, b=broken: c2sti.pp.check_pair(pair()[0], b(pair()[1])),
                ("slice_b", says),
            )
        if what in ("None", "no coordinates", "one spot", "X holds NaN"):
            yield Bad("pp.align_series", f"a section: {what}", lambda _, b=broken: _second(b), (r"slices\[1\]", says))
    of = "pp.align"
    yield from wrong_values(of, align, "method", ["bent", None, 3, ["rigid"]])
    yield from wrong_values(of, align, "use", ["smell", None, 3, ["both"]])
    yield from wrong_values(
        of,
        align,
        "matrix",
        [
            np.eye(2),
            np.zeros((3, 3)),
            np.full((2, 3), np.nan),
            "turned",
            3,
            [["a", "b", "c"]] * 2,
            np.eye(3) * 2,
            np.diag([1, 0, 1]),
            np.eye(3) * 1j,
        ],
    )
    yield from wrong_values(of, align, "scale", [0, -1.0, float("nan"), float("inf"), "small", [1.0]])
    yield from wrong_values(of, align, "layer", ["nothing", 3])
    yield from wrong_values(of, align, "spatial_key", ["nothing", 3], r"spatial_key|obsm\[")
    yield from wrong_values(of, align, "image_key", ["nothing"], "image")
    yield from wrong_values(of, align, "key_added", ["spatial", 3, None, "", "a/b"])
    yield Bad(of, "one object twice", lambda _: _twice(), ("one object", "copy"))
    yield Bad(of, "by images that are not there", lambda _: _without_pictures(), ("use=", "H&E", "reference"))
    of = "pp.align_series"
    yield from wrong_values(of, align_series, "slices", [[], series()[:1], series()[0], None, 3, "series"])
    yield from wrong_values(of, align_series, "reference", [3, -4, 1.5, "first", None])
    yield from wrong_values(of, align_series, "method", ["bent"])
    yield from wrong_values(of, align_series, "use", ["smell"])
    yield from wrong_values(of, align_series, "key_added", ["spatial"])
    of = "pp.check_pair"
    yield from wrong_values(of, fit, "layer", ["nothing", 3])
    yield from wrong_values(of, fit, "spatial_key", ["nothing", 3], r"spatial_key|obsm\[")


def _second(broken: Any) -> object:
    first, second, third = series()
    return c2sti.pp.align_series([first, broken(second), third])


def _twice() -> object:
    a, _ = pair()
    return c2sti.pp.align(a, a)


def _without_pictures() -> object:
    a, b = pair()
    del a.uns["spatial"]
    return c2sti.pp.align(a, b, use="histology")
