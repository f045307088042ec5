"""Options that several commands share, and what commands print: messages to stderr, results to stdout."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from c2sti import _keys
from c2sti.cli._files import KINDS


def say(chosen: argparse.Namespace, text: str) -> None:
    """Tell the user, unless he wants it quiet."""
    if not chosen.quiet:
        print(f"c2sti: {text}", file=sys.stderr)


def give(*cells: object) -> None:
    """One line of data, cells parted by tabs, numbers with six digits."""
    print("\t".join(f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in cells))


def give_table(names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table with its header."""
    give(*names)
    for row in rows:
        give(*row)


OURS = Path(__file__).parents[1]


@contextmanager
def talking(*, quiet: bool) -> Iterator[None]:
    """Show what is logged and warned of; with `quiet` only what the user has to know. Afterwards all is as it was."""
    import scanpy as sc  # noqa: PLC0415 - seconds that --help should not cost

    verbosity = sc.settings.verbosity
    sc.settings.verbosity = "warning" if quiet else "info"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _show
            yield
    finally:
        sc.settings.verbosity = verbosity


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    """Our own warnings as a line; those of the libraries below are for developers, not for who runs a command."""
    if issubclass(category, UserWarning) and Path(filename).is_relative_to(OURS):
        print(f"c2sti: warning: {message}", file=sys.stderr)


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


def add_sections(parser: argparse.ArgumentParser, least: str) -> None:
    """The sections of a series."""
    parser.add_argument(
        "sections",
        nargs="+",
        type=Path,
        metavar="SECTION",
        help=f"{least} or more, in order of z; or one file of several, with --library-key",
    )


def add_reading(parser: argparse.ArgumentParser, *, aligned: bool) -> None:
    """Where in a section things are; `aligned` where the sections have to lie in common coordinates already."""
    group = parser.add_argument_group("what to read of a section (one KEY for all sections, or one for each in order)")
    group.add_argument(
        "--library-key",
        metavar="KEY",
        help="column of obs that names the section of each row, where a file holds several",
    )
    first = f"{_keys.ALIGNED!r} where all sections have it, else " if aligned else ""
    every: dict[str, Any] = {"nargs": "+", "metavar": "KEY"}
    group.add_argument("--layer", **every, help="layer with the expression, counts or log-normalised (default: X)")
    group.add_argument(
        "--spatial-key", metavar="KEY", help=f"obsm with the coordinates (default: {first}{_keys.SPATIAL!r})"
    )
    group.add_argument(
        "--image-key", **every, help="library of uns, or image, that is the H&E, where there are several"
    )
    group.add_argument("--table-key", **every, help="table of a SpatialData, where there are several")
    group.add_argument("--coordinate-system", **every, help=f"of a SpatialData (default: {first}'global')")


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
    """Where the sections of a series lie."""
    parser.add_argument(
        "--z",
        type=float,
        nargs="+",
        metavar="Z",
        help="z of each section (default: obs['z_um'] or obs['z'] where all carry one, else even steps)",
    )


def where_to_read(chosen: argparse.Namespace) -> dict[str, Any]:
    """The keywords by which the tools read sections."""
    each = ("layer", "image_key", "table_key", "coordinate_system")
    keys = {"library_key": chosen.library_key, **{name: _one_or_all(getattr(chosen, name)) for name in each}}
    return keys if chosen.spatial_key is None else {**keys, "spatial_key": chosen.spatial_key}


def _one_or_all(keys: list[str] | None) -> str | list[str] | None:
    """One key for all sections as text; several as they are."""
    return keys[0] if keys is not None and len(keys) == 1 else keys


def result_file(text: str) -> Path:
    """A path that says by its end what is to be written."""
    path = Path(text)
    if path.suffix not in KINDS:
        raise argparse.ArgumentTypeError(f"{text} must end in {' or '.join(KINDS)}")
    return path
