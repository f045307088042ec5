"""The pair check: do two sections belong together, so that a section can be interpolated between them?

Five numbers, each with a limit, beyond which sections of one block do not come and others do:

- **overlap**: share of one section's spots that lie in the other's tissue (the larger of the two shares);
- **spatial concordance**: how well the one section predicts the other's spots, beside how well these predict each
  other. Each spot is predicted, gene by gene, by the smoothed other section at the same place, and by its own
  neighbours without itself; it is the mean correlation of the first over that of the second. The noise of the spots is
  in both, and cancels. 1 where the other section says as much as the next spot does, 0 where it says nothing;
- **expression similarity**: correlation of the two mean log expressions over the genes that are seen in either. Where
  spots lie does not matter;
- **level**: of normalised expression, the ratio of the two scales, 1 where both are normalised alike. A correlation
  does not see it. Counts are normalised by c2sti and have none;
- **folded bins**: share of the bins in which a model's displacement has a negative Jacobian.

Spatial concordance notices sections that lie wrong, expression similarity sections of different tissue: a search over
all placements always finds one in which two unrelated sections agree somewhat. `spatial_concordance_z` says how far the
concordance stands out from that of the same two sections rotated and mirrored against each other, in standard
deviations. It has no limit: on tissue that is the same in all directions it is 0, however alike two sections are.

A number that cannot be computed, for too few genes or too little tissue in common, is NaN, and passes.
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
PANEL = 64  # genes whose maps are compared: those that vary most from place to place
CANDIDATES = 500  # most variable genes among which these are
SEEN = 0.1  # share of a section's spots in which a gene is seen
MOST_DOUBT = 0.1  # share of the variance of the means between genes that may be noise
LEAST_GENES = 20
LEAST_SHARED = 20  # spots in the other's tissue
LEAST_STRUCTURE = 0.1  # correlation of spots with their neighbours: with less there is nothing to agree on
MOST_SPOTS = 1500  # sections of more are averaged over patches, which also takes their noise
SAMPLED = 1000  # spots by which genes are chosen and means are taken
TURNS = np.deg2rad([60, 120, 180, 240, 300])
SEED = 0


def measure(a: Section, b: Section, spacing: float, overlap: float, level: float = float("nan")) -> dict[str, float]:
    """The numbers that need no model: all but ``folded_bins``, and ``spatial_concordance_z``.

    Parameters
    ----------
    a, b
        Sections with the same genes, in a common coordinate system.
    spacing
        Distance between neighbouring spots, unit of the frame.
    overlap
        Share of the tissue that they have in common.
    level
        Ratio of the scales on which their expression is, see :func:`c2sti.io.level`.

    Notes
    -----
    The same whichever section comes first. Nothing is drawn at random but the spots of large sections by which genes
    are chosen, always the same.
    """
    some = [sampled(section.expression) for section in (a, b)]
    concordance, z = _concordance((a, b), most_variable([moments(x) for x in some], CANDIDATES), spacing)
    placed = {"overlap": overlap, "spatial_concordance": concordance, "spatial_concordance_z": z}
    return placed | {"expression_similarity": _similarity(some), "level": level}


def sampled(expression: Expression) -> sp.csr_array:
    """Rows of `SAMPLED` spots, always the same, or of all where there are no more."""
    n = expression.shape[0]
    if n <= SAMPLED:
        # A copy: scipy sorts the entries of a matrix that is compared, in place, and models draw in their order.
        return in_memory(expression).copy()
    return expression[np.sort(np.random.default_rng(SEED).permutation(n)[:SAMPLED])]


# ---- expression similarity


def _similarity(expressions: Sequence[sp.csr_array]) -> float:
    seen = np.any([seen_genes(x) for x in expressions], axis=0)
    if seen.sum() < LEAST_GENES:
        return float("nan")
    (first, doubt), (second, other_doubt) = (_mean(x, seen) for x in expressions)
    # Genes that were brought to equal means differ by the noise of the means alone.
    if doubt > MOST_DOUBT * first.var() or other_doubt > MOST_DOUBT * second.var():
        return float("nan")
    return _correlation(first[:, None], second[:, None])


def seen_genes(x: sp.csr_array) -> NDArray[np.bool_]:
    """(N,) whether enough spots express a gene."""
    return np.asarray((x > 0).mean(axis=0)).ravel() >= SEEN


def _mean(x: sp.csr_array, genes: NDArray[np.bool_]) -> tuple[FloatArray, float]:
    """(N,) mean of some genes over the spots, and the variance of such a mean, averaged over genes."""
    mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()[genes]
    square = np.asarray(x.multiply(x).mean(axis=0), dtype=np.float64).ravel()[genes]
    return mean, float((square - mean**2).mean() / x.shape[0])


def _correlation(x: FloatArray, y: FloatArray) -> float:
    """Mean over columns of the Pearson correlation; a column without variance counts 0."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    length = np.sqrt(np.square(x).sum(axis=0) * np.square(y).sum(axis=0))
    return float(np.where(length > 0, (x * y).sum(axis=0) / np.where(length > 0, length, 1), 0).mean())


