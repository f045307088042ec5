"""The commands that work on a result. Docstrings of those that run are shown by ``--help``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from c2sti import _keys, _result, _validators, pl, tl
from c2sti.cli._files import check_free, read, replaced, write
from c2sti.cli._options import add_force, add_output, add_result, add_seed, give, give_table, result_of

# What `plot` draws: by the name of the function in c2sti.pl, the options that it takes.
KINDS = {
    "sections": ("cmap", "vmin", "vmax"),
    "spread": ("cmap", "vmin", "vmax"),
    "stack": ("cmap", "vmin", "vmax"),
    "coexpression": (),
}

GENES_AT_ONCE = 1000  # that `genes` holds in memory


def describe_options(parser: argparse.ArgumentParser) -> None:
    """Options of `describe`."""
    add_result(parser)


def describe(chosen: argparse.Namespace) -> None:
    """Say how a result was made, in words, for a methods section.

    stdout: a paragraph: which sections were computed and where they lie, from what, by which model and versions, with
    what seed, and what of the H&E is virtual.

    Examples
    --------
      c2sti describe sections.zarr
    """
    give(tl.describe(read(chosen.result), key=chosen.key))


def counts_options(parser: argparse.ArgumentParser) -> None:
    """Options of `sample-counts`."""
    describe_options(parser)
    add_output(parser)
    parser.add_argument("--sections", nargs="+", metavar="NAME", help="which interpolated sections (default: all)")
    parser.add_argument("--genes", nargs="+", metavar="GENE", help="names of the genes wanted (default: all)")
    add_seed(parser, "of the sample")


def sample_counts(chosen: argparse.Namespace) -> None:
    """Draw counts for the interpolated sections of a result.

    They are as noisy as those measured beside them, for tools that take counts. The sections have to have been given as
    raw counts. It is a sample: another seed gives another one, and none holds more than the measured neighbours do.

    stdout: the path written.

    Examples
    --------
      c2sti sample-counts sections.zarr -o counts.h5ad
      c2sti sample-counts sections.zarr -o counts.h5ad --sections c2sti_2 --genes ERBB2 ESR1 --seed 1
    """
    check_free([chosen.output], [chosen.result], force=chosen.force)
    result = result_of(chosen.result)
    drawn = tl.sample_counts(result, sections=chosen.sections, genes=chosen.genes, key=chosen.key, seed=chosen.seed)
    write(drawn, chosen.output)
    give(chosen.output)


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    text = "distance from slice_a to slice_b in µm, for a pair whose sections carry no z"
    parser.add_argument("--gap", type=float, metavar="LENGTH", help=text)
    text = "µm in one unit of the coordinates, such as the size of a pixel (default: %(default)g)"
    parser.add_argument("--um-per-unit", type=float, default=1.0, metavar="LENGTH", help=text)


# ---- other formats


def spatialdata_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_result(parser)
    add_output(parser, (".zarr",))
    _add_lengths(parser)
    text = "measured sections to put beside it, by the prefix that their elements get"
    add("--originals", type=_original, nargs="+", default=[], metavar="NAME=FILE", help=text)
    text = "obsm with the originals' coordinates (default: as the result's sections)"
    add("--spatial-key", metavar="KEY", help=text)
    add("--table-key", metavar="KEY", help="table of originals in SpatialData, where there are several")
    text = "coordinate system of originals in SpatialData (default: as the result's sections)"
    add("--coordinate-system", metavar="KEY", help=text)


def _original(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=FILE, such as before=aligned/s1.h5ad")
    return name, Path(path)


def to_spatialdata(chosen: argparse.Namespace) -> None:
    """Turn a result into SpatialData, in µm: a table and squares for each section, its H&E, and all in 3-D as points.

    The coordinate system 'global' lays all sections on each other; each has one of its own as well, called like its
    table, and the points, 'c2sti_stack', are in 'c2sti_stack'.

    stdout: the path written.

    Examples
    --------
      c2sti to-spatialdata sections.h5ad -o sections.zarr
      c2sti to-spatialdata stack.zarr -o out.zarr --um-per-unit 0.27 --originals before=s1.h5ad after=s2.h5ad
    """
    check_free([chosen.output], [chosen.result, *(path for _, path in chosen.originals)], force=chosen.force)
    originals = {name: read(path) for name, path in chosen.originals}
    names = ("key", "gap", "um_per_unit", "spatial_key", "table_key", "coordinate_system")
    options = {name: getattr(chosen, name) for name in names}
    write(tl.to_spatialdata(result_of(chosen.result), originals=originals, **options), chosen.output)
    give(chosen.output)


def volume_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_result(parser)
    add_output(parser, (".zarr",))
    add("--genes", nargs="+", required=True, metavar="GENE", help="names of the genes, one channel each")
    _add_lengths(parser)
    text = "value outside of the tissue (default: %(default)s); 0 for viewers that cannot draw NaN"
    add("--fill", type=float, default=float("nan"), metavar="NUMBER", help=text)


def to_volume(chosen: argparse.Namespace) -> None:
    """Write genes of a result as a volume, an OME-Zarr image with one channel a gene and µm along all axes.

    The sections have to be evenly spaced in z: `c2sti series --spacing` makes them so. napari opens it:
    napari --plugin napari-ome-zarr genes.zarr

    stdout: the path written.

    Examples
    --------
      c2sti to-volume stack.h5ad -o genes.zarr --genes ERBB2 ESR1
      c2sti to-volume sections.h5ad -o genes.zarr --genes ERBB2 --gap 100 --um-per-unit 0.27 --fill 0
    """
    check_free([chosen.output], [chosen.result], force=chosen.force)
    _validators.new_folder(chosen.output.parent, "the output's folder")
    options = {name: getattr(chosen, name) for name in ("genes", "key", "gap", "um_per_unit", "fill")}
    give(tl.to_volume(result_of(chosen.result), chosen.output, overwrite=chosen.force, **options))


# ---- figures and tables


def plot_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_result(parser)
    text = "genes, or columns of obs such as labels that were carried along; each is a row of panels"
    add("color", nargs="+", metavar="COLOR", help=text)
    add(
        "-o", "--output", "--save", required=True, type=Path, metavar="FILE", help="what to draw into: .png, .pdf, .svg"
    )
    text = "sections (expression in order of z), spread (its standard deviation), stack (in 3-D) or coexpression "
    add("--kind", choices=tuple(KINDS), default="sections", help=text + "(default: %(default)s)")
    add("--sections", nargs="+", metavar="NAME", help="which sections (default: all, or the middle one for spread)")
    add("--cmap", metavar="NAME", help="colour map of matplotlib")
    text = "ends of the colour scale: numbers, or percentiles such as p99 (default: by the data)"
    add("--vmin", type=_end, metavar="END", help=text)
    add("--vmax", type=_end, metavar="END", help="the upper end")
    add_force(parser)


def _end(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # a percentile, which the plot checks


def plot(chosen: argparse.Namespace) -> None:
    """Draw a result: genes or labels through its sections, how uncertain they are, in 3-D, or which vary together.

    stdout: the path written.

    Examples
    --------
      c2sti plot sections.h5ad ERBB2 -o erbb2.png
      c2sti plot stack.zarr ERBB2 ESR1 -o genes.pdf --sections slice_0 c2sti_1 slice_1 --vmax p99
      c2sti plot stack.zarr ERBB2 -o stack.png --kind stack
    """
    check_free([chosen.output], [chosen.result], force=chosen.force)
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only if an image is wanted

    draw: Callable[..., Any] = getattr(pl, chosen.kind)
    names = KINDS[chosen.kind]
    options = {name: value for name in names if (value := getattr(chosen, name)) is not None}
    if chosen.sections is not None:
        options["sections"] = chosen.sections
    with plt.ioff(), replaced(chosen.output) as part:
        axes = draw(result_of(chosen.result), chosen.color, key=chosen.key, save=part, **options)
        plt.close(np.ravel(axes)[0].figure)
    give(chosen.output)


def genes_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_result(parser)
    add("genes", nargs="*", metavar="GENE", help="names of the genes wanted (default: all)")
    text = "column to sort by, the largest first (default: the order of the result)"
    add("--sort-by", metavar="COLUMN", help=text)
    add("--n-genes", type=int, metavar="N", help="how many rows to give (default: all)")


def genes(chosen: argparse.Namespace) -> None:
    """The genes of a result, with what is known of each.

    stdout: a table (tab separated), a row for each gene: all columns of var; detected, the share of measured rows in
    which it is not zero; mean and std of its log1p expression over the measured rows; and mean_interpolated and
    std_interpolated, of the interpolated ones.

    Examples
    --------
      c2sti genes sections.h5ad ERBB2 ESR1
      c2sti genes stack.zarr --sort-by std --n-genes 20 > genes.tsv
    """
    result = result_of(chosen.result)
    record = _result.record_of(result, chosen.key)
    names = _result.genes_of(chosen.genes, result.var_names, result.var) if chosen.genes else result.var_names
    inserted = {str(name) for name in record["inserted"]}
    starts = range(0, len(names), GENES_AT_ONCE)
    table = pd.concat([_described(result[:, names[i : i + GENES_AT_ONCE]], chosen.key, inserted) for i in starts])
    if chosen.sort_by is not None:
        _validators.one_of(chosen.sort_by, "--sort-by", tuple(table.columns))
        table = table.sort_values(chosen.sort_by, ascending=False, kind="stable")
    if chosen.n_genes is not None:
        table = table.head(_validators.whole(chosen.n_genes, "--n-genes"))
    give_table(["gene", *table.columns], table.itertuples())


def _described(result: AnnData, key: str, inserted: set[str]) -> pd.DataFrame:
    """What is known of each gene, from a result of sections as layers, or a stack."""
    gap = None if "z" in result.uns[key] else 1.0  # any will do: z is not looked at
    stack = result if _keys.SECTION in result.obs else tl.to_slices(result, key=key, gap=gap)
    made = stack.obs[_keys.SECTION].astype(str).isin(inserted).to_numpy()
    measured, interpolated = (pd.DataFrame(_dense(stack.X[rows])) for rows in (~made, made))
    table = result.var.copy()
    table["detected"] = (measured > 0).mean().to_numpy()
    for end, values in (("", measured), ("_interpolated", interpolated)):
        table[f"mean{end}"], table[f"std{end}"] = values.mean().to_numpy(), values.std().to_numpy()
    return table


def _dense(values: Any) -> np.ndarray:
    values = values.compute() if hasattr(values, "compute") else values
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)
