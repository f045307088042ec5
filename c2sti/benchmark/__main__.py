"""``python -m c2sti.benchmark``: the paper's tables on whole held-out sections of measured series."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from c2sti._tasks import one_thread
from c2sti.benchmark._networks import PAPER_ROWS, ROWS, SLICES, STEPS, TABLES
from c2sti.benchmark._run import Run

DESCRIPTION = """\
Train what needs training, score every method on held-out sections of the measured series in a folder, write tables.

Networks are trained on her2st without a patient, and scored on that patient; on heart, stahl, dlpfc and starmap, which
none was trained on, the networks of all folds are scored, and their scores averaged. What is finished is kept below OUT
and not done again: a run that was stopped continues when the same command is given, and several may share one OUT.

stdout: the table, Markdown. stderr: progress. OUT: table1.md, table1.csv, table1_cases.csv, table1.png (or table2,
ablation); networks/<method>/<patient>/<seed>/, ordinary checkpoints; scores/.
"""

EPILOG = """\
examples:
  python -m c2sti.benchmark --data sections --table 1 --out runs
  python -m c2sti.benchmark --data sections --table 1 --out runs --methods copy linear lowrank gp   (no training)
  python -m c2sti.benchmark --table 1 --quick --out quick   (simulated tissue, to see that it works)
  python -m c2sti.benchmark --protocol paper --table 2 --slices 1 2 3 4 --out paper   (the paper's own network)
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    whole = argparse.ArgumentParser(
        "python -m c2sti.benchmark",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = whole.add_argument
    add("--data", type=Path, default=Path(os.environ.get("C2STI_DATA", "data")), metavar="DIR",
        help="folder with the sections (default: C2STI_DATA, or ./data)")  # fmt: skip
    add("--protocol", choices=["patients", "paper"], default="patients",
        help="paper: patches of Open-ST sections, simulated ones without --open-st (default: patients)")  # fmt: skip
    add("--open-st", action="store_true", help="--data holds Open-ST sections; with --protocol paper")
    add("--split", choices=["section", "patch"], default="section", help="with --protocol paper (default: section)")
    add("--table", choices=list(TABLES), required=True, help="1: one section held out; 2: two to four; ablation")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of networks, scores and tables")
    add("--folds", nargs="+", metavar="PATIENT",
        help="patients of her2st that are left out of the training in turn, and scored (default: all)")  # fmt: skip
    add("--seeds", type=int, default=3, metavar="N", help="networks a method and fold (default: %(default)s)")
    add("--methods", nargs="+", metavar="NAME", help=f"rows of the table; of {', '.join(ROWS)}")
    add("--slices", type=int, nargs="+", metavar="N",
        help=f"sections held out in a row (default: {'; '.join(f'{t}: {s}' for t, s in SLICES.items())})")  # fmt: skip
    add("--context", action="store_true", help="let methods that can use them see the sections beyond the two")
    add("--n-genes", type=int, default=1000, metavar="N", help="most variable genes scored (default: %(default)s)")
    add("--steps", type=int, metavar="N", help=f"of every training (default: {STEPS})")
    add("--rival-steps", type=int, metavar="N", help="of the compared methods' trainings, where it is another number")
    add("--full", action="store_true", help="the paper's network with its own channels, batches and rates (for a GPU)")
    add("--quick", action="store_true", help="simulated tissue, tiny networks, few steps; needs no data")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", metavar="NAME", help="cpu or cuda")
    add("--force", action="store_true", help="do anew what another recipe or version left in OUT")
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with the words after ``python -m c2sti.benchmark``; gives back the exit code."""
    options = parser().parse_args(arguments)
    options.methods = options.methods or (PAPER_ROWS if options.protocol == "paper" else TABLES[options.table])
    options.slices = options.slices or SLICES[options.table]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the libraries below
            print(Run(options).table())
    except KeyboardInterrupt:
        print("c2sti.benchmark: stopped; give the same command to continue", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"c2sti.benchmark: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with one_thread():  # with more, sums come out in another order: the same command would make another table
        sys.exit(main())
