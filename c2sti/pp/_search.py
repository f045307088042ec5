"""Where two sections might fit: all rotations by steps, all translations at once by Fourier transforms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from c2sti._types import FloatArray
from c2sti.ops import linear_at
from c2sti.pp._maps import Maps, apply

ANGLE_STEP = 5.0  # degrees: at the rim of a section of 20 spots half of it is less than a spot
LEAST_OVERLAP = 0.3  # of the smaller section: below it a few pixels agree by chance
PEAKS = 3  # of one rotation that go on
CANDIDATES = 5  # that are refined
APART = 3.0  # steps that distinct candidates lie apart, on average over the spots
PROMISING = 0.7  # share of the best score below which a candidate is not worth refining


@dataclass(frozen=True)
class Candidate:
    """A placement: the (3, 3) matrix from the scaled frame of `moving` to the reference, and its score."""

    score: float
    matrix: FloatArray


def search(reference: Maps, moving: Maps, flip: bool) -> list[Candidate]:
    """Distinct placements that score best, best first; at least one.

    The score is that of :func:`c2sti.pp._maps.fit`, with pixels in the place of spots: channels are centred within
    each overlap, because a part of a section has another mean than the whole of it.

    Parameters
    ----------
    reference, moving
        The two sections, with about one pixel a spot.
    flip
        Whether to try the mirror image of `moving` too.
    """
    transformed = _Transformed(reference, moving)
    found = [c for rotation in _rotations(flip) for c in transformed.best(rotation)]
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: -c.score):
        far = all(distance(candidate.matrix, k.matrix, moving.points) > APART * moving.step for k in kept)
        if far and (not kept or candidate.score > PROMISING * kept[0].score):
            kept.append(candidate)
        if len(kept) == CANDIDATES:
            break
    return kept


def distance(one: FloatArray, other: FloatArray, points: FloatArray) -> float:
    """Mean distance between points moved by two matrices."""
    return float(np.linalg.norm(apply(one, points) - apply(other, points), axis=1).mean())


def _rotations(flip: bool) -> Iterator[FloatArray]:
    """(2, 2) rotations of the full circle; if asked for, also after mirroring x."""
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
        images = linear_at([*self.moved.channels, self.moved.tissue], self.moved.lattice, back, beyond=0.0)
        *channels, tissue = images.reshape(-1, self.side, self.side)
        scores = self._scores(np.asarray(channels, dtype=np.float32), tissue.astype(np.float32))
        for _ in range(PEAKS):
            row, column = np.unravel_index(scores.argmax(), scores.shape)
            yield Candidate(float(scores[row, column]), self._matrix(rotation, int(row), int(column)))
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
