"""``c2sti evaluate``: how well held-out sections of a series are interpolated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from c2sti import pl, tl
from c2sti.cli._files import aside, check_free, read
from c2sti.cli._options import (
    add_computing,
    add_depths,
    add_force,
    add_reading,
    add_sections,
    command,
    give_table,
    say,
    where_to_read,
)
from c2sti.pl._axes import check_kind

DESCRIPTION = """\
Hide measured sections of a series, make them again from their neighbours, and compare.

Every run of N interior sections is held out in turn. Naive methods (copy, linear, lowrank, gp) are always judged beside
the one in question: if none is beaten, the tissue offers no more. Choose N as wide as the gap that you mean to bridge.

stdout: a table (tab separated), one row for each method and held-out section. pcc: correlation over spots, mean over
genes; ceiling: what the held-out section's own noise leaves to be reached; rmse: error in log1p; rv: co-expression
kept, 1 is perfect. stderr: the means.
"""

EPILOG = """\
examples:
  c2sti evaluate s1.h5ad s2.h5ad s3.h5ad s4.h5ad > scores.tsv
  c2sti evaluate s1.h5ad s2.h5ad s3.h5ad s4.h5ad -n 2 --methods c2sti my_model --plot scores.png
"""

METRICS = ("pcc", "rmse", "rv")


def add(commands: Any) -> None:
    """Add the command."""
    parser = command(
        commands, "evaluate", does="how well held-out sections are interpolated", description=DESCRIPTION, epilog=EPILOG
    )
    add_sections(parser, "three")
    parser.add_argument(
        "-n", "--n-slices", type=int, default=1, metavar="N", help="sections held out in a row (default: %(default)s)"
    )
    parser.add_argument(
        "--methods", nargs="+", default=["c2sti"], metavar="NAME",
        help="c2sti or folders of checkpoints, beside the naive methods (default: c2sti)",
    )  # fmt: skip
    parser.add_argument(
        "--no-context", action="store_true", help="let no method see sections beyond the two neighbours"
    )
    parser.add_argument(
        "--n-genes", type=int, default=1000, metavar="N", help="most variable genes scored (default: %(default)s)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the scores into this file, .png or .pdf")
    add_depths(parser)
    add_computing(parser)
    add_reading(parser, aligned=True)
    add_force(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Do it."""
    if chosen.plot:
        check_kind(chosen.plot, "--plot")
        check_free([chosen.plot], chosen.sections, force=chosen.force)
    sections = [read(path) for path in chosen.sections]
    table = tl.evaluate(
        sections,
        methods=chosen.methods,
        n_slices=chosen.n_slices,
        z=chosen.z,
        context=not chosen.no_context,
        n_genes=chosen.n_genes,
        device=chosen.device,
        seed=chosen.seed,
        show_progress_bar=not chosen.quiet,
        **where_to_read(chosen),
    )
    give_table(table.columns, table.itertuples(index=False))
    means = table.groupby("method", sort=False)[[*METRICS, "ceiling"]].mean()
    say(chosen, f"means over {len(table) // len(means)} held-out sections\n{means.round(3).to_string()}")
    if chosen.plot:
        _draw(table, chosen.plot)
        say(chosen, f"drawn into {chosen.plot}")


def _draw(table: pd.DataFrame, path: Path) -> None:
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only if an image is wanted

    with plt.ioff():
        width = 1.1 * table["method"].nunique() + 1.2
        figure, axs = plt.subplots(1, len(METRICS), figsize=(width * len(METRICS), 4.2), layout="constrained")
        for ax, metric in zip(axs, METRICS, strict=True):
            pl.evaluation(table, metric=metric, ax=ax)
        with aside(path) as part:
            figure.savefig(part, dpi=150)
        plt.close(figure)
