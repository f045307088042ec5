"""The command ``c2sti``, which is ``python -m c2sti``: a process that does one thing, and ends with its exit code."""

import os
import sys

from c2sti.cli import main


def run() -> None:
    """Run the command of this process, and end it.

    After a refusal it ends at once: HDF5 crashes at the end of a process in which it could not write, and the exit code
    would be the crash's.
    """
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)


if __name__ == "__main__":
    run()
