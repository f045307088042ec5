"""The pair check: do two sections match, so that a section can be interpolated between them?

:func:`c2sti.pp.check_pair` says what each number is, but for ``folded_bins``: share of the bins in which a model's
displacement has a negative Jacobian. A number that cannot be computed is NaN, and passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _validators
from c2sti._backed import Expression, blocks, in_memory, moments
from c2sti._types import FloatArray, Lattice, Section
from c2sti.ops import gaussian_operator, local_noise, most_variable, patch_means

OnMisfit = Literal["warn", "raise", "ignore"]

# Set on her2st A and B and the developing heart; docs/experiments.md has what they do elsewhere.
LIMITS = {"overlap": 0.5, "spatial_concordance": 0.4, "expression_similarity": 0.9, "level": 0.9, "folded_bins": 0.05}
FIXES = {
    "overlap": "bring them into common coordinates first: c2sti.pp.align(slice_a, slice_b)",
    "spatial_concordance": "genes are not high in the same places: bring them into common coordinates, "
    "c2sti.pp.align(slice_a, slice_b), flip=True if one may be mirrored",
    "expression_similarity": "mean expression differs as between two patients: take sections of one block, measured "
    "and normalised alike",
    "level": "give the raw counts of both, or normalise both alike: sc.pp.normalize_total(adata, target_sum=1e4), then "
    "sc.pp.log1p(adata)",
    "folded_bins": "the model's displacement folds tissue: align them, c2sti.pp.align(slice_a, slice_b), or take "
    "sections that are nearer to each other",
}
PANEL = 64  # genes whose maps are compared: those that vary most from place to place
CANDIDATES = 500  # most variable genes among which these are
SEEN = 0.1  # share of a section's spots in which a gene is detected
MOST_NOISE = 0.1  # share of the variance of the means between genes that may be noise
LEAST_GENES = 20
LEAST_SHARED = 20  # spots in the other's tissue
AROUND = 6  # spots beyond whose mean detail begins
LEAST_STRUCTURE = 0.1  # correlation of spots with their neighbours: with less there is nothing to agree on
MOST_SPOTS = 1500  # sections of more are averaged over patches, which also takes their noise
SAMPLED = 1000  # spots by which genes are chosen and means are taken
ANGLES = np.deg2rad([0, 60, 120, 180, 240, 300])  # by which the sections are rotated against each other
SEED = 0


def measure(a: Section, b: Section, spacing: float, overlap: float, level: float = float("nan")) -> dict[str, float]:
    """The numbers that need no model: all but ``folded_bins``. They do not depend on which section comes first.

    The sections have the same genes, in a common coordinate system; `spacing` is the distance between neighbouring
    spots, `overlap` the share of tissue in common, `level` the ratio of their scales, see :func:`c2sti.io.level`.
    """
    some = [sampled(section.expression) for section in (a, b)]
    genes = most_variable([moments(x) for x in some], CANDIDATES)
    concordance, z = _concordance((a, b), genes, spacing)
    placed = {"overlap": overlap, "spatial_concordance": concordance, "spatial_concordance_z": z}
    told = {"expression_similarity": _similarity(some), "level": level}
    return placed | told | {"shared_detail": shared_detail(a, b, spacing, genes)}


def sampled(expression: Expression) -> sp.csr_array:
    """Rows of `SAMPLED` spots, always the same, or of all where there are no more."""
    n = expression.shape[0]
    if n <= SAMPLED:
        # A copy: scipy sorts the entries of a matrix that is compared, in place, and models draw in their order.
        return in_memory(expression).copy()
    return expression[np.sort(np.random.default_rng(SEED).permutation(n)[:SAMPLED])]


def _similarity(expressions: Sequence[sp.csr_array]) -> float:
    """Correlation of the mean expression of both sections, over the genes that are detected in either."""
    seen = np.any([seen_genes(x) for x in expressions], axis=0)
    if seen.sum() < LEAST_GENES:
        return float("nan")
    means = []
    for x in expressions:
        mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()[seen]
        square = np.asarray(x.multiply(x).mean(axis=0), dtype=np.float64).ravel()[seen]
        # Genes that were brought to equal means differ by the noise of the means alone.
        if float((square - mean**2).mean() / x.shape[0]) > MOST_NOISE * mean.var():
            return float("nan")
        means.append(mean[:, None])
    return _correlation(*means)


def seen_genes(x: sp.csr_array) -> NDArray[np.bool_]:
    """(N,) whether a gene is detected in enough spots."""
    return np.asarray((x > 0).mean(axis=0)).ravel() >= SEEN


def _correlation(x: FloatArray, y: FloatArray) -> float:
    """Mean over columns of the Pearson correlation; a column without variance counts 0."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    length = np.sqrt(np.square(x).sum(axis=0) * np.square(y).sum(axis=0))
    return float(np.where(length > 0, (x * y).sum(axis=0) / np.where(length > 0, length, 1), 0).mean())


