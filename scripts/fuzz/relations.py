"""What may not make a difference: the same question put in another way has the same answer.

Not every relation holds for every model, and where it does not it is not asked for:

- Half-way, and between two spots as near, copying takes the first one: not `copy` where that may change.
- The network's convolutions run along the axes of a lattice: not a network where those turn.
- A network looks at a panel of the most variable genes; a gene more enters the panel of few genes.
- The default reads counts in two halves, drawn at random: twice the counts are other halves, and so are those of the
  same counts in another order. On 36 shallow spots that is up to a seventh of the largest value, on measured sections
  of her2st 3 % of the spread between bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import c2sti
from scripts.fuzz.pairs import Case, values
from scripts.fuzz.promises import Nonsense, inserted, whole

EXACT = 1e-5  # of the largest value: rounding
CLOSE = 0.02  # optimisers stop a little elsewhere when sums come in another order


@dataclass(frozen=True)
class Other:
    """The same question in another way.

    Parameters
    ----------
    case
        What is asked.
    points
        (M, 2) where the rows of the first answer should be in the second.
    names
        Interpolated sections of the second answer that should equal those of the first, in their order.
    factor
        How much larger the second answer is.
    """

    case: Case
    points: np.ndarray
    names: list[str]
    factor: float = 1.0
    tolerance: float = field(default=CLOSE)


Change = Callable[[Other, np.random.Generator], Other]


def _each(other: Other, change: Callable[[ad.AnnData], ad.AnnData]) -> Other:
    """All sections changed alike."""
    given = dict(other.case.given)
    if "context" in given:
        given["context"] = {q: change(s) for q, s in given["context"].items()}
    return replace(other, case=replace(other.case, a=change(other.case.a), b=change(other.case.b), given=given))


def _with(other: Other, **given: Any) -> Other:
    return replace(other, case=replace(other.case, given={**other.case.given, **given}))


def _placed(section: ad.AnnData, move: Callable[[np.ndarray], np.ndarray]) -> ad.AnnData:
    made = section.copy()
    made.obsm["spatial"] = move(np.asarray(section.obsm["spatial"], dtype=float))
    return made


def _tied(other: Other) -> Other:
    """Of spots that are equally far, rounding or their order decides which are among the nearest 25 of `linear`.

    They hold up to two thousandths of the weight.
    """
    return replace(other, tolerance=max(other.tolerance, CLOSE))


def _genes(other: Other, rng: np.random.Generator) -> Other:
    return _each(other, lambda s: s[:, rng.permutation(s.n_vars)].copy())


def _spots(other: Other, rng: np.random.Generator) -> Other:
    return _tied(_each(other, lambda s: s[rng.permutation(s.n_obs)].copy()))


def _unit(other: Other, rng: np.random.Generator) -> Other:
    scaled = lambda xy: xy * 4  # a power of two: rounding stays the same
    return replace(_each(other, lambda s: _placed(s, scaled)), points=scaled(other.points))


def _turn(other: Other, rng: np.random.Generator) -> Other:
    turned = lambda xy: np.column_stack([-xy[:, 1], xy[:, 0]])
    return replace(_tied(_each(other, lambda s: _placed(s, turned))), points=turned(other.points))


def _rotate(other: Other, rng: np.random.Generator) -> Other:
    """By any angle, asked for at the turned points: lattices differ."""
    angle, centre = rng.uniform(0, 2 * np.pi), other.points.mean(axis=0)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = lambda xy: (xy - centre) @ matrix + centre
    points = turned(other.points)
    return _with(replace(_tied(_each(other, lambda s: _placed(s, turned))), points=points), at=points)


def _swap(other: Other, rng: np.random.Generator) -> Other:
    case, given = other.case, dict(other.case.given)
    if "positions" in given:
        depths = "z_um" in case.a.obs  # which stay what they are
        given["positions"] = [p if depths else 1 - p for p in given["positions"]][::-1]
    if "context" in given:
        given["context"] = {1 - q: s for q, s in given["context"].items()}
    return replace(other, case=replace(case, a=case.b, b=case.a, given=given), names=other.names[::-1])


def _gene_more(other: Other, rng: np.random.Generator) -> Other:
    """A gene that is the same everywhere: zero, or of logarithms any number."""
    level = 0.0 if other.case.counts or rng.random() < 0.5 else 1.3

    def wider(section: ad.AnnData) -> ad.AnnData:
        place = int(rng.integers(section.n_vars + 1))
        x = np.insert(values(section), place, level, axis=1)
        var = pd.DataFrame(index=np.insert(section.var_names.to_numpy(dtype=object), place, "flat"))
        x = sp.csr_matrix(x) if sp.issparse(section.X) else x
        return ad.AnnData(x, obs=section.obs.copy(), var=var, obsm=dict(section.obsm))

    return _each(other, wider)


def _twice(other: Other, rng: np.random.Generator) -> Other:
    """Twice the counts tell the same of the tissue; twice the logarithms twice as much."""

    def doubled(section: ad.AnnData) -> ad.AnnData:
        made = section.copy()
        made.X = section.X.astype(np.float64) * 2
        return made

    return replace(_each(other, doubled), factor=1.0 if other.case.counts else 2.0)


def _again(other: Other, rng: np.random.Generator) -> Other:
    return replace(other, tolerance=0.0)


def _one_object(other: Other, rng: np.random.Generator) -> Other:
    """Both sections in one object, their rows mixed, and named by a column."""
    both = ad.concat(
        {"first": other.case.a.copy(), "second": other.case.b.copy()}, label="library", index_unique="-", join="outer"
    )
    both = both[rng.permutation(both.n_obs)].copy()
    both.obs["library"] = both.obs["library"].cat.set_categories(["first", "second"])
    both.X = np.nan_to_num(both.X) if not sp.issparse(both.X) else both.X
    return _tied(_with(replace(other, case=replace(other.case, a=both, b=None)), library_key="library"))


def _off_tissue(other: Other, rng: np.random.Generator) -> Other:
    """Rows that say of themselves that they lie outside of the tissue do not count."""

    def wider(section: ad.AnnData) -> ad.AnnData:
        spare = section[rng.integers(section.n_obs, size=3)].copy()
        spare.obs_names = [f"off_{i}" for i in range(3)]
        spare.obsm["spatial"] = np.asarray(spare.obsm["spatial"], dtype=float) * 3 + 1000.0  # too few to be an array
        made = ad.concat({1: section, 0: spare}, label="in_tissue", merge="same")
        made.obs["in_tissue"] = made.obs["in_tissue"].astype(int)
        return made

    return _each(other, wider)


# Which models each is asked of; None is all.
RELATIONS: dict[str, tuple[Change, Callable[[Case], bool]]] = {
    "genes": (_genes, lambda case: not case.halved),
    "spots": (_spots, lambda case: case.model != "copy" and not case.halved),
    "unit": (_unit, lambda case: True),
    "turn": (_turn, lambda case: case.model not in ("copy", "moving", "c2sti")),
    "rotate": (_rotate, lambda case: case.model not in ("copy", "moving", "c2sti")),
    "swap": (_swap, lambda case: case.model != "copy"),
    "gene more": (_gene_more, lambda case: not case.network),
    "twice": (_twice, lambda case: not case.network),
    "again": (_again, lambda case: True),
    "one object": (
        _one_object,
        lambda case: case.model != "copy" and not case.halved and "context" not in case.given and _joinable(case),
    ),
    "off tissue": (_off_tissue, lambda case: _joinable(case)),
}


def _joinable(case: Case) -> bool:
    """Whether both sections are AnnData in memory with the same genes, which anndata joins without loss."""
    plain = all(isinstance(s, ad.AnnData) and not s.isbacked and "z_um" not in s.obs for s in (case.a, case.b))
    return plain and set(case.a.var_names) == set(case.b.var_names)


def relate(out: ad.AnnData, case: Case, rng: np.random.Generator) -> None:
    """One of them."""
    if any(key in case.given for key in ("at", "pitch", "genes")):
        return
    kind = str(rng.choice([name for name, (_, asked) in RELATIONS.items() if asked(case)]))
    asked = replace(case, given=case.given | {"std": False, "interval": None, "obs_keys": ()})
    tolerance = EXACT if case.model in ("copy", "linear") else CLOSE
    other = RELATIONS[kind][0](Other(asked, np.asarray(out.obsm["spatial"]), inserted(out), tolerance=tolerance), rng)
    new = c2sti.tl.interpolate(other.case.a, other.case.b, **other.case.given)
    compare(kind, out, new, other)


def compare(kind: str, out: ad.AnnData, new: ad.AnnData, other: Other) -> None:
    """Whether the second answer is the first one.

    Raises
    ------
    Nonsense
        It is not.
    """
    pitch = float(out.uns["c2sti"]["lattice"]["pitch"])
    distance, row = _matched(np.asarray(new.obsm["spatial"]), other.points)
    if len(new) != len(out) or distance.max() > 1e-3 * pitch:
        if kind == "turn":  # irregular points leave more than one lattice to be chosen
            return
        raise Nonsense(f"{kind}: {len(new)} rows instead of {len(out)}, {distance.max() / pitch:.2g} bins apart")
    column = new.var_names.get_indexer(out.var_names)
    for was, now in zip(inserted(out), other.names, strict=True):
        one = whole(out.layers[was]) * other.factor
        two = whole(new.layers[now])[row][:, column]
        apart = float(np.abs(one - two).max(initial=0)) / max(float(np.abs(one).max(initial=0)), 1e-6)
        if apart > other.tolerance:
            raise Nonsense(f"{kind}: {was} differs by {apart:.2g} of its largest value")


def _matched(points: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each wanted point, how far the nearest is and which."""
    distance = np.sqrt(np.square(wanted[:, None] - points[None]).sum(axis=-1))
    row = distance.argmin(axis=1)
    return distance[np.arange(len(wanted)), row], row


