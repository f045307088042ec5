"""What is where in a simulated tissue, at any z: motion, domains, gene programmes, and how the H&E shows them.

The tissue is a static *material* pattern. *Motion* displaces it along z, and *biology* changes what it is. Lengths are
in tissue widths, z too; the origin is the centre of the tissue; points are (n, 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.special import expit, softmax

Array = NDArray[np.float64]

DOMAINS = ("stroma", "adipose", "muscle", "epithelium", "tumour", "lymphoid")
PROGRAMMES = (*DOMAINS, "hypoxia", "plasma", "zonation")

N_SHEARS = 6
BLUR = 0.008  # width of the transition from one domain to the next
WALL = 0.02  # half the thickness of a duct's epithelium
WRINKLE = 0.013  # how far a boundary strays from its smooth shape

# Optical densities of the two dyes in red, green and blue.
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.09, 0.95, 0.28])
LAMP = np.array([244.0, 243.0, 246.0])  # the empty slide
N_SIZES = 4


# How the domains take the stain: share of cell positions that are occupied, radius of a nucleus in cell spacings, its
# darkness, density of the ground, and how far fibres modulate that.
LOOKS = {
    "stroma": {"cells": 0.25, "radius": 0.22, "chromatin": 1.5, "eosin": 0.36, "fibre": 0.30},
    "adipose": {"cells": 0.10, "radius": 0.20, "chromatin": 1.2, "eosin": 0.40, "fibre": 0.0},
    "muscle": {"cells": 0.35, "radius": 0.22, "chromatin": 1.3, "eosin": 0.66, "fibre": 0.16},
    "epithelium": {"cells": 0.95, "radius": 0.30, "chromatin": 1.7, "eosin": 0.40, "fibre": 0.0},
    "tumour": {"cells": 0.75, "radius": 0.36, "chromatin": 1.5, "eosin": 0.40, "fibre": 0.06},
    "lymphoid": {"cells": 1.00, "radius": 0.26, "chromatin": 2.2, "eosin": 0.22, "fibre": 0.0},
}


@dataclass(frozen=True)
class Waves:
    """A smooth random function of unit variance: a sum of K plane waves."""

    vectors: Array  # (K, D)
    phases: Array  # (K,)

    def __call__(self, points: Array) -> Array:
        """Value (n,) at `points` (n, D)."""
        return np.sqrt(2 / len(self.phases)) * np.cos(self.vectors @ points.T + self.phases[:, None]).sum(0)


def waves(rng: np.random.Generator, n: int, wavelengths: tuple[float, float], dim: int = 2) -> Waves:
    """Draw `n` waves in random directions of `dim` dimensions, their lengths between two limits."""
    directions = rng.normal(size=(n, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return Waves(directions * (2 * np.pi / rng.uniform(*wavelengths, size=(n, 1))), rng.uniform(0, 2 * np.pi, n))


class Motion:
    """Displacement of the material along z, of `speed` widths a width (root mean square, between close sections).

    Shear k moves a point along direction k by ``swing_k(z) * profile_k(t)``, t being the point's coordinate across that
    direction. The move does not change t, so the same move backwards inverts it; its Jacobian is 1, so it cannot fold.
    """

    def __init__(self, rng: np.random.Generator, *, speed: float) -> None:
        angles = rng.uniform(0, np.pi) + np.pi * np.arange(N_SHEARS) / N_SHEARS
        self.along = np.column_stack([np.cos(angles), np.sin(angles)])  # (K, 2) unit vectors
        self.paces = 2 * np.pi / rng.uniform(0.5, 1.0, N_SHEARS)  # radians a width of z
        self.profiles = [waves(rng, 2, (0.4, 1.0), dim=1) for _ in angles]
        self.phases = rng.uniform(0, 2 * np.pi, N_SHEARS)
        self.reaches = speed * np.sqrt(2 / N_SHEARS) / self.paces  # widths

    def forward(self, material: Array, z: float) -> Array:
        """Where `material` lies at `z`; at 0 it lies where it is."""
        for shear in self._shears(z):
            material = material + _move(material, *shear)
        return material

    def backward(self, points: Array, z: float) -> Array:
        """Which material lies at `points` at `z`: the inverse of `forward`."""
        for shear in reversed(self._shears(z)):
            points = points - _move(points, *shear)
        return points

    def _shears(self, z: float) -> list[tuple[Array, Waves, float]]:
        """Direction, profile and swing of each shear."""
        swings = self.reaches * (np.sin(self.paces * z + self.phases) - np.sin(self.phases))
        return list(zip(self.along, self.profiles, swings, strict=True))


def _move(points: Array, along: Array, profile: Waves, swing: float) -> Array:
    across = points @ np.array([[-along[1]], [along[0]]])
    return swing * (profile(across)[:, None] * along)


class Anatomy:
    """The material pattern, and how biology changes it along z: finest details have the size of `grain`.

    A tumour divides, its hypoxic core fades, other cells take over. Methods take `q`, the material as `wrinkle` returns
    it, and the biological `z`. Balls are (n, 3): x, y, radius.
    """

    def __init__(self, rng: np.random.Generator, *, grain: float) -> None:
        angle = rng.uniform(0, 2 * np.pi)
        self.axis = np.array([np.cos(angle), np.sin(angle)])  # from the adipose side to the muscle side
        self.cross = np.array([-self.axis[1], self.axis[0]])
        centre = 0.15 * self.cross
        self.lobes = np.array([[*(centre + 0.05 * self.axis), 0.14], [*(centre - 0.06 * self.axis), 0.12]])
        taken = np.array([centre - 0.12 * self.axis, centre, centre + 0.12 * self.axis])
        centres = _far_apart(rng, n=18, taken=taken)
        balls = np.column_stack([centres, rng.uniform(0.028, 0.055, len(centres))])
        self.nests, self.follicles, self.ducts = balls[:5], balls[5:11] + [0, 0, 0.012], balls[11:]
        self.wrinkles = [waves(rng, 16, (0.07, 0.4)) for _ in "xy"]  # no boundary is a circle or a line
        self.bumps = waves(rng, 8, (1.2, 3.0), dim=3)  # of the outline, over direction and z
        self.haze = waves(rng, 10, (0.2, 0.7))  # slow variation inside every domain
        self.streaks = _streaks(rng, angle=angle, wavelengths=(0.16 * grain, 0.6 * grain))  # fibres in the stain
        self.speckle = waves(rng, 16, (0.9 * grain, 2.0 * grain), dim=3)  # of cell types that mix, over place and z
        self.bands = 3.2 * grain  # wavelength of the muscle bundles

    def wrinkle(self, material: Array) -> Array:
        """Return the coordinates (n, 2) in which the shapes are smooth."""
        return material + WRINKLE * np.column_stack([wave(material) for wave in self.wrinkles])

    def outer(self, q: Array, z: float) -> Array:
        """Signed depth (n,) below the outer surface, positive inside."""
        radius = np.linalg.norm(q, axis=1)
        direction = q / np.maximum(radius, 1e-9)[:, None]
        return 0.45 + 0.035 * self.bumps(_with_z(direction, z)) + 0.04 * (direction @ self.axis) ** 2 - radius

    def surface(self, q: Array, z: float) -> Array:
        """Signed depth (n,) below the nearest surface, outer or of a duct's lumen: positive where there is tissue."""
        return np.minimum(self.outer(q, z), -_balls(q, self.ducts - [0, 0, WALL]))

    def depths(self, q: Array, z: float) -> Array:
        """Signed depth (n, 6) inside each of `DOMAINS`; a point belongs to the one that it is deepest in."""
        along, across = q @ self.axis, q @ self.cross
        wall = np.abs(np.linalg.norm(q[:, None] - self.ducts[:, :2], axis=2) - self.ducts[:, 2]).min(1)
        depths = {
            "stroma": np.full(len(q), 0.004),
            "adipose": 0.8 * across**2 - along - 0.27,
            "muscle": np.minimum(0.15 - self.outer(q, z), along - 0.02),
            "epithelium": 6 * (WALL - wall),  # steep: ducts and follicles lie within other domains, and win there
            "tumour": np.maximum(_balls(q, self.parted(z)), _balls(q, self.nests)),
            "lymphoid": 3 * _balls(q, self.follicles),
        }
        return np.column_stack([depths[name] for name in DOMAINS])

    def parted(self, z: float) -> Array:
        """Lobes (2, 3) of the tumour at `z`: one body near 0, two from about a third of a width."""
        gap = 0.12 * expit((z - 0.2) / 0.06) * self.axis
        return self.lobes + np.array([[*gap, 0], [*-gap, 0]])

    def membership(self, q: Array, z: float) -> Array:
        """Share (n, 6) of each of `DOMAINS`, summing to 1."""
        return softmax(self.depths(q, z) / BLUR, axis=1)

    def fibres(self, q: Array) -> Array:
        """Texture (n,) of collagen and muscle fibres, around 0: streaks that bend."""
        return self.streaks(q + 0.02 * self.haze(q)[:, None])

    def activity(self, q: Array, z: float) -> Array:
        """Activity (n, 9) of each of `PROGRAMMES`, from 0 to about 1."""
        share = dict(zip(DOMAINS, self.membership(q, z).T, strict=True))
        along, across = q @ self.axis, q @ self.cross
        haze = self.haze(q)
        core = 1 - np.exp(-np.maximum(_balls(q, self.parted(z)), 0) / 0.05)
        speckle = expit(4 * self.speckle(_with_z(q, z)))
        activity = share | {
            "muscle": share["muscle"] * (0.55 + 0.45 * np.cos(2 * np.pi * across / self.bands)),
            "hypoxia": share["tumour"] * core * expit((0.35 - z) / 0.1),
            "plasma": speckle * (0.25 * share["stroma"] + 0.5 * share["tumour"] + share["lymphoid"]),
            "zonation": 0.5 + 0.5 * np.sin(2 * np.pi * along / 0.3 + haze),
        }
        texture = np.clip(1 + 0.2 * haze, 0, None)
        return np.column_stack([activity[name] * texture for name in PROGRAMMES])