# ---- spatial concordance


def _concordance(sections: tuple[Section, Section], genes: NDArray[np.intp], spacing: float) -> tuple[float, float]:
    """Spatial concordance, and how far it stands out."""
    if len(genes) < LEAST_GENES:
        return float("nan"), float("nan")
    side = max(spacing, spacing * np.sqrt(max(len(s.xy) for s in sections) / MOST_SPOTS))
    (xa, va), (xb, vb) = (_places(s.xy, s.expression[:, genes], side, spacing) for s in sections)
    signal = sum(v.var(axis=0) - local_noise(x, v) for x, v in ((xa, va), (xb, vb)))
    panel = np.argsort(-signal, kind="stable")[:PANEL]
    ways = (_Way(xa, va[:, panel], xb, vb[:, panel], side), _Way(xb, vb[:, panel], xa, va[:, panel], side))
    if any(way.inside.sum() < LEAST_SHARED for way in ways):
        return float("nan"), float("nan")
    itself = float(np.mean([way.itself() for way in ways]))
    other = float(np.mean([way.other(np.eye(2)) for way in ways]))
    turned = np.array([np.mean([way.other(turn) for way in ways]) for turn in _turns()])
    turned = turned[np.isfinite(turned)]
    z = (other - turned.mean()) / turned.std() if len(turned) > 2 and turned.std() > 0 else float("nan")
    return min(other / itself, 1.0) if itself >= LEAST_STRUCTURE else float("nan"), float(z)


def _places(xy: FloatArray, values: Expression, side: float, spacing: float) -> tuple[FloatArray, FloatArray]:
    """(n, 2) places and (n, G) dense values: of the spots, or means over square patches where these are wider."""
    if side <= spacing:
        return xy, np.asarray(in_memory(values).toarray(), dtype=np.float64)
    patch = np.unique(np.floor(xy / side), axis=0, return_inverse=True)[1].ravel()
    centres = np.column_stack([np.bincount(patch, weights=axis) for axis in xy.T]) / np.bincount(patch)[:, None]
    return centres, patch_means(patch, blocks(values), values.shape[1]).astype(np.float64)


def _turns() -> Iterator[FloatArray]:
    """(2, 2) matrices that turn, and those that mirror and turn."""
    for angle in (0.0, *TURNS):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, -s], [s, c]])
        if angle:
            yield turn
        yield turn @ np.diag([1.0, -1.0])


class _Way:
    """Spots of one section told by the other: (n, 2) places x and (n, G) values of either."""

    def __init__(self, x: FloatArray, values: FloatArray, x_other: FloatArray, others: FloatArray, side: float) -> None:
        self.x, self.values, self.x_other, self.others, self.side = x, values, x_other, others, side
        self._tree = KDTree(x_other)
        self.inside = self._near(x)

    def _near(self, points: FloatArray) -> NDArray[np.bool_]:
        return self._tree.query(points)[0] <= self.side

    def itself(self) -> float:
        """Correlation of the spots in both tissues with what their neighbours in their own section say."""
        smooth = gaussian_operator(self.x, self.x, self.side)
        without = smooth - sp.diags_array(smooth.diagonal())
        told = without @ self.values / np.asarray(without.sum(axis=1))[:, None]
        return _correlation(self.values[self.inside], told[self.inside])

    def other(self, turn: FloatArray) -> float:
        """Correlation with what the other section says, the spots turned about the middle of those in both tissues."""
        centre = self.x[self.inside].mean(axis=0)
        points = (self.x - centre) @ turn.T + centre
        inside = self._near(points)
        if inside.sum() < LEAST_SHARED:
            return float("nan")
        told = gaussian_operator(self.x_other, points[inside], self.side) @ self.others
        return _correlation(self.values[inside], told)


# ---- folded bins


