"""Give c2sti odd sections and damaged files, and count what comes of it.

    python -m scripts.fuzz --cases 10000 --seed 0       a table on stdout, what is wrong on stderr
    python -m scripts.fuzz --minutes 2                  for some time instead
    python -m scripts.fuzz --case sections 1234         one case again, with its traceback

Each case is drawn from its number alone. Outcomes: *correct*: a result that keeps its promises (finite, not negative,
the right shape, and the same where the input is the same up to order, unit, direction, container and the like);
*named*: an error of our own that says what was found; *undamaged* and *altered*: a damaged file that reads as before,
or as other data that are well formed (HDF5 keeps no checksums, so an altered count is a count). These are right.
*hdf5*: a library that reads files (h5py, zarr) ended the process on a damaged one, or never came back, before any code
of ours saw it; nothing in Python can catch that, so it is shown and not counted as wrong. Wrong are *foreign*: an error
from inside another library; *nonsense*: a promise broken; *crash*: the process died or hung elsewhere. Then the tool
ends with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from scripts.fuzz.driver import FAMILIES, OUTCOMES, case, fuzz


def main() -> int:
    """Read the command line, run, say what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, help="of each family, at most")
    parser.add_argument("--minutes", type=float, help="at most; 1 where --cases is not given either")
    parser.add_argument("--seed", type=int, default=0, help="cases are numbered from a million times this on")
    parser.add_argument("--case", nargs=2, metavar=("FAMILY", "NUMBER"), help=f"one again, of {' or '.join(FAMILIES)}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fuzz.") as folder:
        if given.case:
            print(case(given.case[0], int(given.case[1]), Path(folder)))
            return 0
        cases = float("inf") if given.cases is None else given.cases
        minutes = given.minutes or (float("inf") if given.cases else 1.0)
        began = time.monotonic()
        counts, wrong = fuzz(60 * minutes, given.seed, Path(folder), cases)
        seconds = time.monotonic() - began
    print("| cases | " + " | ".join(OUTCOMES) + " |\n|" + " --- |" * (len(OUTCOMES) + 1))
    for family, found in counts.items():
        print(f"| {family} | " + " | ".join(str(found[kind]) for kind in OUTCOMES) + " |")
    total = sum(sum(found.values()) for found in counts.values())
    print(f"{total} cases in {seconds:.0f} s, {seconds / max(total, 1):.2f} s a case; seed {given.seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
