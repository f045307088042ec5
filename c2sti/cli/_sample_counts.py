"""``c2sti sample-counts``: counts for the interpolated sections of a result."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from anndata import AnnData

from c2sti import tl
from c2sti.cli._files import check_free, read, write
from c2sti.cli._options import add_force, command, give, result_file

DESCRIPTION = """\
Draw counts for the interpolated sections of a result, as noisy as those measured beside them, for tools that take
counts.

The sections have to have been given as raw counts. It is a sample: another seed gives another one, and none holds more
than the measured neighbours do.

stdout: the path written.
"""

EPILOG = """\
examples:
  c2sti sample-counts sections.zarr -o counts.h5ad
  c2sti sample-counts sections.zarr -o counts.h5ad --sections c2sti_2 --genes ERBB2 ESR1 --seed 1
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = command(
        commands, "sample-counts", does="counts for interpolated sections", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("result", type=Path, metavar="FILE", help="what `c2sti interpolate` wrote")
    parser.add_argument(
        "-o", "--output", required=True, type=result_file, metavar="FILE", help="what to write: .h5ad or .zarr"
    )
    parser.add_argument("--sections", nargs="+", metavar="NAME", help="which interpolated sections (default: all)")
    parser.add_argument("--genes", nargs="+", metavar="GENE", help="names of the genes wanted (default: all)")
    parser.add_argument(
        "--key", default="c2sti", metavar="KEY", help="the --key-added it was made with (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample (default: %(default)s)")
    add_force(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Do it."""
    check_free([chosen.output], [chosen.result], force=chosen.force)
    result = read(chosen.result)
    if not isinstance(result, AnnData):
        raise ValueError(f"{chosen.result} is a SpatialData; give the AnnData that `c2sti interpolate` wrote")
    drawn = tl.sample_counts(result, sections=chosen.sections, genes=chosen.genes, key=chosen.key, seed=chosen.seed)
    write(drawn, chosen.output)
    give(chosen.output)
