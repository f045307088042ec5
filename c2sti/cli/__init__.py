"""The command line: the same tools over files.

What is computed is data and goes to stdout or into the file that is named; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from c2sti.cli import _commands, _demo, _results
from c2sti.cli._options import talking

__all__ = ["main", "parser"]

Options = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], None]

# In the order in which a user meets them: what each does, its options, and what it runs, whose docstring is its help.
COMMANDS: dict[str, tuple[str, Options, Run]] = {
    "align": ("sections into a common coordinate system", _commands.align_options, _commands.align),
    "interpolate": ("the missing sections between two", _commands.interpolate_options, _commands.interpolate),
    "series": ("a whole series of sections, filled", _commands.series_options, _commands.series),
    "describe": ("how a result was made", _results.describe_options, _results.describe),
    "plot": ("a result as a figure", _results.plot_options, _results.plot),
    "genes": ("the genes of a result", _results.genes_options, _results.genes),
    "sample-counts": ("counts for interpolated sections", _results.counts_options, _results.sample_counts),
    "to-spatialdata": ("a result as SpatialData", _results.spatialdata_options, _results.to_spatialdata),
    "to-volume": ("genes of a result as a volume", _results.volume_options, _results.to_volume),
    "evaluate": ("how well held-out sections are interpolated", _commands.evaluate_options, _commands.evaluate),
    "train": ("a model from your own series", _commands.train_options, _commands.train),
    "demo": ("see it work on a simulated tissue", _demo.demo_options, _demo.demo),
}

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

a whole series, filled, drawn, and as a volume for napari:
  c2sti series aligned/s1.h5ad aligned/s2.h5ad aligned/s3.h5ad --spacing 10 -o stack.h5ad
  c2sti plot stack.h5ad ERBB2 -o erbb2.png
  c2sti to-volume stack.h5ad --genes ERBB2 -o erbb2.zarr

how far to trust that, on a series of your own:
  c2sti align s1.h5ad s2.h5ad s3.h5ad s4.h5ad -o aligned
  c2sti evaluate aligned/s1.h5ad aligned/s2.h5ad aligned/s3.h5ad aligned/s4.h5ad > scores.tsv

without any data:
  c2sti demo

exit codes: 0 done; 1 refused, with a message that says what to do; 2 wrong usage
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    raw = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser("c2sti", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    whole.add_argument("--version", action="version", version=version("c2sti"))
    commands = whole.add_subparsers(title="commands", metavar="command", required=True)
    for name, (does, options, run) in COMMANDS.items():
        text, _, examples = (inspect.getdoc(run) or "").partition("\n\nExamples\n--------\n")
        one = commands.add_parser(
            name, help=does, description=text, epilog=f"examples:\n{examples}", formatter_class=raw
        )
        one.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr, only warnings and refusals")
        one.add_argument("--traceback", action="store_true", help="show where in the code a refusal comes from")
        options(one)
        one.set_defaults(run=run)
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
        # str() of a KeyError would show its message in quotes, and a bare MemoryError has none.
        quoted = isinstance(refusal, KeyError) and refusal.args
        print(f"c2sti: {refusal.args[0] if quoted else str(refusal) or type(refusal).__name__}", file=sys.stderr)
        return 1
    return 0
