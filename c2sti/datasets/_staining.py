"""Draw a section as haematoxylin and eosin show it: light absorbed by nuclei and by what lies between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

Array = NDArray[np.float64]

# Optical densities of the two dyes in red, green and blue.
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.09, 0.95, 0.28])
LAMP = np.array([244.0, 243.0, 246.0])  # the empty slide
N_SIZES = 4


@dataclass(frozen=True)
class Look:
    """How a tissue domain takes the stain.

    `cells` is the share of cell positions that are occupied, `radius` that of a nucleus in cell spacings, `chromatin`
    its darkness, `eosin` the density of the ground, and `fibre` how far fibres modulate it.
    """

    cells: float
    radius: float
    chromatin: float
    eosin: float
    fibre: float


LOOKS = {
    "stroma": Look(cells=0.25, radius=0.22, chromatin=1.5, eosin=0.36, fibre=0.30),
    "adipose": Look(cells=0.10, radius=0.20, chromatin=1.2, eosin=0.40, fibre=0.0),
    "muscle": Look(cells=0.35, radius=0.22, chromatin=1.3, eosin=0.66, fibre=0.16),
    "epithelium": Look(cells=0.95, radius=0.30, chromatin=1.7, eosin=0.40, fibre=0.0),
    "tumour": Look(cells=0.75, radius=0.36, chromatin=1.5, eosin=0.40, fibre=0.06),
    "lymphoid": Look(cells=1.00, radius=0.26, chromatin=2.2, eosin=0.22, fibre=0.0),
}


def haematoxylin_eosin(
    ground: Array, *, nuclei: Array, radii: Array, chromatin: Array, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Render the image (H, W, 3) of `nuclei` on a `ground` of eosin.

    Parameters
    ----------
    ground
        Density of eosin (H, W); 0 is glass.
    nuclei
        Centres (n, 2) as x, y in pixels, pixel i reaching from i to i + 1.
    radii
        Radius (n,) of each nucleus in pixels.
    chromatin
        Darkness (n,) of each nucleus.
    rng
        Draws the grain of the picture.
    """
    blue = _nuclei(ground.shape, nuclei=nuclei, radii=radii, chromatin=chromatin)
    pink = ground * (1 + 0.08 * rng.standard_normal(ground.shape)) * (1 - 0.5 * np.minimum(blue, 1))
    density = blue[..., None] * HAEMATOXYLIN + np.maximum(pink, 0)[..., None] * EOSIN
    image = LAMP * np.exp(-density) + rng.normal(0, 1.5, (*ground.shape, 1))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _nuclei(shape: tuple[int, ...], *, nuclei: Array, radii: Array, chromatin: Array) -> Array:
    """Density of haematoxylin (H, W): a soft disc for each nucleus, drawn size by size."""
    column, row = np.floor(nuclei).astype(int).T
    seen = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    row, column, radii, chromatin = row[seen], column[seen], radii[seen], chromatin[seen]
    sizes = np.quantile(radii, (np.arange(N_SIZES) + 0.5) / N_SIZES) if len(radii) else np.ones(N_SIZES)
    nearest = np.abs(radii[:, None] - sizes).argmin(1)
    total = np.zeros(shape)
    for k, size in enumerate(sizes):
        spots = np.zeros(shape)
        mine = nearest == k
        np.add.at(spots, (row[mine], column[mine]), chromatin[mine])
        sigma = 0.6 * size
        total += gaussian_filter(spots, sigma) * max(2 * np.pi * sigma**2, 1)  # peak of a lone nucleus = its chromatin
    total += 0.3 * gaussian_filter(total, 3 * sizes.mean())  # cytoplasm, and nuclei out of focus
    return 2.0 * np.tanh(total / 2.0)


def fat_cells(points: Array, *, diameter: float, rng: np.random.Generator) -> Array:
    """Eosin (n,) of adipose tissue at `points` (n, 2): membranes, 1, around vacuoles, 0."""
    if not len(points):
        return np.zeros(0)
    low, high = points.min(0) - diameter, points.max(0) + diameter
    steps = [np.arange(a, b, diameter) for a, b in zip(low, high, strict=True)]
    centres = np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 2)
    centres += rng.uniform(-0.45, 0.45, centres.shape) * diameter
    nearest = np.asarray(cKDTree(centres).query(points, k=2)[0])
    return np.clip(1.3 - (nearest[:, 1] - nearest[:, 0]) / (0.14 * diameter), 0, 1)
