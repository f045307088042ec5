"""What the H&E of a missing section says about its expression: the paper's cross-modal thesis, where it can be tested.

Neighbouring sections that have both say how expression follows the H&E *within* a section. Both are taken as what a
spot has beyond its surroundings, because stains and library sizes differ from section to section, and because what
varies slowly over the tissue is what the neighbours already say. A ridge regression on features of the H&E gives each
leading component. Its penalty, and whether a component is predicted at all, is decided by predicting each of the
sections from the others. Where nothing is explained across sections, the prediction is left exactly as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from scipy.spatial import KDTree

from c2sti._backed import blocks
from c2sti._tasks import one_thread
from c2sti._types import FloatArray, InterpolatedSection, PointFeatures, Prediction, Section, SlicePair
from c2sti.models.description import Description

N_COMPONENTS = 20  # that are predicted, of the leading ones
AROUND = 2.0  # radius of a spot's surroundings, in spot spacings
N_AROUND = 19  # spots of a hexagonal array within it
PENALTIES = 10.0 ** np.arange(0, 4.75, 0.5)  # of the ridge regression; features have variance 1
STANDARD_ERRORS = 4.0  # by which a component has to be explained across sections
EXTREME = 3.0  # standard deviations beyond which a feature is cut
CURVED = 0.25  # weight of the squares of the features beside them
FAINT = 0.01  # quantile of the optical density of measured spots below which there is glass, not tissue
BLOCK = 2**13  # points at a time


def with_target_images(
    prediction: Prediction, pair: SlicePair, description: Description, at: FloatArray, positions: Sequence[float]
) -> Prediction:
    """The prediction at (M, 2) points and S positions, dense, on one basis, changed by what the H&E of sections says.

    The pair has features of its sections' images, and of the missing sections' images by position; its description says
    which components there are, and what was predicted of them before.
    """
    stained = [p for p in positions if p in pair.target_features]
    given = [section for section in pair.sections if section.image_features is not None]
    if not stained or len(given) < 2:
        return prediction
    loadings = description.loadings[0][:N_COMPONENTS]
    with one_thread("blas"):
        features, values, faints = zip(*(_seen(section, loadings) for section in given), strict=True)
        weights, explained = _learnt(features, values)
    prediction = replace(prediction, notes={**prediction.notes, "image_share": explained})
    chosen = explained > 0
    if not chosen.any():
        return prediction
    basis = np.concatenate([prediction.slices[0].basis, loadings[chosen]]).astype(np.float32)
    slices = []
    for p, section in zip(positions, prediction.slices, strict=True):
        more = np.zeros((len(at), int(chosen.sum())), dtype=np.float32)
        if p in pair.target_features:
            more = _change(weights, float(np.mean(faints)), loadings[chosen], pair, description, at, p)
        slices.append(InterpolatedSection(np.concatenate([section.weights, more], axis=1), basis, section.offset))
    return replace(prediction, slices=tuple(slices))


def _seen(section: Section, loadings: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """What a measured section with an image shows at its spots on the image, beyond the surroundings of each.

    Returns
    -------
    (m, F) features of the image, (m, K) values of the components, and the optical density below which there is glass.
    """
    assert section.image_features is not None
    raw = section.image_features(section.xy)
    on_image = np.isfinite(raw).all(axis=1)
    raw, right = raw[on_image], np.ascontiguousarray(loadings.T)
    scores = np.concatenate([values @ right for _, values in blocks(section.expression)])[on_image]
    beyond = _beyond(section.xy[on_image])
    features = beyond @ _curved(_standardised(raw, raw))
    return features, beyond @ scores.astype(np.float64), float(np.quantile(raw[:, 0], FAINT))


def _learnt(features: Sequence[FloatArray], values: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """How components follow the H&E, from features and values of two sections or more.

    Each section is predicted from the others, which decides on the penalty, and on whether a component is predicted.

    Returns
    -------
    (F, k) weights of features, for the components that are predicted; and (K,) share of each component that is
    explained in sections that were left out, 0 for those that are not predicted.
    """
    grams = [(x.T @ x, x.T @ y) for x, y in zip(features, values, strict=True)]
    totals = np.stack([np.square(y).sum(axis=0) for y in values])
    errors = np.zeros((len(PENALTIES), *totals.shape))
    for i, (x, y) in enumerate(zip(features, values, strict=True)):
        weights = _ridge([gram for j, gram in enumerate(grams) if j != i])
        for penalty, own in enumerate(weights):
            errors[penalty, i] = np.square(y - x @ own).sum(axis=0)
    together = 1 - errors.sum(axis=1) / np.maximum(totals.sum(axis=0), np.finfo(float).tiny)
    best, every = together.argmax(axis=0), np.arange(totals.shape[1])
    explained = together[best, every]
    # A correlation that is there by chance has the standard error 1 / √n.
    beyond_chance = explained > STANDARD_ERRORS**2 / sum(map(len, values))
    chosen = beyond_chance & (errors[best, :, every] < totals.T).all(axis=1)
    return _ridge(grams)[best, :, every].T[:, chosen], np.where(chosen, explained, 0.0)


def _ridge(grams: Sequence[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """(P, F, K) weights at every penalty, from the sums X'X and X'Y of some sections."""
    square, right = (sum(parts) for parts in zip(*grams, strict=True))
    size, axes = np.linalg.eigh(square)
    turned = axes.T @ right
    return np.stack([axes @ (turned / (np.maximum(size, 0) + penalty)[:, None]) for penalty in PENALTIES])


def _change(
    weights: FloatArray,
    faint: float,
    loadings: FloatArray,
    pair: SlicePair,
    description: Description,
    at: FloatArray,
    position: float,
) -> FloatArray:
    """(M, k) what the H&E of the section at a position adds to the components of some (k, N) loadings, at points.

    The description holds part of it already: that share is taken at the spots of the nearer section. Where the optical
    density is below `faint` there is glass.
    """
    looks = pair.target_features[position]
    spots = (pair.a if position <= 0.5 else pair.b).xy
    seen = _around(looks, spots, pair.spacing)
    tissue = seen[:, 0, 0] >= faint  # not NaN
    if not tissue.any():
        return np.zeros((len(at), len(loadings)), dtype=np.float32)
    like = seen[tissue, 0]
    found = _beyond_tissue(seen, like, faint) @ weights
    said = _beyond(spots) @ (description.at(spots, [position])[0] @ (description.basis @ loadings.T))
    share = (said * found).sum(axis=0) / np.maximum(np.square(found).sum(axis=0), np.finfo(float).tiny)
    weights = weights * (1 - np.clip(share, 0, 1))
    parts = (_around(looks, at[first : first + BLOCK], pair.spacing) for first in range(0, len(at), BLOCK))
    return np.concatenate([_beyond_tissue(part, like, faint) @ weights for part in parts]).astype(np.float32)


def _around(looks: PointFeatures, points: FloatArray, spacing: float) -> FloatArray:
    """(M, 19, F) features of an image at points, first, and at the places around."""
    places = points[:, None] + _hexagon() * spacing
    return looks(places.reshape(-1, 2)).reshape(*places.shape[:2], -1)


def _beyond_tissue(seen: FloatArray, like: FloatArray, faint: float) -> FloatArray:
    """(M, F) standardised features at points beyond the mean of the tissue there and around; 0 on glass."""
    tissue = seen[..., :1] >= faint  # not NaN
    features = np.where(tissue, _curved(_standardised(seen, like)), 0)
    mean = features.sum(axis=1) / np.maximum(tissue.sum(axis=1), 1)
    return np.where(tissue[:, 0], features[:, 0] - mean, 0)


def _hexagon() -> FloatArray:
    """(19, 2) places of a hexagonal array of pitch 1 within its surroundings, the nearest first."""
    i, j = np.indices((9, 9)).reshape(2, -1) - 4
    places = np.column_stack([i + j / 2, j * np.sqrt(0.75)])
    distance = np.hypot(*places.T)
    order = np.argsort(distance, kind="stable")
    return places[order[distance[order] <= AROUND + 1e-6]]


def _beyond(xy: FloatArray) -> sp.csr_array:
    """(n, n) takes from each spot the mean of the `N_AROUND` nearest, itself among them."""
    n = min(N_AROUND, len(xy))
    nearest = KDTree(xy).query(xy, k=np.arange(1, n + 1))[1]
    mean = sp.csr_array((np.full(nearest.size, 1 / n), nearest.ravel(), np.arange(0, nearest.size + 1, n)))
    return sp.csr_array(sp.eye_array(len(xy)) - mean)


def _standardised(features: FloatArray, like: FloatArray) -> FloatArray:
    """Features in standard deviations around the mean of others, without their extremes."""
    deviation = like.std(axis=0)
    scaled = (features - like.mean(axis=0)) / np.where(deviation > 1e-9, deviation, np.inf)
    return np.clip(scaled, -EXTREME, EXTREME)


def _curved(features: FloatArray) -> FloatArray:
    """Features, and their squares."""
    return np.concatenate([features, CURVED * np.square(features)], axis=-1)
