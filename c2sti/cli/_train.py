"""``c2sti train``: a model from one's own series."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from c2sti import tl
from c2sti.cli._files import aside, check_free_folder, read
from c2sti.cli._options import (
    add_computing,
    add_depths,
    add_force,
    add_reading,
    add_sections,
    command,
    give,
    say,
    where_to_read,
)
from c2sti.training import TrainConfig

DESCRIPTION = """\
Train the network on the held-out sections of a series of your own.

Every run of 1 to N interior sections is held out in turn, and the network learns to make it again. What comes out is
for other series of the same kind, or for the gaps of this one. Judge it on sections that it has not seen: on those that
it was trained on, `c2sti evaluate` would judge its memory. Training so far has gained in some tissue and lost in other.

Needs: pip install "c2sti[train]". stdout: the folder written, for --model of `interpolate` and --methods of `evaluate`.
"""

EPILOG = """\
examples:
  c2sti train s1.h5ad s2.h5ad s3.h5ad s4.h5ad -o my_model
  c2sti train s1.h5ad s2.h5ad s3.h5ad s4.h5ad -o my_model --model none --steps 600 --state my_model_state
  c2sti interpolate a.h5ad b.h5ad --model my_model -o sections.h5ad
"""

GENTLE, ANEW = 200, 600  # steps that tl.train takes from a model, and from none
GENTLE_RATE = 5e-4  # and its learning rate from a model


def add(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "train", does="a model from your own series", description=DESCRIPTION, epilog=EPILOG)
    add_sections(parser, "three")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the new model")
    parser.add_argument(
        "--model", default="c2sti", metavar="NAME",
        help="what to go on from: c2sti, the folder of a checkpoint, or none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, metavar="N", help=f"of training (default: {GENTLE} from a model, {ANEW} from none)"
    )
    parser.add_argument(
        "-n",
        "--n-slices",
        type=int,
        default=4,
        metavar="N",
        help="most sections held out in a row (default: %(default)s)",
    )
    parser.add_argument(
        "--n-genes", type=int, default=1000, metavar="N", help="genes learnt from; it is for any (default: %(default)s)"
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="keep the state here; a run that was stopped continues when called again",
    )
    add_depths(parser)
    add_computing(parser)
    add_reading(parser, aligned=True)
    add_force(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Do it."""
    check_free_folder(chosen.output, force=chosen.force)
    sections = [read(path) for path in chosen.sections]
    model = None if chosen.model == "none" else chosen.model
    trained = tl.train(
        sections,
        model=model,
        how=_how(chosen, anew=model is None),
        n_slices=chosen.n_slices,
        z=chosen.z,
        n_genes=chosen.n_genes,
        folder=chosen.state,
        device=chosen.device,
        seed=chosen.seed,
        show_progress_bar=not chosen.quiet,
        **where_to_read(chosen),
    )
    with aside(chosen.output) as part:
        trained.save(part)
    say(
        chosen,
        f"the model is for --model of `c2sti interpolate`; judge it on other sections than these {len(sections)}",
    )
    give(chosen.output)


def _how(chosen: argparse.Namespace, *, anew: bool) -> TrainConfig | None:
    """Settings with another number of steps; the tool's own where none is named."""
    if chosen.steps is None:
        return None
    if anew:
        return TrainConfig(steps=chosen.steps, seed=chosen.seed)
    return TrainConfig(steps=chosen.steps, learning_rate=GENTLE_RATE, seed=chosen.seed)
