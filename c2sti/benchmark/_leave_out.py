"""How well is a held-out section interpolated from its neighbours, scored at its own spots? And what the scores say.

The held-out section touches nothing: genes are chosen from the neighbours alone. Every method sees the same pair.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from tqdm.auto import tqdm

from c2sti import _keys, _validators, io, metrics, ops, pair_check
from c2sti._backed import in_memory
from c2sti._types import FloatArray, ImageEncoder, Interpolator, Section, SlicePair
from c2sti.models.gp import Describing, Descriptions
from c2sti.training import Case
from c2sti.uncertainty import ask

DETECTED = 0.1  # least share of spots of both neighbours in which a scored gene is detected
LEAST = 3  # held-out sections by which two methods can be told apart
CONFIDENCE = 0.95

# A held-out section at its own spots: (n, 2) coordinates, (n, N) log1p expression, and (N,) noise ceilings of its
# genes: the PCC that its own count noise allows a perfect prediction.
Target: TypeAlias = tuple[FloatArray, FloatArray, FloatArray]


class LeftOut(NamedTuple):
    """What became of the held-out sections of a series."""

    table: pd.DataFrame  # a row for each method and held-out section
    genes: pd.DataFrame | None  # a row for each method, held-out section and gene, if wanted
    sections: list[AnnData]  # held-out sections with what was predicted of them, see :func:`_with_layers`, if wanted


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
    keep_genes: bool = False,
    keep_sections: bool = False,
    on_misfit: pair_check.OnMisfit = "warn",
    device: str = "cpu",
    seed: int = 0,
    show_progress_bar: bool = True,
) -> LeftOut:
    """Score every method on every run of held-out sections; parameters and columns as of :func:`c2sti.tl.evaluate`.

    `keep_genes` and `keep_sections` are `return_genes` and `return_sections`.
    """
    n_slices, n_genes = _validators.whole(n_slices, "n_slices"), _validators.whole(n_genes, "n_genes")
    todo = list(windows(depths(slices, z), n_slices))
    slices = io.on_shared_genes(slices, stacklevel=4)
    check_neighbours(slices, on_misfit)
    rows: list[dict[str, Any]] = []
    by_gene: list[pd.DataFrame] = []
    sections: list[AnnData] = []
    with tqdm(total=len(todo) * len(methods), desc="held-out sections", disable=not show_progress_bar) as bar:
        for window in todo:
            check_unseen(slices, window)
            pair, genes = pair_of(slices, window, n_genes, context=context)
            known = Descriptions(pair, device=device, seed=seed)
            detail = {"shared_detail": pair_check.shared_detail(pair.a, pair.b, pair.spacing)}
            held_out = list(_held_out(slices, window, known, genes, half_observed=half_observed))
            for name, method in methods.items():
                for one in held_out:
                    predicted, scores = _score(method, known, one, intervals)
                    halves = [] if one.half is None else one.half.gene_scores(method)
                    row = {**one.place, "method": name}
                    rows.append(row | scores | detail | of_halves(*(float(half.mean()) for half in halves)))
                    if keep_genes:
                        own = gene_scores(predicted, one.target) | of_halves(*halves)
                        by_gene.append(pd.DataFrame({**row, "gene": genes, **own}))
                    if keep_sections:
                        one.predicted[name] = predicted.astype(np.float32)
                bar.update()
            if keep_sections:
                sections += [_with_layers(one, slices, pair, genes) for one in held_out]
    return LeftOut(pd.DataFrame(rows), pd.concat(by_gene, ignore_index=True) if by_gene else None, sections)


@dataclass(frozen=True)
class HeldOut:
    """A held-out section, at its own spots or, of single cells, bins."""

    place: dict[str, Any]  # its index in the series, name and position
    target: Target
    points: io.Rows  # the same spots as rows of a result
    half: Half | None  # where methods are given half of its spots
    predicted: dict[str, FloatArray] = field(default_factory=dict)  # by method, if wanted


def _held_out(
    slices: Sequence[io.SliceGrid], window: Window, known: Descriptions, genes: pd.Index, *, half_observed: bool
) -> Iterator[HeldOut]:
    lattice = known.pair.lattice
    for i, position in zip(window.held_out, window.positions, strict=True):
        own, half = slices[i], None
        target = target_of(own, known.pair, genes)
        if half_observed:
            half = Half.of(known, io.section_of(replace(own, image=None), position, lattice, genes))
        points = io.rows_of(slices[window.a], slices[window.b], lattice, target[0])
        yield HeldOut({"section": i, "name": own.name, "position": position}, target, points, half)


def _with_layers(held_out: HeldOut, slices: Sequence[io.SliceGrid], pair: SlicePair, genes: pd.Index) -> AnnData:
    """A held-out section as it was measured, ``X``, and as each method predicts it, a layer each; log1p expression."""
    xy, measured, _ = held_out.target
    names = io.spots_at(slices[held_out.place["section"]], pair.lattice, xy)
    adata = AnnData(
        measured.astype(np.float32),
        obs=pd.DataFrame(index=pd.Index(names)),
        var=pd.DataFrame(index=genes),
        obsm={_keys.SPATIAL: xy.copy()},
        layers=held_out.predicted,
        uns={_keys.LOG1P: {"base": None}},
    )
    adata.uns[_keys.EVALUATION] = {**held_out.place, "synthetic_layers": list(held_out.predicted)}
    return adata


def check_neighbours(slices: Sequence[io.SliceGrid], on_misfit: pair_check.OnMisfit) -> None:
    """The pair check of every two consecutive sections."""
    if on_misfit == "ignore":
        return
    for a, b in pairwise(replace(section, image=None) for section in slices):
        pair, _ = io.make_pair(a, b, judged=True)
        level, scales = io.level(a, b)
        found = pair_check.measure(pair.a, pair.b, pair.spacing, io.overlap(a, b), level)
        pair_check.complain(found, a.name, b.name, on_misfit, scales=scales, stacklevel=5)


def check_unseen(slices: Sequence[io.SliceGrid], window: Window) -> None:
    """Warn where a neighbour holds spots of a held-out section: copying it would then look like a good method."""
    for i, j in product(window.held_out, (window.a, window.b, *window.beyond.values())):
        held_out, neighbour = slices[i], slices[j]
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
    """What a held-out section measured of these genes; without counts the noise ceilings are NaN."""
    xy, stored, library = io.profiles(held_out, pair.lattice, genes)
    values = in_memory(stored)
    if not held_out.counts:
        return xy, values.toarray(), np.full(len(genes), np.nan)
    # All other genes count towards the library size only: one column stands for them.
    rest = np.rint(np.maximum(library - values.sum(axis=1), 0))
    ceilings = metrics.gene_ceiling(sp.hstack([values, rest[:, None]], format="csr"), genes=slice(0, len(genes)))
    return xy, in_memory(io.log_normalise(values, library)).toarray(), ceilings


def _score(
    method: Interpolator, known: Descriptions, held_out: HeldOut, intervals: Sequence[float]
) -> tuple[FloatArray, dict[str, float | int]]:
    """(n, N) prediction of one method for one held-out section, and its scores.

    Of each interval's level also the share of measured values that its intervals hold.
    """
    start, wanted, pair = time.perf_counter(), len(intervals) > 0, known.pair
    points, measured = held_out.points, held_out.target[1]
    prediction, spread = ask(
        known.bound(method),
        pair,
        points.points,
        [held_out.place["position"]],
        device=known.device,
        seed=known.seed,
        std=wanted,
        intervals=wanted,
        blind=points.blind,
        seen=(points.sees(1, pair.a.xy), points.sees(0, pair.b.xy)),
    )
    predicted = prediction.slices[0].expression()
    scores = scores_of(predicted, held_out.target)
    if spread is not None and spread.calibration is not None:
        for level in intervals:
            lower, upper = spread.calibration.intervals(level).bounds(predicted)
            scores[f"coverage_{100 * level:g}"] = float(((lower <= measured) & (measured <= upper)).mean())
    return predicted, scores | {"seconds": time.perf_counter() - start}


@dataclass(frozen=True)
class Half:
    """A held-out section of which a method is given one random half of the spots, as one more section at its z."""

    known: Descriptions  # of the pair without these
    given: Descriptions  # and with them
    xy: FloatArray  # (m, 2) the other half
    truth: FloatArray  # (m, N) what it measured
    position: float

    @classmethod
    def of(cls, known: Descriptions, section: Section) -> Half:
        """One half given, by the seed of the descriptions."""
        first = np.zeros(len(section.xy), dtype=bool)
        first[np.random.default_rng(known.seed).permutation(len(first))[: len(first) // 2]] = True
        library = None if section.library is None else section.library[first]
        half = replace(section.each(lambda values: in_memory(values)[first]), xy=section.xy[first], library=library)
        pair = replace(known.pair, context=(*known.pair.context, half))
        given = Descriptions(pair, device=known.device, seed=known.seed)
        truth = in_memory(section.expression)[~first].toarray()
        return cls(known, given, section.xy[~first], truth, section.position)

    def gene_scores(self, method: Interpolator) -> list[FloatArray]:
        """(N,) PCC without the half, and given it; NaN for methods without a description.

        Only those take a section between the two of a pair for what it is.
        """
        if not isinstance(method, Describing):
            return [np.full(self.truth.shape[1], np.nan)] * 2
        found = []
        for known in (self.known, self.given):
            how: dict[str, Any] = {"device": known.device, "seed": known.seed, "progress": lambda share: None}
            prediction = known.bound(method)(known.pair, self.xy, [self.position], **how)
            found.append(metrics.gene_pcc(prediction.slices[0].expression(), self.truth))
        return found


def of_halves(*halves: FloatArray | float) -> dict[str, Any]:
    """PCC with half of the spots given, and the share of it that is reached without: of genes, or of their mean.

    Of the PCC without the half, and with it; nothing of nothing.
    """
    if not halves:
        return {}
    without, given = halves
    return {"half_observed": given, "share": _ratio(without, given)}


def _ratio(part: FloatArray | float, whole: FloatArray | float) -> FloatArray | float:
    """NaN where the whole is not positive."""
    positive = np.asarray(whole) > 0
    found = np.where(positive, part, np.nan) / np.where(positive, whole, 1)
    return found if found.ndim else float(found)


def gene_scores(predicted: FloatArray, target: Target) -> dict[str, FloatArray]:
    """(N,) scores of each gene, of (n, N) log1p expression that was predicted for the spots of a held-out section."""
    _, measured, ceilings = target
    pcc = metrics.gene_pcc(predicted, measured)
    error = np.sqrt(np.square(predicted - measured).mean(axis=0, dtype=np.float64))
    return {"pcc": pcc, "rmse": error, "ceiling": ceilings, "fraction": np.asarray(_ratio(pcc, ceilings))}


def scores_of(predicted: FloatArray, target: Target) -> dict[str, float | int]:
    """Scores of (n, N) log1p expression that was predicted for the spots of a held-out section."""
    _, measured, ceilings = target
    ceiling = float(ceilings.mean())
    pcc = metrics.pcc(predicted, measured)
    return {
        "pcc": pcc,
        "rmse": metrics.rmse(predicted, measured),
        "rv": metrics.rv(predicted, measured),
        "ceiling": ceiling,
        "fraction": float(_ratio(pcc, ceiling)),
        "n_spots": len(measured),
        "n_genes": predicted.shape[1],
    }


# ---- the scores in one sentence


def verdict(table: pd.DataFrame, simple: Collection[str]) -> str:
    """Which method leads by PCC, and how far it is from the noise ceiling and from `half_observed`.

    The best of the methods that are asked about is compared with the best of the `simple` ones.
    """
    pcc = table.pivot_table(index=["section", "position"], columns="method", values="pcc", sort=False)
    mean = pcc.mean()
    kinds = (mean[[(name in simple) == is_simple for name in pcc]] for is_simple in (False, True))
    name, *other = sorted((some.idxmax() for some in kinds if len(some)), key=lambda name: -mean[name])
    called = {one: f"the simple method {one!r}" if one in simple else repr(one) for one in pcc}
    where = f"{len(pcc)} held-out sections (mean)" if len(pcc) > 1 else "one held-out section"
    text = f"{called[name]} has a PCC of {mean[name]:.3f} on {where}"
    rows, limits = table[table["method"] == name], []
    if rows["ceiling"].notna().any():
        limits.append(f"{rows['fraction'].mean():.0%} of what the noise of the counts allows")
    if "share" in rows and rows["share"].notna().any():
        limits.append(f"{rows['share'].mean():.0%} of what it has if given half of the section's spots")
    text += f", {' and '.join(limits)}" if limits else ""
    if other:
        differences = (pcc[name] - pcc[other[0]]).to_numpy()
        ahead = f"in {(differences > 0).sum()} of {len(pcc)}{_reservation(differences)}"
        text += f", and is ahead of {called[other[0]]} ({mean[other[0]]:.3f}) {ahead}"
    return f"{text[0].upper()}{text[1:]}."


def _reservation(differences: FloatArray) -> str:
    """Whether differences of so many sections could be chance, by the interval of Student's t."""
    from scipy import stats  # noqa: PLC0415 - slow to import

    n = len(differences)
    if n < LEAST:
        return ", which is too few to say which is better"
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    return "" if differences.mean() > half else ", which may be chance"