def _concordance(sections: tuple[Section, Section], genes: NDArray[np.intp], spacing: float) -> tuple[float, float]:
    """Spatial concordance, and how far it stands out."""
    if len(genes) < LEAST_GENES:
        return float("nan"), float("nan")
    side = max(spacing, spacing * np.sqrt(max(len(s.xy) for s in sections) / MOST_SPOTS))
    (xa, va), (xb, vb) = (_places(s.xy, s.expression[:, genes], side, spacing) for s in sections)
    signal = sum(v.var(axis=0) - local_noise(x, v) for x, v in ((xa, va), (xb, vb)))
    panel = np.argsort(-signal, kind="stable")[:PANEL]
    found = [
        _correlations(xa, va[:, panel], xb, vb[:, panel], side),
        _correlations(xb, vb[:, panel], xa, va[:, panel], side),
    ]
    itself, other, *rotated = np.mean(found, axis=0).tolist()
    known = np.array(rotated)[np.isfinite(rotated)]
    z = (other - known.mean()) / known.std() if len(known) > 2 and known.std() > 0 else float("nan")
    return min(other / itself, 1.0) if itself >= LEAST_STRUCTURE else float("nan"), float(z)


def _places(xy: FloatArray, values: Expression, side: float, spacing: float) -> tuple[FloatArray, FloatArray]:
    """(n, 2) places and (n, G) dense values: of the spots, or means over square patches where these are wider."""
    if side <= spacing:
        return xy, np.asarray(in_memory(values).toarray(), dtype=np.float64)
    patch = np.unique(np.floor(xy / side), axis=0, return_inverse=True)[1].ravel()
    centres = np.column_stack([np.bincount(patch, weights=axis) for axis in xy.T]) / np.bincount(patch)[:, None]
    return centres, patch_means(patch, blocks(values), values.shape[1]).astype(np.float64)


def _rotations() -> Iterator[FloatArray]:
    """(2, 2) matrices: the identity first, then those that rotate, and those that mirror and rotate."""
    for angle in ANGLES:
        c, s = np.cos(angle), np.sin(angle)
        yield np.array([[c, -s], [s, c]])
        yield np.array([[c, s], [s, -c]])


def _correlations(
    x: FloatArray, values: FloatArray, x_other: FloatArray, others: FloatArray, side: float
) -> list[float]:
    """Of (n, G) values of the spots in both tissues: with the mean of their neighbours, and with the other section.

    The latter in each way of :func:`_rotations`: the spots are rotated about the middle of those in both tissues.
    """
    tree = KDTree(x_other)
    inside = tree.query(x)[0] <= side
    if inside.sum() < LEAST_SHARED:
        return [float("nan")] * (1 + 2 * len(ANGLES))
    smooth = gaussian_operator(x, x, side)
    without = smooth - sp.diags_array(smooth.diagonal())
    predicted = without @ values / np.asarray(without.sum(axis=1))[:, None]
    found = [_correlation(values[inside], predicted[inside])]
    centre = x[inside].mean(axis=0)
    for rotation in _rotations():
        points = (x - centre) @ rotation.T + centre
        near = tree.query(points)[0] <= side
        enough = near.sum() >= LEAST_SHARED
        predicted = gaussian_operator(x_other, points[near], side) @ others if enough else None
        found.append(float("nan") if predicted is None else _correlation(values[near], predicted))
    return found


