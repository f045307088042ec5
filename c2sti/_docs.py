"""Parameters that public functions share, each described once, and the decorator that puts them into docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

SECTION = "Parameters\n----------\n"
ENTRY = re.compile(r"^(\w.*)\n((?:    .*\n)+)", re.MULTILINE)  # names, and the lines that describe them

SHARED: dict[str, str] = dict(
    ENTRY.findall("""
slices
    Sections in order of z, two or more, in common coordinates (see :func:`c2sti.pp.align_series`); or one object that
    holds them, with `library_key`.
library_key
    Column of `obs` that names the section of each row, where one object holds several.
z
    z of each section, increasing, µm; by default ``obs["z_um"]`` or ``obs["z"]`` of the sections.
n_slices
    Number of sections to interpolate, evenly spaced; 1 by default.
positions
    Positions instead: fractions in (0, 1) of the way from `slice_a` to `slice_b`, or z in the unit of ``obs["z_um"]``
    (or ``obs["z"]``) when both sections carry one.
context
    Further sections of the series by their position on the scale of the pair, ``{-1.0: before, 2.0: after}``: objects
    or, with `library_key`, names. The default model is more accurate with them.
n_context
    Sections on either side of a pair that are used as its context.
model
    ``"c2sti"`` (the bundled checkpoint), a folder or a model of :func:`c2sti.tl.train`; ``"gp"``, ``"lowrank"``,
    ``"linear"``, ``"copy"``, ``"rbi"`` (needs the extra ``registration``); or any :class:`c2sti.Interpolator`.
layer
    Layer that holds the expression; `X` by default. It may differ by section, as table, image and coordinate system
    may: a list with one for each, or a dict by name (of the argument or, with `library_key`, of the section).
spatial_key
    Key of the coordinates in ``obsm``; by default ``"spatial_aligned"`` where all sections have it, else ``"spatial"``.
table_key, coordinate_system
    Table and coordinate system of a SpatialData.
image_key
    The section's H&E, where there are several images: library of ``uns[spatial_key]``, or image of a SpatialData.
method
    ``"rigid"``: rotation and translation; ``"affine"``: scales and shears by a few percent as well, unless the rigid
    placement fits better. Tissue that was bent is matched by neither.
use
    ``"expression"``, ``"histology"``, ``"both"``, or ``"auto"``: both where both sections have an image.
flip
    Whether a section may be mirrored. It is then tried both ways, which takes twice as long.
window
    Capture window of the sections, (x0, y0, x1, y1) or (k, 2) corners: one for all, a list, or a dict by name. By
    default it is estimated. Where a section ends at its window, the other one is used.
pitch
    Side of a bin of the result, in the unit of the coordinates; by default the distance between neighbouring spots, or
    the side of a square of about four single cells, averaged over the sections.
genes
    Names of the genes wanted; by default all shared ones. The model uses all of them in any case.
obs_keys, obsm_keys
    Columns of `obs` (labels or numbers) and tables of `obsm` (cell-type proportions, say) to carry into interpolated
    sections, as ``"linear"`` averages expression.
std
    Whether to add the standard deviation of each interpolated value.
interval
    Probability, 0.9 say, of the intervals for measured values to add.
on_misfit
    ``"warn"``, ``"raise"`` or ``"ignore"`` where two sections do not match by :func:`c2sti.pp.check_pair`.
key_added
    Prefix of the names of interpolated sections, and key of the record in `uns`.
device
    ``"cpu"`` or ``"cuda"``; by default a GPU where there is one.
seed
    Seed of all random choices.
show_progress_bar
    Whether to show a progress bar.
out
    Zarr store to write the result to, such as ``"sections.zarr"``, not there yet. The result then has lazy values.
max_memory
    Memory to use, in bytes or as text, ``"8GB"``. A larger result has lazy values; less than is needed is refused.
sections
    One or several sections; all by default.
key
    The `key_added` that the result was made with.
gap
    Distance from slice_a to slice_b in µm, for a result of :func:`c2sti.tl.interpolate` whose sections carry no z.
um_per_unit
    µm in one unit of the coordinates; 1 where they are in µm, the size of a pixel where they are in pixels.
ncols
    Panels in a row, by default as many as can be read on a printed page, five at most.
cmap
    Colour map of matplotlib.
vmin, vmax
    Ends of the scale: numbers, or percentiles of what is drawn, such as ``"p99"``.
ax
    Axes to draw into, one for each panel; by default those of a new figure.
figsize
    Width and height of a new figure in inches, by default as on a page.
title
    Text above the figure, or a list with one for each panel.
save
    File to write the figure to.
show
    Whether to call ``plt.show()``.
predicted, measured
    (n, N) log1p expression, dense or sparse.
mask
    (n,) rows to score; all by default.
data_range
    The range that the values can take. Scores made with different ranges cannot be compared, so it is never guessed.
""")
)


def documented(function: Function) -> Function:
    """Add the parameters that a docstring leaves out, as the line ``%(shared)s`` says; in order of the signature."""
    names = list(inspect.signature(function).parameters)
    before, section, text = inspect.cleandoc(function.__doc__ or "").partition(SECTION)
    own, blank, after = text.partition("\n\n")
    entries = dict(ENTRY.findall(f"{own}\n"))
    described = {name for heading in entries for name in heading.split(", ")}
    for heading, lines in SHARED.items():
        left = [name for name in heading.split(", ") if name in names and name not in described]
        entries |= {", ".join(left): lines} if left else {}
    ordered = sorted(entries.items(), key=lambda entry: names.index(entry[0].split(", ")[0]))
    said = "".join(f"{heading}\n{lines}" for heading, lines in ordered)
    function.__doc__ = f"{before}{section}{said}{blank[1:]}{after}"
    return function
