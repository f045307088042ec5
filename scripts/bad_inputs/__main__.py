"""The command; see the package."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter

os.environ.setdefault("MPLBACKEND", "Agg")

from scripts import bad_inputs
from scripts.bad_inputs.catalogue import catalogue


def main() -> int:
    """Read the command line, try everything, say what was found."""
    parser = argparse.ArgumentParser(
        description=bad_inputs.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--of", action="append", metavar="FUNCTION", help="only calls of this function")
    parser.add_argument("--list", action="store_true", help="show the message of every call")
    given = parser.parse_args()
    counts, every = bad_inputs.tried(bad for bad in catalogue() if not given.of or bad.of in given.of)
    print(
        "| function | tried | " + " | ".join(bad_inputs.OUTCOMES) + " |\n|" + " --- |" * (len(bad_inputs.OUTCOMES) + 2)
    )
    for function, found in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"| `{function}` | {found.total()} | " + " | ".join(str(found[k]) for k in bad_inputs.OUTCOMES) + " |")
    for bad, kind, text in every:
        if given.list or kind != "named":
            print(f"{bad.of}: {bad.what}: {kind}: {text}", file=sys.stderr)
    return int(any(kind != "named" for _, kind, _ in every))


if __name__ == "__main__":
    sys.exit(main())
