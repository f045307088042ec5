"""``c2sti align``: sections of a series into a common coordinate system."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from c2sti import _keys, pp
from c2sti.cli._files import Section, check_free, read, write
from c2sti.cli._options import add_force, add_reading, add_sections, command, give_table, say, where_to_read
from c2sti.io import is_spatialdata

DESCRIPTION = """\
Bring the sections of a series into a common coordinate system, as interpolation needs them.

All rotations and shifts are searched, so sections may lie anywhere on their slides. They are compared by their
expression and, where they have one, by their H&E. Each goes into DIR under its own name, with coordinates added as
obsm['spatial_aligned'] (in a SpatialData: the coordinate system 'spatial_aligned') and the H&E moved along.

stdout: a table of the files written and how each section was moved. The fit is between 0 and 1; below 0.35 sections
fit no better than strangers do. Look at the sections on top of each other before you go on: no method can mend a
wrong alignment.
"""

EPILOG = """\
examples:
  c2sti align a.h5ad b.h5ad -o aligned
  c2sti align s1.zarr s2.zarr s3.zarr s4.zarr -o aligned --reference 1 --flip
"""

COLUMNS = ("file", "section", "fit", "angle_deg", "shift_x", "shift_y", "scale", "flipped")


def add(commands: Any) -> None:
    """Add the command."""
    parser = command(
        commands, "align", does="sections into a common coordinate system", description=DESCRIPTION, epilog=EPILOG
    )
    add_sections(parser, "two")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder for the moved sections")
    parser.add_argument(
        "--reference", type=int, default=0, metavar="N", help="which section stays, from 0 (default: %(default)s)"
    )
    parser.add_argument(
        "--method", choices=("rigid", "affine"), default="rigid",
        help="affine allows for a few per cent of scale and shear (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--use", choices=("auto", "expression", "histology", "both"), default="auto",
        help="what sections are compared by (default: both where all have H&E, else expression)",
    )  # fmt: skip
    parser.add_argument("--flip", action="store_true", help="try the other face as well; takes twice as long")
    parser.add_argument(
        "--to-reference", action="store_true",
        help="align each section to the reference itself, rather than to its neighbour on that side",
    )  # fmt: skip
    add_reading(parser, aligned=False)
    add_force(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Do it."""
    outputs = [chosen.output / path.name for path in chosen.sections]
    if len({path.name for path in outputs}) < len(outputs):
        raise ValueError("two of the sections have the same file name; each is written under its own, so rename one")
    check_free(outputs, chosen.sections, force=chosen.force)
    sections = [read(path) for path in chosen.sections]
    say(chosen, f"aligning {len(sections)} sections")
    aligned = pp.align_series(
        sections,
        reference=chosen.reference,
        chain=not chosen.to_reference,
        method=chosen.method,
        use=chosen.use,
        flip=chosen.flip,
        copy=True,
        **where_to_read(chosen),
    )
    assert aligned is not None  # it gives copies back when asked for them
    for section, path in zip(aligned, outputs, strict=True):
        write(section, path)
    give_table(COLUMNS, (row for s, path in zip(aligned, outputs, strict=True) for row in _rows(s, path, chosen)))


def _rows(section: Section, path: Path, chosen: argparse.Namespace) -> Iterator[list[object]]:
    """How each section of a file was moved."""
    table = section
    if is_spatialdata(section):
        keys = chosen.table_key or section.tables
        table = section.tables[next(key for key in keys if key in section.tables)]
    record = table.uns[_keys.ALIGNMENT]
    for name, one in ({"": record} if "matrix" in record else record).items():
        x, y = (float(v) for v in one["shift"])
        moved = [float(one["fit"]), float(one["angle_deg"]), x, y, float(one["scale"])]
        yield [path, name, *moved, bool(one["flipped"])]