def _streaks(rng: np.random.Generator, *, angle: float, wavelengths: tuple[float, float]) -> Waves:
    """Waves that nearly share a direction: their sum is drawn out across it."""
    n = 12
    angles = angle + rng.normal(0, 0.2, n)
    vectors = np.column_stack([np.cos(angles), np.sin(angles)]) * (2 * np.pi / rng.uniform(*wavelengths, size=(n, 1)))
    return Waves(vectors, rng.uniform(0, 2 * np.pi, n))


def _with_z(points: Array, z: float) -> Array:
    return np.column_stack([points, np.full(len(points), z)])


def _balls(q: Array, balls: Array) -> Array:
    """Signed depth (n,) inside the union of `balls` (k, 3): x, y, radius."""
    return (balls[:, 2] - np.linalg.norm(q[:, None] - balls[:, :2], axis=2)).max(1)


def _far_apart(rng: np.random.Generator, *, n: int, taken: Array) -> Array:
    """Draw `n` points (n, 2) of the tissue far from one another and from `taken`: each the best of some candidates."""
    points = taken
    for _ in range(n):
        candidates = rng.uniform(-0.38, 0.38, (60, 2))
        candidates = candidates[np.linalg.norm(candidates, axis=1) < 0.38]
        distances = np.linalg.norm(candidates[:, None] - points, axis=2).min(1)
        points = np.vstack([points, candidates[distances.argmax()]])
    return rng.permutation(points[len(taken) :])


