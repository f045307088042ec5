"""Held-out sections of a series, interpolated and compared with what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anndata import AnnData

from c2sti import _logging, _validators, benchmark, io
from c2sti._docs import documented
from c2sti._types import Interpolator
from c2sti.benchmark._leave_out import verdict
from c2sti.models._registry import METHODS, available, named
from c2sti.pair_check import OnMisfit, check_on_misfit
from c2sti.tl._evaluate_cells import leave_cells_out

if TYPE_CHECKING:
    from spatialdata import SpatialData


@documented
def evaluate(
    slices: Sequence[AnnData | SpatialData] | AnnData | SpatialData,
    *,
    library_key: str | None = None,
    methods: Sequence[str | Path | Interpolator] = ("c2sti",),
    n_slices: int = 1,
    z: Sequence[float] | None = None,
    context: bool = True,
    n_genes: int = 1000,
    intervals: Sequence[float] = (),
    half_observed: bool = False,
    return_genes: bool = False,
    return_sections: bool = False,
    output: Literal["expression", "cells"] = "expression",
    labels: str | None = None,
    layer: io.Key = None,
    spatial_key: str | None = None,
    table_key: io.Key = None,
    image_key: io.Key = None,
    coordinate_system: io.Key = None,
    on_misfit: OnMisfit = "warn",
    device: str | None = None,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> Any:  # a DataFrame, or with others in a tuple: overloads would hide the parameters from the reference
    """Hold out measured sections of a series, interpolate them, and compare.

    Every run of `n_slices` interior sections is held out in turn and interpolated from its two neighbours (and their
    neighbours, as context). Nothing depends on the held-out section: genes are chosen from the neighbours alone.

    Parameters
    ----------
    slices
        The series in order of z, in common coordinates (see :func:`c2sti.pp.align_series`); at least ``n_slices + 2``.
        Or one object that holds them, with `library_key`.
    methods
        Models to compare with ``"copy"``, ``"linear"``, ``"lowrank"`` and ``"gp"``: whatever :func:`interpolate` takes
        as `model`.
    n_slices
        Sections held out in a row.
    z
        z of the sections; by default ``obs["z_um"]`` or ``obs["z"]`` where all sections carry one, else even steps.
    context
        Whether models that can use them are given the sections beyond the pair.
    n_genes
        The most variable genes among those detected in at least 10 % of the spots of both neighbours are scored.
    intervals
        Levels of intervals to check, ``(0.5, 0.9)`` say: what :func:`interpolate` gives as `interval`.
    half_observed
        Whether each method that can is also given a random half of the held-out section's own spots, and scored on the
        other half: a nearer limit than the noise ceiling, which no method reaches. Takes as long again.
    return_genes
        Whether to return the scores of each gene as well: which to believe.
    return_sections
        Whether to return the held-out sections as well, with what each method predicts of them.
    output
        ``"cells"`` scores what :func:`interpolate_cells` gives instead, of the models in `methods` alone.
    labels
        Column of `obs` with the types of cells, for ``output="cells"``; scores of types are NaN without it.
    %(shared)s

    Returns
    -------
    DataFrame with one row per method and held-out section; its columns, ``pcc``, ``rmse`` and ``rv`` among them, are in
    :doc:`/guide/result`. ``table.attrs["verdict"]`` says which method leads, and how far it is from the limits.

    With `return_genes` and `return_sections` a tuple of that table and, in this order: a DataFrame with one row per
    method, held-out section and ``gene``; a list of AnnData, one per held-out section, with the measured values in
    ``X`` and the predictions in ``layers``.

    Raises
    ------
    ValueError
        Too few sections, or one that cannot be used.

    Warns
    -----
    UserWarning
        A neighbour holds spots of the held-out section, with the same expression: scores are too high there.

    Examples
    --------
    >>> import c2sti
    >>> series = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 200.0, 400.0])
    >>> table = c2sti.tl.evaluate(series, show_progress_bar=False)
    >>> sorted(table["method"])
    ['c2sti', 'copy', 'gp', 'linear', 'lowrank']
    """
    check_on_misfit(on_misfit)
    _validators.seed(seed)
    levels = _validators.reals(intervals, "intervals")
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"intervals = {levels.tolist()}; a list of levels between 0 and 1 is needed, such as [0.9]")
    judged = named([*METHODS, *_validators.several(methods, "methods", "models")], "methods")
    device = available(device)
    if output not in ("expression", "cells"):
        raise ValueError(f"output = {_validators.shown(output)}; 'expression' or 'cells' is needed")
    _check_output(
        output,
        {"labels": labels is not None},
        {
            "intervals": len(levels) > 0,
            "half_observed": half_observed,
            "return_genes": return_genes,
            "return_sections": return_sections,
        },
    )
    sources = io.sources(
        slices,
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    how: dict[str, Any] = {
        "n_slices": n_slices,
        "z": z,
        "context": context,
        "n_genes": n_genes,
        "on_misfit": on_misfit,
        "device": device,
        "seed": seed,
        "show_progress_bar": show_progress_bar,
    }
    read = [source.read(obs_keys=() if labels is None else labels, measured=True) for source in sources]
    if output == "cells":
        return leave_cells_out(read, labels=labels, methods=named(methods, "methods"), **how)
    kept = {"keep_genes": return_genes, "keep_sections": return_sections}
    how |= {"intervals": intervals, "half_observed": half_observed, **kept}
    found = benchmark.leave_sections_out(read, methods=judged, **how)
    found.table.attrs["verdict"] = verdict(found.table, METHODS)
    _logging.info(found.table.attrs["verdict"])
    more = [found.genes] * return_genes + [found.sections] * return_sections
    return (found.table, *more) if more else found.table


def _check_output(output: str, of_cells: Mapping[str, bool], of_expression: Mapping[str, bool]) -> None:
    """Refuse arguments that mean nothing for this output, of those that are for the one or the other."""
    needed, given = ("cells", of_cells) if output == "expression" else ("expression", of_expression)
    wrong = [f"{name}=" for name, is_given in given.items() if is_given]
    if wrong:
        are = "is" if len(wrong) == 1 else "are"
        raise ValueError(f"{' and '.join(wrong)} {are} for output={needed!r}; leave it out, or change output=")
