"""What an H&E looks like around any point: the features by which it predicts expression; and whether it is one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from c2sti._types import FloatArray, ImageEncoder, Lattice, Section
from c2sti.io._histology import LEAST_ON_IMAGE, HEImage, UnusableImage, check_under, features_on, histology_on
from c2sti.ops import linear_at

WINDOWS = (0.1, 0.2, 0.4)  # standard deviations of the Gaussian windows, in spot spacings
BANDS = (1, 2, 4)  # standard deviations of the Gaussians that part structures by their size, in pixels
AREA = 0.25  # of the window in which the strength of structures is averaged, in spot spacings
MARGIN = 2.0  # spot spacings beyond the points that windows reach
DARKEST = 0.02  # transmission below which a pixel says nothing about the amount of dye
FINEST, MOST_PIXELS = 64, 2**23  # pixels along a spot spacing, and over a whole section
COARSE = 10  # blocks of pixels along a spot spacing, in which windows are averaged
FAINT = 0.01  # quantile of the optical density of measured spots below which there is glass, not tissue
WIDER = 1.0  # of their range by which hues may lie beyond those of the neighbours


@dataclass(frozen=True)
class ImageFeatures:
    """Features of an H&E around points, see :class:`c2sti._types.PointFeatures`.

    The optical density; means and spreads of haematoxylin, eosin and what is left (Ruifrok and Johnston 2001) in
    windows of three sizes; the strength of structures of some pixels, such as nuclei; and what an encoder gives.
    """

    image: HEImage
    spacing: float  # of neighbouring spots, unit of the frame: the unit of the windows
    pixels: int  # along a spacing that the image is looked at with: one number for all sections that are compared
    encoded: tuple[FloatArray, Lattice] | None = None  # (C_h, H, W) features by the user's encoder, and their lattice

    def __call__(self, points: FloatArray) -> FloatArray:
        """(M, F) features around (M, 2) points, NaN beyond the image."""
        factor = max(self.pixels // COARSE, 1)
        side = factor * self.spacing / self.pixels  # these blocks of pixels lie on one grid, whatever the points
        first = np.floor((points.min(axis=0) - MARGIN * self.spacing) / side).astype(int)
        width, height = (np.ceil((points.max(axis=0) + MARGIN * self.spacing) / side).astype(int) - first + 1).tolist()
        (x, y), shift = (first * side).tolist(), (factor - 1) / 2 * side / factor
        blocks = Lattice((x, y), side, (height, width))
        fine = Lattice((x - shift, y - shift), side / factor, (height * factor, width * factor))
        colours = histology_on(self.image, fine)
        known = _blockwise(np.isfinite(colours[0]).astype(np.float32), factor)
        found = [linear_at(layer[None], blocks, points)[0] for layer in self._maps(optical_density(colours), factor)]
        on_image = linear_at(known[None], blocks, points, beyond=0.0)[0] > 0.5
        if self.encoded is not None:
            found += list(linear_at(*self.encoded, points, beyond=np.nan))
        return np.where(on_image[:, None], np.stack(found, axis=1), np.nan)

    def _maps(self, density: FloatArray, factor: int) -> Iterator[FloatArray]:
        """(h, w) features of blocks one by one, of the optical density of pixels; the first is that of all dyes."""
        from skimage.color import hed_from_rgb  # noqa: PLC0415 - slow to import, and only images need it

        dyes = np.tensordot(hed_from_rgb.T.astype(np.float32), density, axes=1)
        spacing = self.pixels / factor  # in blocks
        yield gaussian_filter(_blockwise(density.sum(axis=0), factor), WINDOWS[-1] * spacing)
        for dye in dyes:
            first, square = _blockwise(dye, factor), _blockwise(dye**2, factor)
            for window in WINDOWS:
                mean = gaussian_filter(first, window * spacing)
                yield mean
                yield np.sqrt(np.maximum(gaussian_filter(square, window * spacing) - mean**2, 0))
        for dye in dyes[:2]:
            last = dye
            for band in BANDS:
                coarser = gaussian_filter(dye, band)
                yield np.log(gaussian_filter(_blockwise((last - coarser) ** 2, factor), AREA * spacing) + 1e-6)
                last = coarser


def _blockwise(values: FloatArray, factor: int) -> FloatArray:
    """(h, w) means of blocks of (h · factor, w · factor) pixels."""
    height, width = (n // factor for n in values.shape)
    return values.reshape(height, factor, width, factor).mean(axis=(1, 3))


def optical_density(colours: FloatArray) -> FloatArray:
    """Optical density of colours in [0, 1]: what all dyes take away; 0 where the colour is not known."""
    return -np.log(np.clip(np.nan_to_num(colours, nan=1.0), DARKEST, 1.0)).astype(np.float32)


def image_features(
    images: Sequence[HEImage], spacing: float, lattice: Lattice, encoder: ImageEncoder | None = None
) -> list[ImageFeatures]:
    """Features of images that are to be compared, looked at with as many pixels as the coarsest has."""
    area = lattice.shape[0] * lattice.shape[1] * (lattice.pitch / spacing) ** 2
    own = min(image.scale * spacing for image in images)
    pixels = int(np.clip(round(own), 1, min(FINEST, max((MOST_PIXELS / area) ** 0.5, 1))))
    encoded = [None if encoder is None else (features_on(image, lattice, encoder), lattice) for image in images]
    return [ImageFeatures(image, spacing, pixels, one) for image, one in zip(images, encoded, strict=True)]


# ---- whether the image of a missing section can be that


def check_target(image: HEImage, colours: FloatArray, sections: Sequence[Section], lattice: Lattice) -> None:
    """Refuse an image that does not show the missing section; warn of one in another stain than its neighbours.

    `colours` are its (3, H, W) means on the lattice. UnusableImage where less than half of the neighbours' spots lie on
    the image, or on tissue that it shows.
    """
    spots = np.concatenate([section.xy for section in sections])
    check_under(image, spots)
    measured = [_density_at(s.histology, s.xy, lattice) for s in sections if s.histology is not None]
    if not measured:
        return
    known, own = np.concatenate(measured), _density_at(colours, spots, lattice)
    tissue = own.sum(axis=1) >= np.quantile(known.sum(axis=1), FAINT)
    if tissue.mean() < LEAST_ON_IMAGE:
        raise UnusableImage(
            f"{image.name} shows tissue at {tissue.mean():.0%} of the spots of the neighbouring sections, and glass at "
            "the others: it lies elsewhere; bring it into the frame of the sections, or correct its scale factor"
        )
    low, high = np.quantile(_hues(known), [FAINT, 1 - FAINT], axis=0)
    reach, hues = WIDER * (high - low), _hues(own[tissue])
    strange = ((hues < low - reach) | (hues > high + reach)).any(axis=1).mean()
    if strange > 0.5:
        warnings.warn(
            f"{image.name} is not of the stain of the neighbouring sections: {strange:.0%} of its tissue is of a hue "
            "that none of their spots has; what it says about expression is wrong then. Leave it out of target_images, "
            "or give the H&E",
            UserWarning,
            stacklevel=5,
        )


def _density_at(colours: FloatArray, xy: FloatArray, lattice: Lattice) -> FloatArray:
    """(m, 3) mean optical density of the bins in which points lie, without those beyond lattice and image."""
    bins = lattice.bins(xy)
    found = colours.reshape(3, -1)[:, bins[bins >= 0]]
    return optical_density(found[:, np.isfinite(found[0])]).T


def _hues(density: FloatArray) -> FloatArray:
    """(m, 3) shares of red, green and blue in the optical density, whatever its amount."""
    return density / np.maximum(density.sum(axis=1, keepdims=True), 1e-6)