# -- the stain: light absorbed by nuclei and by what lies between them


def haematoxylin_eosin(
    ground: Array, *, nuclei: Array, radii: Array, chromatin: Array, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Render the image (H, W, 3) of `nuclei` on a `ground` of eosin.

    `ground` is the density of eosin (H, W), 0 on glass; `nuclei` (n, 2) are x, y in pixels, pixel i reaching from i to
    i + 1, with their `radii` (n,) in pixels and darkness `chromatin` (n,). `rng` draws the grain of the image.
    """
    blue = _nuclei(ground.shape, nuclei=nuclei, radii=radii, chromatin=chromatin)
    pink = ground * (1 + 0.08 * rng.standard_normal(ground.shape)) * (1 - 0.5 * np.minimum(blue, 1))
    density = blue[..., None] * HAEMATOXYLIN + np.maximum(pink, 0)[..., None] * EOSIN
    image = LAMP * np.exp(-density) + rng.normal(0, 1.5, (*ground.shape, 1))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _nuclei(shape: tuple[int, ...], *, nuclei: Array, radii: Array, chromatin: Array) -> Array:
    """Density of haematoxylin (H, W): a soft disc for each nucleus, drawn size by size."""
    column, row = np.floor(nuclei).astype(int).T
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    row, column, radii, chromatin = row[inside], column[inside], radii[inside], chromatin[inside]
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
