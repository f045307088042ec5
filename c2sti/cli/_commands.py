"""The commands that work on sections. Docstrings of those that run are shown by ``--help``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from anndata import AnnData

from c2sti import _keys, pl, pp, tl
from c2sti._validators import new_folder
from c2sti.cli._files import Section, check_free, check_free_folder, read, replaced, write
from c2sti.cli._options import (
    add_computing,
    add_force,
    add_interpolating,
    add_output,
    add_reading,
    add_sections,
    add_z,
    give,
    give_table,
    keywords,
    say,
)
from c2sti.io import is_spatialdata
from c2sti.pl._look import check_kind
from c2sti.training import TrainConfig

MOVES = ("file", "section", "fit", "angle_deg", "shift_x", "shift_y", "scale", "flipped")  # columns of align's table
METRICS = ("pcc", "rmse", "rv")
STEPS, STEPS_ANEW = 200, 600  # that tl.train takes from a model, and from none
RATE = 5e-4  # its learning rate from a model


def align_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_sections(parser, "two")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="folder for the moved sections")
    add("--reference", type=int, default=0, metavar="N", help="which section stays, from 0 (default: %(default)s)")
    text = "affine allows for a few per cent of scale and shear (default: %(default)s)"
    add("--method", choices=("rigid", "affine"), default="rigid", help=text)
    text = "what sections are compared by (default: both where all have H&E, else expression)"
    add("--use", choices=("auto", "expression", "histology", "both"), default="auto", help=text)
    add("--flip", action="store_true", help="try mirrored sections as well; takes twice as long")
    text = "align each section to the reference itself, rather than to its neighbour on that side"
    add("--to-reference", action="store_false", dest="chain", help=text)
    add_reading(parser, aligned=False)
    add_force(parser)


def align(chosen: argparse.Namespace) -> None:
    """Bring the sections of a series into a common coordinate system, as interpolation needs them.

    All rotations and shifts are searched, so sections may lie anywhere on their slides. They are compared by their
    expression and, where they have one, by their H&E. Each goes into DIR under its own name, with coordinates added as
    obsm['spatial_aligned'] (in a SpatialData: the coordinate system 'spatial_aligned') and the H&E moved along.

    stdout: a table of the files written and how each section was moved. The fit is between 0 and 1; below 0.35 sections
    fit no better than unrelated sections. Look at the sections on top of each other first: no method can correct a
    wrong alignment.

    Examples
    --------
      c2sti align a.h5ad b.h5ad -o aligned
      c2sti align s1.zarr s2.zarr s3.zarr s4.zarr -o aligned --reference 1 --flip
    """
    outputs = [chosen.output / path.name for path in chosen.sections]
    if len(set(outputs)) < len(outputs):
        raise ValueError("two of the sections have the same file name; each is written under its own, so rename one")
    check_free(outputs, chosen.sections, force=chosen.force)
    sections = [read(path) for path in chosen.sections]
    say(chosen, f"aligning {len(sections)} sections")
    options = keywords(chosen, "reference", "chain", "method", "use", "flip")
    aligned = pp.align_series(sections, copy=True, **options) or []  # None is for inputs that are changed in place
    for section, path in zip(aligned, outputs, strict=True):
        write(section, path)
    rows = (row for s, path in zip(aligned, outputs, strict=True) for row in _moves(s, path, chosen))
    give_table(MOVES, rows)


def _moves(section: Section, path: Path, chosen: argparse.Namespace) -> Iterator[list[object]]:
    """How each section of a file was moved."""
    table = section
    if is_spatialdata(section):
        table = section.tables[next(key for key in chosen.table_key or section.tables if key in section.tables)]
    record = table.uns[_keys.ALIGNMENT]
    for name, one in ({"": record} if "matrix" in record else record).items():
        numbers = [one["fit"], one["angle_deg"], *one["shift"], one["scale"]]
        yield [path, name, *map(float, numbers), bool(one["flipped"])]


def interpolate_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("slice_a", type=Path, metavar="A", help="section on one side of the gap")
    text = "section on the other side; left out where A holds both, with --library-key"
    add("slice_b", type=Path, nargs="?", metavar="B", help=text)
    add_output(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-n", "--n-slices", type=int, metavar="N", help="sections to interpolate, evenly (default: 1)")
    text = "where to interpolate them: fractions of the way from A to B, or z where both carry it in obs['z_um']"
    where.add_argument("--positions", type=float, nargs="+", metavar="P", help=text)
    text = "further sections by position, A is 0 and B is 1: files, or names of sections in --library-key"
    add("--context", type=_context, nargs="+", default=[], metavar="FILE@POSITION", help=text)
    add_interpolating(parser)
    add_computing(parser)
    add = parser.add_argument_group("results that do not fit into memory").add_argument
    text = "write a .zarr and never hold it: the sections as factors, which c2sti.read_zarr makes layers of"
    add("--stream", action="store_true", help=text)
    add("--dense", action="store_true", help="with --stream, write layers themselves, block by block")
    text = "significant digits to keep, with --stream --dense; 3 halve the files (default: all)"
    add("--digits", type=int, metavar="N", help=text)
    add("--max-memory", metavar="SIZE", help="memory to get by with, such as 8GB; what needs more is refused")
    add_reading(parser, aligned=True)


def _context(text: str) -> tuple[Path, float]:
    path, _, position = text.rpartition("@")
    try:
        return Path(path), float(position)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be FILE@POSITION, such as s1.h5ad@-1") from error


def interpolate(chosen: argparse.Namespace) -> None:
    """Interpolate the missing sections between two measured ones.

    Both have to lie in a common coordinate system; `c2sti align` brings them there, and the frame that it wrote is used
    by itself. The result is one AnnData whose layers are the sections: slice_a, the interpolated c2sti_1, c2sti_2, ...,
    slice_b. It is marked as computed. Draw it in Python:

      out = c2sti.read_zarr("sections.zarr")
      c2sti.pl.sections(out, "ERBB2")
      squidpy.pl.spatial_scatter(out, color="ERBB2", layer="c2sti_2", shape="square", img=False)

    stdout: the path written.

    Examples
    --------
      c2sti interpolate a.h5ad b.h5ad -n 3 -o sections.zarr
      c2sti interpolate a.h5ad b.h5ad --positions 30 45 -o sections.h5ad
      c2sti interpolate a.h5ad b.h5ad -n 3 --stream --max-memory 8GB -o large.zarr
      c2sti interpolate s2.h5ad s3.h5ad --context s1.h5ad@-1 s4.h5ad@2 -o sections.h5ad
      c2sti interpolate both.h5ad --library-key sample -o sections.h5ad
      c2sti interpolate four.h5ad --library-key sample --context C2@-1 C5@2 -o sections.h5ad
    """
    named = {position: str(path) for path, position in chosen.context if chosen.library_key and not path.exists()}
    pair = [path for path in (chosen.slice_a, chosen.slice_b) if path is not None]
    around = {position: path for path, position in chosen.context if position not in named}
    if len(pair) == 1 and chosen.library_key is None:
        raise ValueError(f"B is missing: give the other section, or --library-key if {pair[0]} holds both")
    check_free([chosen.output], [*pair, *around.values()], force=chosen.force)
    _check_stream(chosen)
    if (chosen.dense or chosen.digits is not None) and not chosen.stream:
        name = "--dense" if chosen.dense else "--digits"
        raise ValueError(f"{name} is for results that are written block by block; add --stream")
    sections = [read(path) for path in pair]
    context = named | {position: read(path) for position, path in around.items()}
    names = "n_slices positions model genes obs_keys obsm_keys std interval on_misfit pitch key_added device seed dense"
    options = keywords(chosen, *names.split(), "digits", "max_memory")
    _write(chosen, partial(tl.interpolate, *sections, context=context, show_progress_bar=not chosen.quiet, **options))


def series_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_sections(parser, "two")
    add_output(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    text = "sections to interpolate in each gap, one number for all gaps or one for each in order"
    where.add_argument("-n", "--n-slices", type=int, nargs="+", metavar="N", help=text)
    text = "distance of sections that each gap is divided into as nearly as evenly can be, unit of z"
    where.add_argument("--spacing", type=float, metavar="LENGTH", help=text)
    where.add_argument("--at-z", type=float, nargs="+", metavar="Z", help="z of the sections wanted, increasing")
    text = "sections on either side of a pair that are used as its context (default: %(default)s)"
    add("--n-context", type=int, default=2, metavar="N", help=text)
    add_interpolating(parser)
    text = "write a .zarr and never hold it: the interpolated sections as factors, the smallest files"
    add("--stream", action="store_true", help=text)
    add("--max-memory", metavar="SIZE", help="memory to get by with, such as 8GB; what needs more is lazy or refused")
    add_z(parser)
    add_computing(parser)
    add_reading(parser, aligned=True)


def series(chosen: argparse.Namespace) -> None:
    """Interpolate a whole series: so many sections in each gap, to a spacing, or at given z.

    All sections have to lie in a common coordinate system (`c2sti align`) and to carry z, or have it given by --z. The
    result is a stack, one AnnData with a row for each spot of the measured sections and each bin of the others;
    obs['section'] and obs['inserted'] say which is which, obsm['spatial_3d'] where they are.

    stdout: the path written.

    Examples
    --------
      c2sti series s1.h5ad s2.h5ad s3.h5ad s4.h5ad -n 2 -o stack.h5ad
      c2sti series s1.h5ad s2.h5ad s3.h5ad --n-slices 4 2 -o stack.h5ad
      c2sti series s1.h5ad s2.h5ad s3.h5ad --z 0 60 150 --spacing 10 --stream -o stack.zarr
      c2sti series all.h5ad --library-key sample --at-z 30 45 -o stack.zarr
    """
    check_free([chosen.output], chosen.sections, force=chosen.force)
    _check_stream(chosen)
    sections = [read(path) for path in chosen.sections]
    names = "z n_slices spacing at_z n_context model genes obs_keys obsm_keys std interval on_misfit pitch key_added"
    options = keywords(chosen, *names.split(), "device", "seed", "max_memory")
    if chosen.n_slices is not None and len(chosen.n_slices) == 1:
        (options["n_slices"],) = chosen.n_slices
    _write(chosen, partial(tl.interpolate_series, sections, show_progress_bar=not chosen.quiet, **options))


def _check_stream(chosen: argparse.Namespace) -> None:
    """Refuse --stream into a file that cannot be written block by block."""
    if chosen.stream and chosen.output.suffix != ".zarr":
        raise ValueError(f"{chosen.output} cannot be written block by block; end it in .zarr, or leave out --stream")


def _write(chosen: argparse.Namespace, computed: Callable[..., AnnData]) -> None:
    """Write what a tool computes, which with --stream writes it itself, to the path that it is given."""
    if chosen.stream:
        new_folder(chosen.output.parent, "the output's folder")
        with replaced(chosen.output) if chosen.output.exists() else nullcontext(chosen.output) as part:
            computed(out=part)
    else:
        result = computed()
        say(chosen, f"writing {chosen.output}")
        write(result, chosen.output)
    give(chosen.output)


def evaluate_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_sections(parser, "three")
    add("-n", "--n-slices", type=int, default=1, metavar="N", help="sections held out in a row (default: %(default)s)")
    text = "c2sti or folders of checkpoints, beside the naive methods (default: c2sti)"
    add("--methods", nargs="+", default=["c2sti"], metavar="NAME", help=text)
    add("--no-context", action="store_false", dest="context", help="use no sections beyond the two neighbours")
    add("--n-genes", type=int, default=1000, metavar="N", help="most variable genes scored (default: %(default)s)")
    text = "also tell each method half of the held-out section's spots, and score it on the other half; takes longer"
    add("--half-observed", action="store_true", help=text)
    add("--plot", type=Path, metavar="FILE", help="draw the scores into this file, .png or .pdf")
    add_z(parser)
    add_computing(parser)
    add_reading(parser, aligned=True)
    add_force(parser)


def evaluate(chosen: argparse.Namespace) -> None:
    """Hold out measured sections of a series, interpolate them from their neighbours, and compare.

    Every run of N interior sections is held out in turn. Naive methods (copy, linear, lowrank, gp) are always judged
    beside the one in question: if none is beaten, the tissue offers no more. Choose N as wide as the gap that you mean
    to bridge.

    stdout: a table (tab separated), one row for each method and held-out section. pcc: correlation over spots, mean
    over genes; "ceiling": the noise ceiling, the pcc that count noise allows; rmse: error in log1p; rv:
    co-expression kept, 1 is perfect; with --half-observed, half_observed: the pcc on half of the section's spots of the
    same method given the other half, share: how much of that it reaches without. stderr: the means.

    Examples
    --------
      c2sti evaluate s1.h5ad s2.h5ad s3.h5ad s4.h5ad > scores.tsv
      c2sti evaluate s1.h5ad s2.h5ad s3.h5ad s4.h5ad -n 2 --methods c2sti my_model --plot scores.png
    """
    if chosen.plot:
        check_kind(chosen.plot, "--plot")
        check_free([chosen.plot], chosen.sections, force=chosen.force)
    sections = [read(path) for path in chosen.sections]
    options = keywords(chosen, "methods", "n_slices", "z", "context", "n_genes", "half_observed", "device", "seed")
    table = tl.evaluate(sections, show_progress_bar=not chosen.quiet, **options)
    give_table(table.columns, table.itertuples(index=False))
    means = table.groupby("method", sort=False)[[*METRICS, "ceiling"]].mean()
    say(chosen, f"means over {len(table) // len(means)} held-out sections\n{means.round(3).to_string()}")
    say(chosen, table.attrs["verdict"])
    if chosen.plot:
        import matplotlib.pyplot as plt  # noqa: PLC0415 - only if an image is wanted

        with plt.ioff(), replaced(chosen.plot) as part:
            width = 1.1 * len(means) + 1.2
            figure, axs = plt.subplots(1, len(METRICS), figsize=(width * len(METRICS), 4.2), layout="constrained")
            for ax, metric in zip(axs, METRICS, strict=True):
                pl.evaluation(table, metric=metric, ax=ax)
            figure.savefig(part, dpi=150)
            plt.close(figure)
        say(chosen, f"drawn into {chosen.plot}")


def train_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_sections(parser, "three")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the new model")
    text = "what to go on from: c2sti, the folder of a checkpoint, or none (default: %(default)s)"
    add("--model", default="c2sti", metavar="NAME", help=text)
    add("--steps", type=int, metavar="N", help=f"of training (default: {STEPS} from a model, {STEPS_ANEW} from none)")
    text = "most sections held out in a row (default: %(default)s)"
    add("-n", "--n-slices", type=int, default=4, metavar="N", help=text)
    add("--n-genes", type=int, default=1000, metavar="N", help="genes learnt from (default: %(default)s)")
    add("--state", type=Path, metavar="DIR", help="keep the state here; a run that was stopped continues from it")
    add_z(parser)
    add_computing(parser)
    add_reading(parser, aligned=True)
    add_force(parser)


def train(chosen: argparse.Namespace) -> None:
    """Train the network on the held-out sections of a series of your own.

    Every run of 1 to N interior sections is held out in turn, and the network learns to make it again. What comes out
    is for other series of the same kind, or for the gaps of this one. Judge it on sections that it was not trained on:
    on the others, `c2sti evaluate` would judge its memory. Training so far has gained in some tissue and lost in other.

    Needs: pip install "c2sti[train]". stdout: the folder written, for --model of `interpolate` and --methods of
    `evaluate`.

    Examples
    --------
      c2sti train s1.h5ad s2.h5ad s3.h5ad s4.h5ad -o my_model
      c2sti train s1.h5ad s2.h5ad s3.h5ad s4.h5ad -o my_model --model none --steps 600 --state my_model_state
      c2sti interpolate a.h5ad b.h5ad --model my_model -o sections.h5ad
    """
    check_free_folder(chosen.output, force=chosen.force)
    sections = [read(path) for path in chosen.sections]
    model = None if chosen.model == "none" else chosen.model
    trained = tl.train(
        sections,
        model=model,
        how=_how(chosen, anew=model is None),
        folder=chosen.state,
        show_progress_bar=not chosen.quiet,
        **keywords(chosen, "n_slices", "z", "n_genes", "device", "seed"),
    )
    with replaced(chosen.output) as part:
        trained.save(part)
    n = len(sections)
    say(chosen, f"the model is for --model of `c2sti interpolate`; judge it on other sections than these {n}")
    give(chosen.output)


def _how(chosen: argparse.Namespace, *, anew: bool) -> TrainConfig | None:
    """Settings with another number of steps; the tool's own where none is named."""
    if chosen.steps is None:
        return None
    rate = TrainConfig.learning_rate if anew else RATE
    return TrainConfig(steps=chosen.steps, seed=chosen.seed, learning_rate=rate)
