"""Leave-sections-out: hold out measured sections, interpolate them from their neighbours, score at their own spots.

The rules: the held-out section touches nothing (genes are chosen from the neighbours alone; only the names of its genes
count); every method sees the same pair; scores are means over genes, an undefined correlation counts as zero; the noise
noise ceiling is the correlation that the count noise of the held-out section allows.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm.auto import tqdm

from c2sti import _validators, io, metrics, ops, pair_check
from c2sti._backed import in_memory
from c2sti._types import FloatArray, ImageEncoder, InterpolatedSection, Interpolator, SlicePair
from c2sti.models.gp import Descriptions
from c2sti.training import Case
from c2sti.uncertainty import Calibration, ask

DETECTED = 0.1  # least share of spots of both neighbours in which a scored gene is seen


@dataclass(frozen=True)
class Window:
    """A run of held-out sections: indices of its neighbours, of itself, of the sections beyond, and all positions."""

    a: int
    b: int
    hidden: tuple[int, ...]
    positions: tuple[float, ...]
    beyond: Mapping[float, int]


def leave_sections_out(
    slices: Sequence[io.SliceGrid],
    *,
    methods: Mapping[str, Interpolator],
    n_slices: int = 1,
    z: Sequence[float] | None = None,
    context: bool = True,
    n_genes: int = 1000,
    intervals: Sequence[float] = (),
    on_misfit: pair_check.OnMisfit = "warn",
    device: str = "cpu",
    seed: int = 0,
    show_progress_bar: bool = True,
) -> pd.DataFrame:
    """Score every method on every run of held-out sections; parameters and columns as of :func:`c2sti.tl.evaluate`."""
    n_slices, n_genes = _validators.whole(n_slices, "n_slices"), _validators.whole(n_genes, "n_genes")
    todo = list(windows(depths(slices, z), n_slices))
    slices = io.on_shared_genes(slices, stacklevel=4)
    check_neighbours(slices, on_misfit)
    rows = []
    with tqdm(total=len(todo) * len(methods), desc="held-out sections", disable=not show_progress_bar) as bar:
        for window in todo:
            around = {q: slices[i] for q, i in window.beyond.items()} if context else {}
            pair, genes = pair_of(slices[window.a], slices[window.b], around, slices[0].genes, n_genes)
            for i in window.hidden:
                check_unseen(slices[i], [slices[j] for j in (window.a, window.b, *window.beyond.values())])
            targets = [target_of(slices[i], pair, genes) for i in window.hidden]
            ends = slices[window.a], slices[window.b]
            places = [io.rows_of(*ends, pair.lattice, target.xy) for target in targets]
            known = Descriptions(pair, device=device, seed=seed)
            for name, method in methods.items():
                rows += _score(name, method, known, window, targets, places, intervals)
                bar.update()
    table = pd.DataFrame(rows)
    table.insert(1, "name", [slices[i].name for i in table["section"]])
    return table


def check_neighbours(slices: Sequence[io.SliceGrid], on_misfit: pair_check.OnMisfit) -> None:
    """The pair check of every two consecutive sections."""
    if on_misfit == "ignore":
        return
    for a, b in pairwise(replace(section, image=None) for section in slices):
        pair, _ = io.make_pair(a, b, judged=True)
        level, scales = io.level(a, b)
        found = pair_check.measure(pair.a, pair.b, pair.spacing, io.overlap(a, b), level)
        pair_check.complain(found, a.name, b.name, on_misfit, scales=scales, stacklevel=5)


def depths(slices: Sequence[io.SliceGrid], z: Sequence[float] | None) -> FloatArray:
    """(n_sections,) z: as given, as the sections carry it, or even steps.

    Raises
    ------
    ValueError
        Not one for each section, or not in order.

    Warns
    -----
    UserWarning
        All sections carry the same z.
    """
    if z is None:
        z = _carried(slices)
    found = io.depth_of_each(z, len(slices))
    steps = np.diff(found)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"z holds {found.tolist()}, which must run one way; put the slices in their order")
    return found


def _carried(slices: Sequence[io.SliceGrid]) -> Sequence[float]:
    carried = [s.z for s in slices if s.z is not None]
    even = [float(i) for i in range(len(slices))]
    if len(carried) < len(slices):
        return even
    if len(slices) > 1 and len(set(carried)) == 1:
        warnings.warn(
            f"all {len(slices)} sections carry z = {carried[0]:g}, which does not tell how far apart they are; even "
            "steps are taken. Put the z of each into obs['z_um'], or give z=[…]",
            UserWarning,
            stacklevel=5,
        )
        return even
    return carried


def windows(z: FloatArray, n_slices: int) -> Iterator[Window]:
    """All runs of `n_slices` interior sections.

    Raises
    ------
    ValueError
        The series is too short to hide that many.
    """
    if len(z) < n_slices + 2:
        raise ValueError(
            f"{len(z)} sections are too few to hide {n_slices} between two others (n_slices); give {n_slices + 2} or "
            "more"
        )
    for a in range(len(z) - n_slices - 1):
        b = a + n_slices + 1
        scale = (z - z[a]) / (z[b] - z[a])
        hidden = tuple(range(a + 1, b))
        beyond = {float(scale[i]): i for i in (a - 1, b + 1) if 0 <= i < len(z)}
        yield Window(a, b, hidden, tuple(scale[list(hidden)].tolist()), beyond)


def pair_of(
    a: io.SliceGrid,
    b: io.SliceGrid,
    around: Mapping[float, io.SliceGrid],
    shared: pd.Index,
    n_genes: int,
    encoder: ImageEncoder | None = None,
) -> tuple[SlicePair, pd.Index]:
    """The pair as methods see it, with the genes that are scored, and their names: chosen from the two alone."""
    whole, names = io.make_pair(a, b, context=around, genes=shared, encoder=encoder)
    chosen = ops.most_variable([whole.a.moments, whole.b.moments], n_genes, DETECTED)
    if len(chosen) == 0:
        raise ValueError(f"no gene is detected in {DETECTED:.0%} of the spots of both {a.name} and {b.name}")
    return whole.subset(chosen).in_memory(), names[chosen]


def check_unseen(hidden: io.SliceGrid, neighbours: Sequence[io.SliceGrid]) -> None:
    """Warn where a neighbour holds spots of the held-out section: copying it would then look like a good method."""
    for neighbour in neighbours:
        n = io.shared_profiles(hidden, neighbour)
        if n:
            warnings.warn(
                f"{n} of {len(hidden.xy)} spots of {hidden.name} are found in {neighbour.name} with the very same "
                "expression: the held-out section is not held out. Leave one of the two out",
                UserWarning,
                stacklevel=4,
            )


def held_out_cases(
    slices: Sequence[io.SliceGrid],
    *,
    most: int,
    z: Sequence[float] | None = None,
    n_genes: int = 1000,
    encoder: ImageEncoder | None = None,
) -> list[Case]:
    """Every run of 1 to `most` interior sections as cases to train on, with and without the sections beyond.

    Genes are chosen from the neighbours alone, as for an evaluation. `encoder` describes their H&E.
    """
    found, n_genes = depths(slices, z), _validators.whole(n_genes, "n_genes")
    slices = io.on_shared_genes(slices, stacklevel=4)
    cases = []
    for n_slices in range(1, most + 1):
        for window in windows(found, n_slices):
            for beyond in ({}, window.beyond) if window.beyond else ({},):
                around = {q: slices[i] for q, i in beyond.items()}
                pair, genes = pair_of(slices[window.a], slices[window.b], around, slices[0].genes, n_genes, encoder)
                for i, position in zip(window.hidden, window.positions, strict=True):
                    xy, stored, library = io.profiles(slices[i], pair.lattice, genes)
                    values = in_memory(stored)
                    truth = io.log_normalise(values, library) if slices[i].counts else values
                    cases.append(Case(pair, xy, position, truth, slices[i].name))
    return cases


@dataclass(frozen=True)
class Target:
    """A held-out section at its own spots: (n, 2) places, (n, N) log1p expression, and the PCC that noise allows."""

    xy: FloatArray
    expression: FloatArray
    ceiling: float


def target_of(hidden: io.SliceGrid, pair: SlicePair, genes: pd.Index) -> Target:
    """What a held-out section measured of these genes."""
    xy, stored, library = io.profiles(hidden, pair.lattice, genes)
    values = in_memory(stored)
    if not hidden.counts:
        return Target(xy, values.toarray(), float("nan"))
    # All other genes count towards the library size only: one column stands for them.
    rest = np.rint(np.maximum(library - values.sum(axis=1), 0))
    noise = metrics.ceiling(sp.hstack([values, rest[:, None]], format="csr"), genes=slice(0, len(genes)))
    return Target(xy, in_memory(io.log_normalise(values, library)).toarray(), noise)


def _score(
    name: str,
    method: Interpolator,
    known: Descriptions,
    window: Window,
    targets: Sequence[Target],
    places: Sequence[io.Rows],
    intervals: Sequence[float],
) -> list[dict[str, float | int | str]]:
    rows: list[dict[str, float | int | str]] = []
    for index, position, target, here in zip(window.hidden, window.positions, targets, places, strict=True):
        start = time.perf_counter()
        answer, calibration = _answer(method, known, here, position, intervals)
        predicted = answer.expression()
        rows.append(
            {
                "section": index,
                "position": position,
                "method": name,
                **scores_of(predicted, target),
                **coverages_of(predicted, calibration, target, intervals),
                "seconds": time.perf_counter() - start,
            }
        )
    return rows


def _answer(
    method: Interpolator, known: Descriptions, rows: io.Rows, position: float, intervals: Sequence[float]
) -> tuple[InterpolatedSection, Calibration | None]:
    """The interpolated section, and what intervals around its values are made of, where there are to be any."""
    wanted, pair = len(intervals) > 0, known.pair
    prediction, spread = ask(
        known.bound(method),
        pair,
        rows.points,
        [position],
        device=known.device,
        seed=known.seed,
        std=wanted,
        intervals=wanted,
        blind=rows.blind,
        seen=(rows.sees(1, pair.a.xy), rows.sees(0, pair.b.xy)),
    )
    return prediction.slices[0], None if spread is None else spread.calibration


def coverages_of(
    predicted: FloatArray, calibration: Calibration | None, target: Target, levels: Sequence[float]
) -> dict[str, float]:
    """Share of the measured values that lie in the intervals of each level: ``coverage_90`` of 0.9."""
    if calibration is None:
        return {}
    found = {}
    for level in levels:
        lower, upper = calibration.bounds(predicted, level)
        inside = (lower <= target.expression) & (target.expression <= upper)
        found[f"coverage_{100 * level:g}"] = float(inside.mean())
    return found


def scores_of(predicted: FloatArray, target: Target) -> dict[str, float | int]:
    """Scores of (n, N) log1p expression that was predicted for the spots of a held-out section."""
    pcc = metrics.pcc(predicted, target.expression)
    return {
        "pcc": pcc,
        "rmse": metrics.rmse(predicted, target.expression),
        "rv": metrics.rv(predicted, target.expression),
        "ceiling": target.ceiling,
        "fraction": pcc / target.ceiling if target.ceiling > 0 else float("nan"),
        "n_spots": len(target.xy),
        "n_genes": predicted.shape[1],
    }