# -- relations of another form


def halves(out: ad.AnnData, case: Case, rng: np.random.Generator) -> None:
    """A value does not depend on which other points are asked for."""
    points = np.asarray(out.obsm["spatial"], dtype=float)
    order = rng.permutation(len(points))
    parts = [part for part in np.array_split(order, 2) if len(part)]
    given = case.given | {"std": False, "interval": None, "obs_keys": ()}  # whose ends look at all the points
    for part in parts:
        new = c2sti.tl.interpolate(case.a, case.b, **given | {"at": points[part]})
        for name in inserted(out):
            one, two = whole(out.layers[name])[part], whole(new.layers[name])
            apart = np.abs(one - two).max(initial=0) / max(np.abs(one).max(initial=0), 1e-6)
            if apart > EXACT:
                raise Nonsense(f"halves: {name} differs by {apart:.2g} of its largest value")


BEYOND = 0.5  # of the range of a gene: what smooth fields and truncated axes may overshoot it by


def twins(case: Case, rng: np.random.Generator) -> None:
    """Between a section and itself: that section for `copy`, something within its range for `linear`.

    The other models promise finite values that are not negative; overshooting the range by more than half of it would
    say that something is wrong all the same. Of the default on few shallow counts even that is not promised: it
    halves them.
    """
    spots = np.asarray(case.a.obsm["spatial"], dtype=float)
    given = {k: v for k, v in case.given.items() if k in ("model", "on_misfit", "show_progress_bar")}
    out = c2sti.tl.interpolate(case.a, case.a, at=spots, n_slices=3, **given)
    measured = whole(out.layers["slice_a"])
    low, high = measured.min(axis=0), measured.max(axis=0)
    slack = {"copy": 0.0, "linear": EXACT * high}.get(case.model, BEYOND * high + EXACT)
    for name in inserted(out):
        found = whole(out.layers[name])
        if case.model == "copy" and not np.array_equal(found, measured):
            raise Nonsense(f"twins: {name} is not the section")
        if case.model == "linear" and not np.allclose(found, whole(out.layers["c2sti_1"]), rtol=1e-5, atol=1e-6):
            raise Nonsense(f"twins: {name} differs from c2sti_1")
        beyond = np.maximum(found - high, low - found).max()
        if (found > high + slack).any() or (found < low - slack).any():
            raise Nonsense(f"twins: {name} leaves the range of the section by {beyond:.2g}")
