"""The placement of one section on another: found by Fourier transforms and SimpleITK, or given and checked."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from c2sti import _validators
from c2sti._types import FloatArray
from c2sti.io import SliceGrid
from c2sti.ops import affine, linear_at
from c2sti.pp._maps import Maps, Use, fit, make_maps

ANGLE_STEP = 5.0  # degrees: at the rim of a section of 20 spots half of it is less than a spot
LEAST_OVERLAP = 0.3  # of the smaller section: below it a few pixels agree by chance
PEAKS = 3  # of one rotation that go on
CANDIDATES = 5  # that are refined
APART = 3.0  # steps that distinct candidates lie apart, on average over the spots
PROMISING = 0.7  # share of the best score below which a candidate is not worth refining

# Of the parameters of a 3-D transform those that act within the plane of a section.
IN_PLANE = {"rigid": [0, 0, 1, 1, 1, 0], "affine": [1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0]}
FIRST_STEP, LAST_STEP, MOST_ITERATIONS = 0.25, 1e-3, 200  # in distances between spots
COARSE_STEP = 0.05  # the last one where placements are only compared
LEAST_KEPT = 0.9  # share of the fit that refinement may cost before it counts as gone astray

SAME_UNIT = 0.03  # pitches that differ by less are one: so far the estimates of real arrays scatter
LIKELY_RATIO = 1.5  # between arrays up to here the pitch tells the unit; beyond, the platforms may differ

Method = Literal["rigid", "affine"]
Candidate = tuple[float, FloatArray]  # score, and (3, 3) matrix from the scaled frame of `moving` to the reference


def simpleitk() -> ModuleType:
    """The library, or an error that names the extra which brings it."""
    try:
        import SimpleITK  # noqa: PLC0415  an extra, and a second to import
    except ImportError as error:
        raise ImportError(
            'align estimates a placement with SimpleITK: pip install "c2sti[registration]"; or give one with matrix='
        ) from error
    return SimpleITK


def estimate(
    reference: SliceGrid, moving: SliceGrid, method: Method, use: Use, scale: float | None, flip: bool
) -> tuple[FloatArray, float]:
    """The (3, 3) placement that fits best, and its fit: search, then refine the most promising."""
    ratio = unit_ratio(reference, moving) if scale is None else _validators.number(scale, "scale", above=0)
    fixed, moved = make_maps(reference, moving, ratio, use)
    small = fixed.halved(), moved.halved()  # a quarter of the pixels are enough to choose by
    found = _search(*small, flip)
    found += [_refine(*small, m, "rigid", COARSE_STEP) for m in found]
    best = max(found, key=lambda m: fit(fixed, moved, m))
    # The refined placement is nearer to the truth even where the fit, which jumps from spot to spot, is a little less.
    refined = _refine(fixed, moved, best, "rigid")
    best = refined if fit(fixed, moved, refined) > LEAST_KEPT * fit(fixed, moved, best) else best
    if method == "affine":
        best = max(best, _refine(fixed, moved, best, "affine"), key=lambda m: fit(fixed, moved, m))
    return best @ np.diag([ratio, ratio, 1.0]), fit(fixed, moved, best)


def given(reference: SliceGrid, moving: SliceGrid, use: Use, matrix: FloatArray) -> tuple[FloatArray, float]:
    """A matrix of the user as (3, 3), and its fit."""
    full = _validators.reals(matrix, "matrix")
    if full.shape == (2, 3):
        full = np.vstack([full, [0, 0, 1]])
    if full.shape != (3, 3) or not np.isfinite(full).all() or not np.array_equal(full[2], [0, 0, 1]):
        raise ValueError(
            f"matrix has shape {np.shape(matrix)}; a finite (2, 3), or (3, 3) with last row 0 0 1, is needed, that "
            "takes (x, y, 1) of moving to the frame of the reference"
        )
    ratio = float(np.sqrt(abs(np.linalg.det(full[:2, :2]))))
    if ratio < 1e-6:
        raise ValueError("matrix has no inverse: it would press the section flat")
    fixed, moved = make_maps(reference, moving, ratio, use)
    return full, fit(fixed, moved, full @ np.diag([1 / ratio, 1 / ratio, 1.0]))


def described(matrix: FloatArray) -> dict[str, Any]:
    """A placement as a rotation after mirroring x, and a scale.

    The rotation is in degrees from x towards y, in (-180, 180]: of an affine matrix the nearest; its scale is the mean
    over directions.
    """
    area = np.linalg.det(matrix[:2, :2])
    linear = matrix[:2, :2] @ np.diag([-1.0 if area < 0 else 1.0, 1.0])
    angle = np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    return {"angle_deg": float(angle), "scale": float(np.sqrt(abs(area))), "flipped": bool(area < 0)}


def unit_ratio(reference: SliceGrid, moving: SliceGrid) -> float:
    """Units of the reference in one unit of `moving`, from the distances between spots.

    Two arrays of one kind differ in the unit if their pitches differ. A ratio far from 1 may also come from two
    kinds of array in one unit: then the sizes of the tissues decide, which serial sections share. The pitch of cells
    and scattered spots is that of their density and says little about the unit unless it is far off.
    """
    ratio = reference.pitch / moving.pitch
    if abs(ratio - 1) <= SAME_UNIT:
        return 1.0
    if 1 / LIKELY_RATIO < ratio < LIKELY_RATIO:
        return ratio if {reference.layout, moving.layout} <= {"square", "hex"} else 1.0
    # Areas of the tissue in the section's unit, up to the shape of its bins.
    area, other = (len(g.xy) * g.pitch**2 / (4 if g.layout == "cells" else 1) for g in (reference, moving))
    size = np.sqrt(area / other)
    return ratio if abs(np.log(size / ratio)) < abs(np.log(size)) else 1.0


# -- search among all rotations and translations


def _search(reference: Maps, moving: Maps, flip: bool) -> list[FloatArray]:
    """Distinct placements that score best, best first; at least one.

    The score is that of :func:`c2sti.pp._maps.fit`, with pixels (about one a spot) in the place of spots: channels are
    centred within each overlap, because a part of a section has another mean than the whole of it.
    """
    transformed = _Transformed(reference, moving)
    found = [candidate for rotation in _rotations(flip) for candidate in transformed.best(rotation)]
    kept: list[Candidate] = []
    for score, matrix in sorted(found, key=lambda candidate: -candidate[0]):
        places = affine(moving.points, matrix)
        distances = [np.linalg.norm(places - affine(moving.points, m), axis=1).mean() for _, m in kept]
        if not kept or (min(distances) > APART * moving.step and score > PROMISING * kept[0][0]):
            kept.append((score, matrix))
        if len(kept) == CANDIDATES:
            break
    return [matrix for _, matrix in kept]


def _rotations(flip: bool) -> Iterator[FloatArray]:
    """(2, 2) rotations of the full circle; with `flip` also after mirroring x."""
    for angle in np.radians(np.arange(0, 360, ANGLE_STEP)):
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        yield rotation
        if flip:
            yield rotation @ np.diag([-1.0, 1.0])


class _Transformed:
    """The Fourier transform of the reference, against which rotated copies of `moving` are correlated."""

    def __init__(self, fixed: Maps, moved: Maps) -> None:
        self.fixed, self.moved = fixed, moved
        pixel = fixed.lattice.pitch
        self.centre = moved.points.mean(axis=0)
        reach = np.linalg.norm(moved.points - self.centre, axis=1).max() / pixel
        self.side = 2 * int(np.ceil(reach + 1)) + 1
        rows, columns = np.indices((self.side, self.side)).reshape(2, -1) - self.side // 2
        self.pixels = np.column_stack([columns, rows]) * pixel  # around the centre of `moving`
        self.shape = [scipy.fft.next_fast_len(n + self.side - 1, real=True) for n in fixed.lattice.shape]
        self.spectrum = self._spectrum(fixed.channels, fixed.tissue)
        self.smaller = min(float(fixed.tissue.sum()), float(moved.tissue.sum()))

    def _spectrum(self, channels: NDArray[np.float32], tissue: NDArray[np.float32]) -> NDArray[np.complexfloating]:
        """(C + 2, …) transforms of channels, their energy, and the tissue."""
        return scipy.fft.rfft2([*channels, np.square(channels).sum(axis=0), tissue], self.shape)

    def best(self, rotation: FloatArray) -> Iterator[Candidate]:
        """The highest peaks among all translations of one rotation."""
        back = self.pixels @ rotation + self.centre  # the inverse rotation, on rows
        maps = linear_at([*self.moved.channels, self.moved.tissue], self.moved.lattice, back, beyond=0.0)
        *channels, tissue = maps.reshape(-1, self.side, self.side)
        scores = self._scores(np.asarray(channels, dtype=np.float32), tissue.astype(np.float32))
        for _ in range(PEAKS):
            row, column = np.unravel_index(scores.argmax(), scores.shape)
            yield float(scores[row, column]), self._matrix(rotation, int(row), int(column))
            around = np.arange(-APART, APART + 1).astype(int)
            scores[np.ix_((row + around) % scores.shape[0], (column + around) % scores.shape[1])] = -np.inf

    def _scores(self, channels: NDArray[np.float32], tissue: NDArray[np.float32]) -> FloatArray:
        """Correlation times overlap for every translation, -1 where the overlap is too small."""
        there, here = self.spectrum, self._spectrum(channels, tissue).conj()

        def correlate(x: NDArray[np.complexfloating]) -> FloatArray:
            return scipy.fft.irfft2(x, self.shape)

        overlap = correlate(there[-1] * here[-1])
        area = np.maximum(overlap, 1)
        sums_there, sums_here = correlate(there[:-2] * here[-1]), correlate(there[-1] * here[:-2])
        shared = correlate((there[:-2] * here[:-2]).sum(axis=0)) - (sums_there * sums_here).sum(axis=0) / area
        energy_there, energy_here = correlate(there[-2] * here[-1]), correlate(there[-1] * here[-2])
        # Where the overlap is featureless the ratio would be one of rounding errors.
        least = 1e-2 * np.sqrt(energy_there.max() * energy_here.max())
        energy_there -= np.square(sums_there).sum(axis=0) / area
        energy_here -= np.square(sums_here).sum(axis=0) / area
        length = np.sqrt(np.maximum(energy_there, 0) * np.maximum(energy_here, 0))
        score = shared / np.maximum(length, max(least, 1e-12)) * np.minimum(overlap / self.smaller, 1)
        return np.where(overlap > LEAST_OVERLAP * self.smaller, score, -1.0)

    def _matrix(self, rotation: FloatArray, row: int, column: int) -> FloatArray:
        """The placement that a peak stands for; translations beyond the reference's size are negative ones."""
        down, right = (
            shift if shift < n else shift - padded
            for shift, n, padded in zip((row, column), self.fixed.lattice.shape, self.shape, strict=True)
        )
        pixel, middle = self.fixed.lattice.pitch, self.side // 2
        target = np.asarray(self.fixed.lattice.origin) + np.array([right + middle, down + middle]) * pixel
        matrix = np.eye(3)
        matrix[:2, :2] = rotation
        matrix[:2, 2] = target - rotation @ self.centre
        return matrix