def shared_detail(a: Section, b: Section, spacing: float, genes: NDArray[np.intp] | None = None) -> float:
    """Correlation over `CANDIDATES` genes of what spots have beyond the mean of the `AROUND` spots around them.

    Of spots at the same place, within half a spacing; NaN where there are fewer than `LEAST_SHARED`. Of many spots
    those around the middle of section a are taken.
    """
    if genes is None:
        genes = most_variable([moments(sampled(section.expression)) for section in (a, b)], CANDIDATES)
    middle, (details, places) = np.median(a.xy, axis=0), ([], [])
    for section in (a, b):
        rows = np.sort(KDTree(section.xy).query(middle, k=range(1, min(len(section.xy), MOST_SPOTS) + 1))[1])
        xy = section.xy[rows]
        values = in_memory(section.expression[rows])[:, genes].toarray().astype(np.float64)
        around = KDTree(xy).query(xy, k=min(AROUND + 1, len(xy)))[1][:, 1:]
        details.append(values - values[around].mean(axis=1))
        places.append(xy)
    distance, nearest = KDTree(places[1]).query(places[0])
    same = distance <= spacing / 2
    if same.sum() < LEAST_SHARED or len(genes) == 0:
        return float("nan")
    one, other = details[0][same], details[1][nearest[same]]
    power = np.sqrt(np.square(one).sum(axis=0) * np.square(other).sum(axis=0)).sum()
    return float((one * other).sum() / power) if power > 0 else float("nan")


def folded_bins(fields: FloatArray | None, lattice: Lattice, positions: Sequence[float]) -> float:
    """Share of folded bins: those where the Jacobian of the map to either section has a determinant of 0 or less.

    The maps are x + d / (2 (1 - p)) and x - d / (2 p): where the material of a bin lies in either section. The share is
    over both maps and the interpolated sections, whose `fields` (S, 2, h, w) are their displacements d = (dx, dy), unit
    of the frame, on the bins of the lattice or on bins several times as wide. NaN where the model moves nothing: None.
    """
    if fields is None or min(np.shape(fields)[2:]) < 2:
        return float("nan")
    bin_side = lattice.pitch * -(-max(lattice.shape) // max(np.shape(fields)[2:]))
    shares = []
    for d, p in zip(fields, positions, strict=True):
        for scale in (0.5 / (1 - p), -0.5 / p):
            (x_y, x_x), (y_y, y_x) = (np.gradient(axis) for axis in scale * np.asarray(d, dtype=np.float64) / bin_side)
            shares.append(((1 + x_x) * (1 + y_y) - x_y * y_x <= 0).mean())
    return float(np.mean(shares))


def misfits(found: Mapping[str, float]) -> list[str]:
    """Names of the numbers that are beyond their limit."""
    known = {name: value for name, value in found.items() if name in LIMITS}
    return [name for name, x in known.items() if (x > LIMITS[name] if name == "folded_bins" else x < LIMITS[name])]


def complain(
    found: Mapping[str, float], first: str, second: str, on_misfit: OnMisfit, *, scales: str = "", stacklevel: int = 2
) -> None:
    """Warn or raise, as `on_misfit` says, where two sections do not seem to match.

    `scales` says how each was normalised, see :func:`c2sti.io.level`.
    """
    beyond = misfits(found)
    if not beyond or on_misfit == "ignore":
        return
    reasons = "; ".join(
        f"{name.replace('_', ' ')} {found[name]:.2f}, and {'at most' if name == 'folded_bins' else 'at least'} "
        f"{LIMITS[name]:.2f} is expected: "
        f"{f'{scales}: ' if name == 'level' and scales else ''}{FIXES[name]}"
        for name in beyond
    )
    what = "are not normalised alike" if beyond == ["level"] else "do not seem to match"
    text = (
        f"{first} and {second} {what}. {reasons}. c2sti.pp.check_pair(slice_a, slice_b) has the numbers; "
        "on_misfit='ignore' continues without a warning"
    )
    if on_misfit == "raise":
        raise ValueError(text)
    warnings.warn(text, UserWarning, stacklevel=stacklevel)


def check_on_misfit(on_misfit: str) -> None:
    """Refuse a choice that does not exist."""
    _validators.one_of(on_misfit, "on_misfit", get_args(OnMisfit))