def folded_bins(fields: FloatArray | None, lattice: Lattice, positions: Sequence[float]) -> float:
    """Share of the bins in which material would be turned inside out on its way from one section to the other.

    Where the material of a bin lies in either section, x + d / (2 (1 - p)) and x - d / (2 p), is a map of the plane; it
    folds where the determinant of its Jacobian is 0 or less. The share over the two maps and the interpolated sections.

    Parameters
    ----------
    fields
        (S, 2, h, w) displacement d = (dx, dy) of each section, unit of the frame, on the bins of the lattice or on bins
        several times as wide. None where the model moves nothing: NaN.
    lattice
        Of the result.
    positions
        (S,) p of each.
    """
    if fields is None or min(np.shape(fields)[2:]) < 2:
        return float("nan")
    bin_side = lattice.pitch * -(-max(lattice.shape) // max(np.shape(fields)[2:]))
    shares = [
        (_jacobian(scale * np.asarray(d, dtype=np.float64) / bin_side) <= 0).mean()
        for d, p in zip(fields, positions, strict=True)
        for scale in (0.5 / (1 - p), -0.5 / p)
    ]
    return float(np.mean(shares))


def _jacobian(d: FloatArray) -> FloatArray:
    """(h, w) determinant of the Jacobian of x + d, of (2, h, w) d in bins."""
    (x_y, x_x), (y_y, y_x) = (np.gradient(axis) for axis in d)
    return (1 + x_x) * (1 + y_y) - x_y * y_x


# ---- judgement


def score(found: Mapping[str, float]) -> float:
    """The least margin: of each number its distance to the limit over that from the limit to the best; < 0 misfits."""
    margins = [
        (LIMITS[name] - value) / LIMITS[name] if name == "folded_bins" else (value - LIMITS[name]) / (1 - LIMITS[name])
        for name, value in found.items()
        if name in LIMITS and not np.isnan(value)
    ]
    return float(min(margins, default=float("nan")))


def misfits(found: Mapping[str, float]) -> list[str]:
    """Names of the numbers that are beyond their limit."""
    return [name for name, value in found.items() if name in LIMITS and score({name: value}) < 0]


_FIX = {
    "overlap": "bring them into common coordinates first: c2sti.pp.align(slice_a, slice_b)",
    "spatial_concordance": "genes are not high in the same places: bring them into common coordinates, "
    "c2sti.pp.align(slice_a, slice_b), flip=True if one may be mirrored",
    "expression_similarity": "mean expression differs as between two patients: take sections of one block, measured "
    "and normalised alike",
    "level": "give the raw counts of both, or normalise both alike: sc.pp.normalize_total(adata, target_sum=1e4), then "
    "sc.pp.log1p(adata)",
    "folded_bins": "the model had to turn tissue inside out: align them, c2sti.pp.align(slice_a, slice_b), or take "
    "sections that are nearer to each other",
}


def complaint(found: Mapping[str, float], first: str, second: str, scales: str = "") -> str | None:
    """What is wrong with two sections, with numbers and what to do; None where nothing is.

    `scales` says how each was normalised, see :func:`c2sti.io.level`.
    """
    beyond = misfits(found)
    if not beyond:
        return None
    reasons = "; ".join(
        f"{name.replace('_', ' ')} {found[name]:.2f}, and {'at most' if name == 'folded_bins' else 'at least'} "
        f"{LIMITS[name]:.2f} is expected: "
        f"{f'{scales}: ' if name == 'level' and scales else ''}{_FIX[name]}"
        for name in beyond
    )
    what = "are not normalised alike" if beyond == ["level"] else "do not seem to belong together"
    return f"{first} and {second} {what}. {reasons}"


def complain(
    found: Mapping[str, float], first: str, second: str, on_misfit: OnMisfit, *, scales: str = "", stacklevel: int = 2
) -> None:
    """Warn or raise, as `on_misfit` says, where two sections do not seem to belong together.

    `scales` is as in :func:`complaint`, `stacklevel` as :func:`warnings.warn` counts it from here.
    """
    text = None if on_misfit == "ignore" else complaint(found, first, second, scales)
    if text is None:
        return
    text += ". c2sti.pp.check_pair(slice_a, slice_b) has the numbers; on_misfit='ignore' continues without a warning"
    if on_misfit == "raise":
        raise ValueError(text)
    warnings.warn(text, UserWarning, stacklevel=stacklevel)


def check_on_misfit(on_misfit: str) -> None:
    """Refuse a choice that does not exist."""
    _validators.one_of(on_misfit, "on_misfit", get_args(OnMisfit))
