"""The command line: the same tools over files.

What is computed is data and goes to stdout or into the file that is named; everything else goes to stderr. Exit codes:
0 done, 1 refused (a message says what was found and what to do), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from c2sti.cli import _align, _demo, _describe, _evaluate, _interpolate, _sample_counts, _train
from c2sti.cli._options import talking

__all__ = ["main", "parser"]

COMMANDS = (
    _align,
    _interpolate,
    _describe,
    _sample_counts,
    _evaluate,
    _train,
    _demo,
)  # in the order in which a user meets them

# What our own checks, a reader of files or a missing extra say to the user. Anything else is a mistake of ours, and is
# shown with its traceback.
REFUSALS = (ValueError, KeyError, OSError, ImportError, MemoryError, FloatingPointError)

INTERRUPTED = 130  # what shells give for Ctrl-C

DESCRIPTION = """\
The missing sections of a serial spatial-transcriptomics series, from their neighbours.

Sections are files: AnnData in .h5ad or .zarr, or SpatialData in .zarr. None of them is ever changed.
"""

EPILOG = """\
from two sections on their slides to five in a common coordinate system:
  c2sti align a.h5ad b.h5ad -o aligned
  c2sti interpolate aligned/a.h5ad aligned/b.h5ad -n 3 -o sections.zarr

how far to trust that, on a series of your own:
  c2sti align s1.h5ad s2.h5ad s3.h5ad s4.h5ad -o aligned
  c2sti evaluate aligned/s1.h5ad aligned/s2.h5ad aligned/s3.h5ad aligned/s4.h5ad > scores.tsv

without any data:
  c2sti demo

exit codes: 0 done; 1 refused, with a message that says what to do; 2 wrong usage
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(
        "c2sti", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole.add_argument("--version", action="version", version=version("c2sti"))
    commands = whole.add_subparsers(title="commands", metavar="command", required=True)
    for command in COMMANDS:
        command.add(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives back the exit code.

    Parameters
    ----------
    arguments
        Words after ``c2sti``; those of the process by default.
    """
    chosen = parser().parse_args(arguments)
    try:
        with talking(quiet=chosen.quiet):
            chosen.run(chosen)
    except KeyboardInterrupt:
        print("c2sti: stopped; nothing was written by halves", file=sys.stderr)
        return INTERRUPTED
    except REFUSALS as refusal:
        if chosen.traceback:
            raise
        print(f"c2sti: {_said(refusal)}", file=sys.stderr)
        return 1
    return 0


def _said(refusal: BaseException) -> str:
    """The message; a KeyError would show it in quotes, and a bare MemoryError has none."""
    if isinstance(refusal, KeyError) and refusal.args:
        return str(refusal.args[0])
    return str(refusal) or type(refusal).__name__
