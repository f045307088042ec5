"""What is said on stderr while a command works: progress, scanpy's log, and warnings that are meant for the user."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

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
