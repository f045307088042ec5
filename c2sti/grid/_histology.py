"""H&E of a section: found in its container, and averaged over the bins of a lattice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from c2sti._types import FloatArray, Lattice, PictureEncoder


@dataclass(frozen=True)
class HEImage:
    """A picture in the frame of its section: pixel (row, column) covers [column, column + 1) / scale in x.

    Parameters
    ----------
    pixels
        (h, w, 3) uint8, or float in [0, 1].
    scale
        Pixels per unit of the frame.
    """

    pixels: np.ndarray
    scale: float


def read_image(adata: AnnData, xy: FloatArray, name: str, spatial_key: str, library: str | None) -> HEImage | None:
    """Picture of ``uns[spatial_key]`` (squidpy's convention), or None where there is none.

    Raises
    ------
    ValueError
        Several libraries and none chosen, or a scale factor that sends the spots off the picture.
    """
    libraries = {k: v for k, v in (adata.uns.get(spatial_key) or {}).items() if "images" in v}
    if library is None and len(libraries) > 1:
        raise ValueError(f"{name} has pictures of {sorted(libraries)}; choose one with image_key=")
    if library is not None and library not in libraries:
        raise KeyError(f"{name} has no picture {library!r} in uns[{spatial_key!r}]; it has {sorted(libraries)}")
    if not libraries:
        return None
    key = library if library is not None else next(iter(libraries))
    found = _largest(libraries[key])
    if found is None:
        return None
    factor, image = found
    _check_on_image(image, xy, f"uns[{spatial_key!r}][{key!r}] of {name}", factor)
    return image


def image_of(library: Mapping[str, Any], name: str) -> HEImage:
    """Picture of one library, ``{"images": {"hires": …}, "scalefactors": {"tissue_hires_scalef": …}}``.

    Raises
    ------
    ValueError
        It is not one.
    """
    found = _largest(library) if {"images", "scalefactors"} <= set(library) else None
    if found is None:
        raise ValueError(
            f'{name} is no picture; give a library of uns["spatial"], {{"images": {{"hires": array}}, "scalefactors": '
            '{"tissue_hires_scalef": pixels per unit}}'
        )
    return found[1]


def _largest(library: Mapping[str, Any]) -> tuple[str, HEImage] | None:
    """Name of the scale factor, and the picture that it belongs to."""
    for resolution in ("hires", "lowres"):
        factor = f"tissue_{resolution}_scalef"
        if resolution in library["images"] and factor in library["scalefactors"]:
            return factor, HEImage(np.asarray(library["images"][resolution]), float(library["scalefactors"][factor]))
    return None


def _check_on_image(image: HEImage, xy: FloatArray, where: str, factor: str) -> None:
    height, width = image.pixels.shape[:2]
    pixel = xy * image.scale
    inside = ((pixel >= 0) & (pixel < (width, height))).all(axis=1).mean()
    if inside < 0.5:
        raise ValueError(
            f"{where}: {factor} = {image.scale:.4g} sends {1 - inside:.0%} of the spots off the picture "
            f"(they reach pixel {pixel.max(axis=0).round().astype(int).tolist()}, the picture is {width} x "
            f"{height}); correct the scale factor, or delete the picture from uns"
        )


def histology_on(image: HEImage, lattice: Lattice) -> FloatArray:
    """(3, H, W) mean colour in [0, 1] of every bin; NaN where less than half a bin is on the picture.

    An area mean, with pixels split between bins where a border runs through them: bins and pixels are both
    axis-aligned, so it is two small products with overlap lengths.
    """
    white = 255.0 if image.pixels.dtype == np.uint8 else 1.0
    rgb = np.asarray(image.pixels[..., :3], dtype=np.float32) / np.float32(white)
    down = _overlap(lattice.origin[1], lattice.pitch, lattice.shape[0], image.scale, rgb.shape[0])
    across = _overlap(lattice.origin[0], lattice.pitch, lattice.shape[1], image.scale, rgb.shape[1])
    total = np.stack([down @ rgb[..., c] @ across.T for c in range(rgb.shape[2])])
    area = np.outer(down.sum(axis=1), across.sum(axis=1))
    return np.where(area > 0.5, total / np.maximum(area, 1e-6), np.nan).astype(np.float32)


MOST_PIXELS = 1024  # a side of a picture that an encoder is given


def features_on(image: HEImage, lattice: Lattice, encoder: PictureEncoder) -> FloatArray:
    """(C_h, H, W) what an encoder says of every bin; it sees the lattice edge to edge, pixel by pixel or so."""
    most = max(MOST_PIXELS // max(lattice.shape), 1)
    n = int(np.clip(round(lattice.pitch * image.scale), 1, most))
    shift = lattice.pitch * (n - 1) / (2 * n)
    origin = (lattice.origin[0] - shift, lattice.origin[1] - shift)
    fine = Lattice(origin, lattice.pitch / n, (lattice.shape[0] * n, lattice.shape[1] * n))
    return np.asarray(encoder(histology_on(image, fine), lattice.shape), dtype=np.float32)


def _overlap(origin: float, pitch: float, n_bins: int, scale: float, n_pixels: int) -> sp.csr_array:
    """(n_bins, n_pixels) share of each bin's side that each pixel covers."""
    edges = (origin + pitch * (np.arange(n_bins + 1) - 0.5)) * scale
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(n_pixels)
    shared = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    return sp.csr_array(np.maximum(shared, 0) / (pitch * scale))
