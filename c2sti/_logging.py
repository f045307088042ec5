"""What c2sti says while it works: scanpy's log, so that ``scanpy.settings.verbosity`` turns it up and down.

The one place where scanpy is imported, and only once there is something to say: it takes longer than everything else
that a caller who does not use it would load with us.
"""

from __future__ import annotations

import sys


def warning(text: str) -> None:
    """Say what a reader has to know about the result; shown from verbosity 1."""
    from scanpy import logging  # noqa: PLC0415 - see above

    logging.warning(text)


def info(text: str) -> None:
    """Say what was done; shown from verbosity 2, which a caller sets through scanpy."""
    if "scanpy" in sys.modules:
        from scanpy import logging  # noqa: PLC0415 - see above

        logging.info(text)
