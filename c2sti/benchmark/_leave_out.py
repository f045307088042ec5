"""How well is a held-out section interpolated from its neighbours, scored at its own spots?

The held-out section touches nothing: genes are chosen from the neighbours alone. Every method sees the same pair.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm.auto import tqdm

from c2sti import _validators, io, metrics, ops, pair_check
from c2sti._backed import in_memory
from c2sti._types import FloatArray, ImageEncoder, Interpolator, Section, SlicePair
from c2sti.models.gp import Describing, Descriptions
from c2sti.training import Case
from c2sti.uncertainty import ask

DETECTED = 0.1  # least share of spots of both neighbours in which a scored gene is detected

# A held-out section at its own spots: (n, 2) coordinates, (n, N) log1p expression, and its noise ceiling: the PCC that
# its own count noise allows a perfect prediction.
Target: TypeAlias = tuple[FloatArray, FloatArray, float]


@dataclass(frozen=True)
class Window:
    """A run of held-out sections: indices of the two around it and of itself, positions, and the sections beyond."""

    a: int
    b: int
    held_out: tuple[int, ...]
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
    half_observed: bool = False,
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
            for i in window.held_out:
                check_unseen(slices[i], [slices[j] for j in (window.a, window.b, *window.beyond.values())])
            pair, genes = pair_of(slices, window, n_genes, context=context)
            a, b = slices[window.a], slices[window.b]
            targets = [target_of(slices[i], pair, genes) for i in window.held_out]
            places = [io.rows_of(a, b, pair.lattice, xy) for xy, _, _ in targets]
            known = Descriptions(pair, device=device, seed=seed)
            detail = {"shared_detail": pair_check.shared_detail(pair.a, pair.b, pair.spacing)}
            halves = [
                Half.of(known, io.section_of(replace(slices[i], image=None), p, pair.lattice, genes))
                for i, p in zip(window.held_out, window.positions, strict=True)
                if half_observed
            ]
            for name, method in methods.items():
                for j, (i, position, target, points) in enumerate(
                    zip(window.held_out, window.positions, targets, places, strict=True)
                ):
                    scores = _score(method, known, points, position, target, intervals)
                    row = {"section": i, "name": slices[i].name, "position": position, "method": name}
                    rows.append(row | scores | detail | (halves[j].scores(method) if halves else {}))
                bar.update()
    return pd.DataFrame(rows)


def check_neighbours(slices: Sequence[io.SliceGrid], on_misfit: pair_check.OnMisfit) -> None:
    """The pair check of every two consecutive sections."""
    if on_misfit == "ignore":
        return
    for a, b in pairwise(replace(section, image=None) for section in slices):
        pair, _ = io.make_pair(a, b, judged=True)
        level, scales = io.level(a, b)
        found = pair_check.measure(pair.a, pair.b, pair.spacing, io.overlap(a, b), level)
        pair_check.complain(found, a.name, b.name, on_misfit, scales=scales, stacklevel=5)


def check_unseen(held_out: io.SliceGrid, neighbours: Sequence[io.SliceGrid]) -> None:
    """Warn where a neighbour holds spots of the held-out section: copying it would then look like a good method."""
    for neighbour in neighbours:
        n = io.shared_profiles(held_out, neighbour)
        if n:
            warnings.warn(
                f"{n} of {len(held_out.xy)} spots of {held_out.name} are found in {neighbour.name} with the very same "
                "expression: the held-out section is not held out. Leave one of the two out",
                UserWarning,
                stacklevel=4,
            )


def depths(slices: Sequence[io.SliceGrid], z: Sequence[float] | None) -> FloatArray:
    """(n_sections,) z: as given, as the sections carry it, or even steps, with a warning where all carry the same."""
    if z is None:
        carried = [s.z for s in slices if s.z is not None]
        z = carried if len(carried) == len(slices) else range(len(slices))
        if len(carried) == len(slices) > 1 and len(set(carried)) == 1:
            z = range(len(slices))
            warnings.warn(
                f"all {len(slices)} sections carry z = {carried[0]:g}, which does not say how far apart they are; even "
                "steps are taken. Put the z of each into obs['z_um'], or give z=[…]",
                UserWarning,
                stacklevel=4,
            )
    found = io.depth_of_each(z, len(slices))
    steps = np.diff(found)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"z holds {found.tolist()}, which must run one way; put the slices in their order")
    return found


def windows(z: FloatArray, n_slices: int) -> Iterator[Window]:
    """All runs of `n_slices` interior sections; a ValueError where the series is too short for one."""
    if len(z) < n_slices + 2:
        raise ValueError(
            f"{len(z)} sections are too few to hold out {n_slices} between two others (n_slices); give {n_slices + 2} "
            "or more"
        )
    for a in range(len(z) - n_slices - 1):
        b = a + n_slices + 1
        scale = (z - z[a]) / (z[b] - z[a])
        held_out = tuple(range(a + 1, b))
        beyond = {float(scale[i]): i for i in (a - 1, b + 1) if 0 <= i < len(z)}
        yield Window(a, b, held_out, tuple(scale[list(held_out)].tolist()), beyond)


def pair_of(
    slices: Sequence[io.SliceGrid],
    window: Window,
    n_genes: int,
    *,
    context: bool,
    encoder: ImageEncoder | None = None,
) -> tuple[SlicePair, pd.Index]:
    """The pair around a window, with the genes that are scored, and their names: chosen from the two alone.

    All sections have the same genes. `encoder` describes their H&E.
    """
    a, b = slices[window.a], slices[window.b]
    around = {q: slices[i] for q, i in window.beyond.items()} if context else {}
    whole, names = io.make_pair(a, b, context=around, genes=slices[0].genes, encoder=encoder)
    chosen = ops.most_variable([whole.a.moments, whole.b.moments], n_genes, DETECTED)
    if len(chosen) == 0:
        raise ValueError(f"no gene is detected in {DETECTED:.0%} of the spots of both {a.name} and {b.name}")
    return whole.subset(chosen).in_memory(), names[chosen]


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
    for window in (window for n in range(1, most + 1) for window in windows(found, n)):
        for context in (False, True) if window.beyond else (False,):
            pair, genes = pair_of(slices, window, n_genes, context=context, encoder=encoder)
            for i, position in zip(window.held_out, window.positions, strict=True):
                xy, stored, library = io.profiles(slices[i], pair.lattice, genes)
                values = in_memory(stored)
                truth = io.log_normalise(values, library) if slices[i].counts else values
                cases.append(Case(pair, xy, position, truth, slices[i].name))
    return cases


def target_of(held_out: io.SliceGrid, pair: SlicePair, genes: pd.Index) -> Target:
    """What a held-out section measured of these genes; without counts the noise ceiling is NaN."""
    xy, stored, library = io.profiles(held_out, pair.lattice, genes)
    values = in_memory(stored)
    if not held_out.counts:
        return xy, values.toarray(), float("nan")
    # All other genes count towards the library size only: one column stands for them.
    rest = np.rint(np.maximum(library - values.sum(axis=1), 0))
    ceiling = metrics.ceiling(sp.hstack([values, rest[:, None]], format="csr"), genes=slice(0, len(genes)))
    return xy, in_memory(io.log_normalise(values, library)).toarray(), ceiling


def _score(
    method: Interpolator,
    known: Descriptions,
    points: io.Rows,
    position: float,
    target: Target,
    intervals: Sequence[float],
) -> dict[str, float | int]:
    """Scores of one method on one held-out section, and the share of measured values in the intervals of each level."""
    start, wanted, pair = time.perf_counter(), len(intervals) > 0, known.pair
    prediction, spread = ask(
        known.bound(method),
        pair,
        points.points,
        [position],
        device=known.device,
        seed=known.seed,
        std=wanted,
        intervals=wanted,
        blind=points.blind,
        seen=(points.sees(1, pair.a.xy), points.sees(0, pair.b.xy)),
    )
    predicted = prediction.slices[0].expression()
    scores = scores_of(predicted, target)
    if spread is not None and spread.calibration is not None:
        for level in intervals:
            lower, upper = spread.calibration.bounds(predicted, level)
            scores[f"coverage_{100 * level:g}"] = float(((lower <= target[1]) & (target[1] <= upper)).mean())
    return scores | {"seconds": time.perf_counter() - start}


@dataclass(frozen=True)
class Half:
    """A held-out section of which a method is told one random half of the spots, as one more section at its depth.

    Parameters
    ----------
    known, told
        The pair without, and with them.
    xy, truth
        (m, 2) and (m, N) of the other half.
    position
        Of the section.
    """

    known: Descriptions
    told: Descriptions
    xy: FloatArray
    truth: FloatArray
    position: float

    @classmethod
    def of(cls, known: Descriptions, section: Section) -> Half:
        """One half told, by the seed of the descriptions."""
        first = np.zeros(len(section.xy), dtype=bool)
        first[np.random.default_rng(known.seed).permutation(len(first))[: len(first) // 2]] = True
        library = None if section.library is None else section.library[first]
        half = replace(section.each(lambda values: in_memory(values)[first]), xy=section.xy[first], library=library)
        pair = replace(known.pair, context=(*known.pair.context, half))
        told = Descriptions(pair, device=known.device, seed=known.seed)
        truth = in_memory(section.expression)[~first].toarray()
        return cls(known, told, section.xy[~first], truth, section.position)

    def scores(self, method: Interpolator) -> dict[str, float]:
        """PCC with the half told, and the share of it that is reached without; NaN for methods without a description.

        Only those take a section between the two of a pair for what it is.
        """
        if not isinstance(method, Describing):
            return {"half_observed": float("nan"), "share": float("nan")}
        without, told = (self._pcc(method, one) for one in (self.known, self.told))
        return {"half_observed": told, "share": without / told if told > 0 else float("nan")}

    def _pcc(self, method: Interpolator, known: Descriptions) -> float:
        how: dict[str, Any] = {"device": known.device, "seed": known.seed, "progress": lambda share: None}
        answer = known.bound(method)(known.pair, self.xy, [self.position], **how)
        return metrics.pcc(answer.slices[0].expression(), self.truth)


def scores_of(predicted: FloatArray, target: Target) -> dict[str, float | int]:
    """Scores of (n, N) log1p expression that was predicted for the spots of a held-out section."""
    _, measured, ceiling = target
    pcc = metrics.pcc(predicted, measured)
    return {
        "pcc": pcc,
        "rmse": metrics.rmse(predicted, measured),
        "rv": metrics.rv(predicted, measured),
        "ceiling": ceiling,
        "fraction": pcc / ceiling if ceiling > 0 else float("nan"),
        "n_spots": len(measured),
        "n_genes": predicted.shape[1],
    }