# -- refinement by SimpleITK


def _refine(
    reference: Maps, moving: Maps, matrix: FloatArray, method: Method, last_step: float = LAST_STEP
) -> FloatArray:
    """The (3, 3) placement near `matrix` in which the two sections' maps correlate best.

    SimpleITK's metrics compare images of one channel. Channels are therefore stacked along the third axis of a 3-D
    image, and a 3-D transform is optimised whose parameters outside of the plane carry no weight. Outside of their
    tissue maps are 0, their mean: that draws outlines together, where masks would let sections drift apart.

    Nothing is drawn at random and one thread sums up: the same input gives the same placement.
    """
    sitk = simpleitk()
    unit = np.diag([1 / reference.step, 1 / reference.step, 1.0])
    start = unit @ matrix @ np.linalg.inv(unit)
    centre = affine(moving.points / reference.step, start).mean(axis=0)
    correction = sitk.AffineTransform(3) if method == "affine" else sitk.Euler3DTransform()
    correction.SetCenter((*centre.tolist(), 0.0))
    (a, b, x), (c, d, y) = np.linalg.inv(start)[:2].tolist()
    to_moving = sitk.AffineTransform([a, b, 0, c, d, 0, 0, 0, 1], [x, y, 0])

    registration = sitk.ImageRegistrationMethod()
    registration.SetNumberOfThreads(1)
    registration.SetMetricAsCorrelation()
    registration.SetMetricSamplingStrategy(registration.NONE)
    # The gradient filter would smooth along the third axis too, from one channel into the next.
    registration.MetricUseFixedImageGradientFilterOff()
    registration.MetricUseMovingImageGradientFilterOff()
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetMovingInitialTransform(to_moving)
    registration.SetInitialTransform(correction, inPlace=True)
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=FIRST_STEP, minStep=last_step, numberOfIterations=MOST_ITERATIONS, gradientMagnitudeTolerance=1e-8
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetOptimizerWeights(IN_PLANE[method])
    registration.Execute(*(_image(sitk, maps, reference.step) for maps in (reference, moving)))
    # A correction acts on points of the reference, before the inverse of the start brings them to `moving`.
    corners = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    origin, right, down = (np.array(correction.TransformPoint(corner)[:2]) for corner in corners)
    corrected = np.vstack([np.column_stack([right - origin, down - origin, origin]), [0, 0, 1]])
    return np.linalg.inv(unit) @ np.linalg.inv(corrected) @ start @ unit


def _image(sitk: ModuleType, maps: Maps, unit: float) -> Any:
    image = sitk.GetImageFromArray(maps.channels)
    pixel = maps.lattice.pitch / unit
    image.SetSpacing((pixel, pixel, 1.0))
    image.SetOrigin((maps.lattice.origin[0] / unit, maps.lattice.origin[1] / unit, 0.0))
    return image
