"""Options that several commands share, so that a word means the same everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from c2sti import _keys
from c2sti.cli._files import KINDS, Section
from c2sti.cli._say import say
from c2sti.grid import is_spatialdata


def command(commands: Any, name: str, *, does: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A command with the options that all have."""
    parser = commands.add_parser(
        name,
        help=does,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr, only warnings and refusals")
    parser.add_argument("--traceback", action="store_true", help="show where in the code a refusal comes from")
    return parser


def add_reading(parser: argparse.ArgumentParser, *, aligned: bool) -> None:
    """Where in a section things are; `aligned` where the sections have to lie in one frame already."""
    group = parser.add_argument_group("what to read of a section")
    group.add_argument(
        "--layer", metavar="KEY", help="layer with the expression, counts or log-normalised (default: X)"
    )
    first = f"{_keys.ALIGNED!r} where all sections have it, else " if aligned else ""
    group.add_argument(
        "--spatial-key", metavar="KEY", help=f"obsm with the coordinates (default: {first}{_keys.SPATIAL!r})"
    )
    group.add_argument("--image-key", metavar="KEY", help="which picture of uns, where there are several")
    group.add_argument("--table-key", metavar="KEY", help="table of a SpatialData, where there are several")
    group.add_argument("--coordinate-system", metavar="NAME", help=f"of a SpatialData (default: {first}'global')")


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Where and how reproducibly to compute."""
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of every random choice (default: %(default)s)"
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """Leave to overwrite."""
    parser.add_argument("--force", action="store_true", help="replace what is already there")


def add_depths(parser: argparse.ArgumentParser) -> None:
    """Depths of a series."""
    parser.add_argument(
        "--z",
        type=float,
        nargs="+",
        metavar="Z",
        help="depth of each section (default: obs['z_um'] or obs['z'] where all carry one, else even steps)",
    )


def where_to_read(chosen: argparse.Namespace, sections: Sequence[Section], *, aligned: bool) -> dict[str, Any]:
    """The keywords of :func:`c2sti.grid.read_slice` for these sections.

    With `aligned`, the frame that ``c2sti align`` wrote is taken where every section has it and no other is named.
    """
    frame = aligned and all(_has_frame(section) for section in sections)
    if frame and None in (chosen.spatial_key, chosen.coordinate_system):
        say(chosen, f"sections are read in their common frame, {_keys.ALIGNED!r}")
    return {
        "layer": chosen.layer,
        "spatial_key": chosen.spatial_key or (_keys.ALIGNED if frame else _keys.SPATIAL),
        "image_key": chosen.image_key,
        "table_key": chosen.table_key,
        "coordinate_system": chosen.coordinate_system or (_keys.ALIGNED if frame else "global"),
    }


def _has_frame(section: Section) -> bool:
    return _keys.ALIGNED in (section.coordinate_systems if is_spatialdata(section) else section.obsm)


def result_file(text: str) -> Path:
    """A path that says by its end what is to be written."""
    path = Path(text)
    if path.suffix not in KINDS:
        raise argparse.ArgumentTypeError(f"{text} must end in {' or '.join(KINDS)}")
    return path
