"""``c2sti interpolate``: the missing sections between two measured ones."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from anndata import AnnData

from c2sti import _validators, tl
from c2sti.cli._files import Section, aside, check_free, read, write
from c2sti.cli._options import add_computing, add_force, add_reading, command, give, result_file, say, where_to_read
from c2sti.pair_check import OnMisfit

DESCRIPTION = """\
Make the missing sections between two measured ones.

Both have to lie in a common coordinate system; `c2sti align` brings them there, and the frame that it wrote is used by
itself. The result is one AnnData whose layers are the sections: slice_a, the interpolated c2sti_1, c2sti_2, ...,
slice_b. It says of itself that it was computed. Draw it in Python:

  out = c2sti.read_zarr("sections.zarr")
  c2sti.pl.sections(out, "ERBB2")
  squidpy.pl.spatial_scatter(out, color="ERBB2", layer="c2sti_2", shape="square", img=False)

stdout: the path written.
"""

EPILOG = """\
examples:
  c2sti interpolate a.h5ad b.h5ad -n 3 -o sections.zarr
  c2sti interpolate a.h5ad b.h5ad --positions 30 45 -o sections.h5ad
  c2sti interpolate a.h5ad b.h5ad -n 3 --stream --max-memory 8GB -o large.zarr
  c2sti interpolate s2.h5ad s3.h5ad --context s1.h5ad@-1 s4.h5ad@2 -o sections.h5ad
  c2sti interpolate both.h5ad --library-key sample -o sections.h5ad
  c2sti interpolate four.h5ad --library-key sample --context C2@-1 C5@2 -o sections.h5ad
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = command(
        commands, "interpolate", does="the missing sections between two", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("slice_a", type=Path, metavar="A", help="section on one side of the gap")
    parser.add_argument(
        "slice_b", type=Path, nargs="?", metavar="B",
        help="section on the other side; left out where A holds both, with --library-key",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", required=True, type=result_file, metavar="FILE", help="what to write: .h5ad or .zarr"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-n", "--n-slices", type=int, metavar="N", help="sections to interpolate, evenly (default: 1)")
    where.add_argument(
        "--positions", type=float, nargs="+", metavar="P",
        help="where to interpolate them: fractions of the way from A to B, or z where both carry it in obs['z_um']",
    )  # fmt: skip
    parser.add_argument(
        "--context", type=_context, nargs="+", default=[], metavar="FILE@POSITION",
        help="further sections by position, A is 0 and B is 1: files, or names of sections in --library-key",
    )  # fmt: skip
    parser.add_argument(
        "--model", default="c2sti", metavar="NAME",
        help="c2sti, gp, lowrank, linear, copy, or the folder of a checkpoint (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--genes", nargs="+", metavar="GENE", help="names of the genes wanted (default: all shared)")
    parser.add_argument(
        "--obs-keys", nargs="+", default=[], metavar="KEY", help="labels and numbers in obs to carry into the sections"
    )
    parser.add_argument(
        "--obsm-keys", nargs="+", default=[], metavar="KEY", help="tables in obsm to carry along, such as proportions"
    )
    parser.add_argument(
        "--std", action="store_true", help="add how uncertain each interpolated value is: c2sti_1_std, ..."
    )
    parser.add_argument(
        "--interval", type=float, metavar="LEVEL",
        help="add the ends of intervals for measured values, c2sti_1_lower and c2sti_1_upper; 0.9 holds nine of ten",
    )  # fmt: skip
    parser.add_argument(
        "--on-misfit", choices=get_args(OnMisfit), default="warn",
        help="what to do where the two do not seem to belong together (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--pitch", type=float, metavar="LENGTH", help="side of a bin of the result (default: distance of the spots)"
    )
    parser.add_argument(
        "--key-added", default="c2sti", metavar="KEY", help="prefix of the layers (default: %(default)s)"
    )
    add_computing(parser)
    group = parser.add_argument_group("results that do not fit into memory")
    group.add_argument(
        "--stream", action="store_true",
        help="write a .zarr and never hold it: the sections as factors, which c2sti.read_zarr makes layers of",
    )  # fmt: skip
    group.add_argument("--dense", action="store_true", help="with --stream, write layers themselves, block by block")
    group.add_argument(
        "--digits",
        type=int,
        metavar="N",
        help="significant digits to keep, with --stream --dense; 3 halve the files (default: all)",
    )
    group.add_argument(
        "--max-memory", metavar="SIZE", help="memory to get by with, such as 8GB; what needs more is refused"
    )
    add_reading(parser, aligned=True)
    add_force(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Do it."""
    named = {position: str(path) for path, position in chosen.context if chosen.library_key and not path.exists()}
    pair = [path for path in (chosen.slice_a, chosen.slice_b) if path is not None]
    around = {position: path for path, position in chosen.context if position not in named}
    check_free([chosen.output], [*pair, *around.values()], force=chosen.force)
    if chosen.stream and chosen.output.suffix != ".zarr":
        raise ValueError(f"{chosen.output} cannot be written block by block; end it in .zarr, or leave out --stream")
    if (chosen.dense or chosen.digits is not None) and not chosen.stream:
        name = "--dense" if chosen.dense else "--digits"
        raise ValueError(f"{name} is for results that are written block by block; add --stream")
    sections = [read(path) for path in pair]
    context = named | {position: read(path) for position, path in around.items()}
    if not chosen.stream:
        result = _interpolate(chosen, sections, context, None)
        say(chosen, f"writing {chosen.output}")
        write(result, chosen.output)
    elif chosen.output.exists():  # and may be replaced, once there is what to replace it with
        with aside(chosen.output) as part:
            _interpolate(chosen, sections, context, part)
    else:
        _validators.new_folder(chosen.output.parent, "the output's folder")
        _interpolate(chosen, sections, context, chosen.output)
    give(chosen.output)


def _interpolate(
    chosen: argparse.Namespace, sections: Sequence[Section], context: Mapping[float, Section | str], out: Path | None
) -> AnnData:
    """The sections, written to a store or in memory."""
    return tl.interpolate(
        *sections,
        n_slices=chosen.n_slices,
        positions=chosen.positions,
        context=context,
        model=chosen.model,
        genes=chosen.genes,
        obs_keys=chosen.obs_keys,
        obsm_keys=chosen.obsm_keys,
        std=chosen.std,
        interval=chosen.interval,
        on_misfit=chosen.on_misfit,
        pitch=chosen.pitch,
        key_added=chosen.key_added,
        device=chosen.device,
        seed=chosen.seed,
        out=out,
        dense=chosen.dense,
        digits=chosen.digits,
        max_memory=chosen.max_memory,
        show_progress_bar=not chosen.quiet,
        **where_to_read(chosen),
    )


def _context(text: str) -> tuple[Path, float]:
    path, _, position = text.rpartition("@")
    try:
        return Path(path), float(position)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be FILE@POSITION, such as s1.h5ad@-1") from error
