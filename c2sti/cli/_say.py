"""Two voices: what a command has to say goes to stderr, what it has found out to stdout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable


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
