"""``c2sti describe``: how a result was made, in words."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from c2sti import tl
from c2sti.cli._files import read
from c2sti.cli._options import command, give

DESCRIPTION = """\
Say how a result was made, in words, for a methods section.

stdout: a paragraph: which sections were computed and where they lie, from what, by which model and versions, with what
seed, and what of the H&E is virtual.
"""

EPILOG = """\
examples:
  c2sti describe sections.zarr
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "describe", does="how a result was made", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("result", type=Path, metavar="FILE", help="what another command wrote")
    parser.add_argument(
        "--key", default="c2sti", metavar="KEY", help="the --key-added it was made with (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Do it."""
    give(tl.describe(read(chosen.result), key=chosen.key))
