"""Options that several commands share, and what commands print: messages to stderr, results to stdout."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from anndata import AnnData

from c2sti import _keys
from c2sti.cli._files import KINDS, read
from c2sti.pair_check import OnMisfit

PACKAGE = Path(__file__).parents[1]


def say(chosen: argparse.Namespace, text: str) -> None:
    """A message on stderr, unless --quiet is given."""
    if not chosen.quiet:
        print(f"c2sti: {text}", file=sys.stderr)


def give(*cells: object) -> None:
    """One line of data on stdout, cells parted by tabs, numbers with six digits."""
    print("\t".join(f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in cells))


def give_table(names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table with its header."""
    give(*names)
    for row in rows:
        give(*row)


@contextmanager
def talking(*, quiet: bool) -> Iterator[None]:
    """Show the log and our own warnings on stderr, with `quiet` warnings only; settings are restored afterwards."""
    import scanpy as sc  # noqa: PLC0415 - seconds that --help should not cost

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        if issubclass(category, UserWarning) and Path(filename).is_relative_to(PACKAGE):
            print(f"c2sti: warning: {message}", file=sys.stderr)  # those of libraries are for developers

    verbosity = sc.settings.verbosity
    sc.settings.verbosity = "warning" if quiet else "info"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = show
            yield
    finally:
        sc.settings.verbosity = verbosity


def add_sections(parser: argparse.ArgumentParser, least: str) -> None:
    """The sections of a series."""
    text = f"{least} or more, in order of z; or one file of several, with --library-key"
    parser.add_argument("sections", nargs="+", type=Path, metavar="SECTION", help=text)


def add_reading(parser: argparse.ArgumentParser, *, aligned: bool) -> None:
    """Where in a section things are; `aligned` where the sections have to lie in common coordinates already."""
    add = parser.add_argument_group(
        "what to read of a section (one KEY for all sections, or one for each in order)"
    ).add_argument
    first = f"{_keys.ALIGNED!r} where all sections have it, else " if aligned else ""
    each: dict[str, Any] = {"nargs": "+", "metavar": "KEY"}
    text = "column of obs that names the section of each row, where a file holds several"
    add("--library-key", metavar="KEY", help=text)
    add("--layer", **each, help="layer with the expression, counts or log-normalised (default: X)")
    text = f"obsm with the coordinates (default: {first}{_keys.SPATIAL!r})"
    add("--spatial-key", default=None if aligned else _keys.SPATIAL, metavar="KEY", help=text)
    add("--image-key", **each, help="library of uns, or image, that is the H&E, where there are several")
    add("--table-key", **each, help="table of a SpatialData, where there are several")
    add("--coordinate-system", **each, help=f"of a SpatialData (default: {first}'global')")


def add_interpolating(parser: argparse.ArgumentParser) -> None:
    """What is interpolated, by which model, and how the result is called."""
    add = parser.add_argument
    text = "c2sti, gp, lowrank, linear, copy, or the folder of a checkpoint (default: %(default)s)"
    add("--model", default="c2sti", metavar="NAME", help=text)
    add("--genes", nargs="+", metavar="GENE", help="names of the genes wanted (default: all shared)")
    add("--obs-keys", nargs="+", default=[], metavar="KEY", help="labels and numbers in obs to carry along")
    add("--obsm-keys", nargs="+", default=[], metavar="KEY", help="tables in obsm to carry along, such as proportions")
    add("--std", action="store_true", help="add how uncertain each interpolated value is: c2sti_1_std, ...")
    text = "add the ends of intervals for measured values, c2sti_1_lower and c2sti_1_upper; 0.9 holds nine of ten"
    add("--interval", type=float, metavar="LEVEL", help=text)
    text = "what to do where two neighbours do not seem to match (default: %(default)s)"
    add("--on-misfit", choices=get_args(OnMisfit), default="warn", help=text)
    add("--pitch", type=float, metavar="LENGTH", help="side of a bin of the result (default: distance of the spots)")
    text = "prefix of the names of interpolated sections (default: %(default)s)"
    add("--key-added", default=_keys.RESULT, metavar="KEY", help=text)


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Where and how reproducibly to compute."""
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: a GPU where there is one)")
    add_seed(parser, "of every random choice")


def add_seed(parser: argparse.ArgumentParser, text: str) -> None:
    """What random numbers are drawn by."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=f"{text} (default: %(default)s)")


def add_result(parser: argparse.ArgumentParser) -> None:
    """What another command wrote, and the prefix of its sections."""
    parser.add_argument("result", type=Path, metavar="RESULT", help="what `c2sti interpolate` or `series` wrote")
    text = "the --key-added it was made with (default: %(default)s)"
    parser.add_argument("--key", default=_keys.RESULT, metavar="KEY", help=text)


def result_of(path: Path) -> AnnData:
    """What `interpolate` or `series` wrote."""
    result = read(path)
    if not isinstance(result, AnnData):
        raise ValueError(f"{path} is a SpatialData; give the AnnData that `c2sti interpolate` or `series` wrote")
    return result


def add_output(parser: argparse.ArgumentParser, kinds: tuple[str, ...] = KINDS) -> None:
    """The file of a result, which says by its end what it is, and leave to overwrite it."""
    ends = " or ".join(kinds)

    def file(text: str) -> Path:
        if Path(text).suffix not in kinds:
            raise argparse.ArgumentTypeError(f"{text} must end in {ends}")
        return Path(text)

    text = f"what to write: {ends}"
    parser.add_argument("-o", "--output", required=True, type=file, metavar="FILE", help=text)
    add_force(parser)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Leave to overwrite."""
    parser.add_argument("--force", action="store_true", help="replace what is already there")


def add_z(parser: argparse.ArgumentParser) -> None:
    """Where the sections of a series lie."""
    text = "z of each section (default: obs['z_um'] or obs['z'] where all carry one, else even steps)"
    parser.add_argument("--z", type=float, nargs="+", metavar="Z", help=text)


def keywords(chosen: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options by the names that the tools give them: those named, and those that say what to read of a section."""
    each = {name: getattr(chosen, name) for name in ("layer", "image_key", "table_key", "coordinate_system")}
    return {
        **{name: getattr(chosen, name) for name in ("library_key", "spatial_key", *names)},
        **{name: keys[0] if keys is not None and len(keys) == 1 else keys for name, keys in each.items()},
    }
