"""What is where in a simulated tissue, at any depth: motion, outline, domains and the activity of gene programmes.

The tissue is a static *material* pattern. Two things change it with depth, and they are kept apart:

- **motion** carries the material about. It is a product of shears: inverted exactly, of Jacobian 1, so it cannot fold;
- **biology** makes the material something else: a tumour lobe divides, its hypoxic core fades, other cells take over.

Lengths are in tissue widths, depths too; the origin is the centre of the tissue; points are (n, 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

Array = NDArray[np.float64]

DOMAINS = ("stroma", "adipose", "muscle", "epithelium", "tumour", "lymphoid")
PROGRAMMES = (*DOMAINS, "hypoxia", "plasma", "zonation")

N_SHEARS = 6
BLUR = 0.008  # width of the transition from one domain to the next
WALL = 0.02  # half the thickness of a duct's epithelium
WRINKLE = 0.013  # how far a boundary strays from its smooth shape


@dataclass(frozen=True)
class Waves:
    """A smooth random function of unit variance: a sum of K plane waves."""

    vectors: Array  # (K, D)
    phases: Array  # (K,)

    @classmethod
    def draw(cls, rng: np.random.Generator, *, n: int, wavelengths: tuple[float, float], dim: int = 2) -> Self:
        """Draw `n` waves in random directions of `dim` dimensions, their lengths between two limits."""
        directions = rng.normal(size=(n, dim))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return cls(directions * (2 * np.pi / rng.uniform(*wavelengths, size=(n, 1))), rng.uniform(0, 2 * np.pi, n))

    def __call__(self, points: Array) -> Array:
        """Value (n,) at `points` (n, D)."""
        return np.sqrt(2 / len(self.phases)) * np.cos(self.vectors @ points.T + self.phases[:, None]).sum(0)


@dataclass(frozen=True)
class Motion:
    """Displacement of the material with depth.

    Shear k moves a point along direction k by ``swing_k(z) * profile_k(t)``, t being the point's coordinate across that
    direction. The move does not change t, so that the same move backwards undoes it.
    """

    along: Array  # (K, 2) unit vectors
    profiles: tuple[Waves, ...]
    paces: Array  # (K,) radians a width of depth
    phases: Array  # (K,)
    reaches: Array  # (K,) widths

    @classmethod
    def draw(cls, rng: np.random.Generator, *, speed: float) -> Self:
        """Draw a motion of `speed` widths a width of depth (root mean square, between sections that are close)."""
        angles = rng.uniform(0, np.pi) + np.pi * np.arange(N_SHEARS) / N_SHEARS
        paces = 2 * np.pi / rng.uniform(0.5, 1.0, N_SHEARS)
        return cls(
            along=np.column_stack([np.cos(angles), np.sin(angles)]),
            profiles=tuple(Waves.draw(rng, n=2, wavelengths=(0.4, 1.0), dim=1) for _ in angles),
            paces=paces,
            phases=rng.uniform(0, 2 * np.pi, N_SHEARS),
            reaches=speed * np.sqrt(2 / N_SHEARS) / paces,
        )

    def forward(self, material: Array, z: float) -> Array:
        """Where `material` lies at depth `z`; at 0 it lies where it is."""
        for along, profile, swing in zip(self.along, self.profiles, self._swings(z), strict=True):
            material = material + swing * _shear(material, along, profile)
        return material

    def backward(self, points: Array, z: float) -> Array:
        """Which material lies at `points` at depth `z`: the inverse of `forward`."""
        steps = list(zip(self.along, self.profiles, self._swings(z), strict=True))
        for along, profile, swing in reversed(steps):
            points = points - swing * _shear(points, along, profile)
        return points

    def _swings(self, z: float) -> Array:
        return self.reaches * (np.sin(self.paces * z + self.phases) - np.sin(self.phases))


def _shear(points: Array, along: Array, profile: Waves) -> Array:
    across = points @ np.array([[-along[1]], [along[0]]])
    return profile(across)[:, None] * along


@dataclass(frozen=True)
class Anatomy:
    """The material pattern, and how biology changes it with depth.

    Methods take `q`, the material as `wrinkle` returns it, and the biological depth `z`.
    """

    wrinkles: tuple[Waves, Waves]  # no boundary is a circle or a line
    bumps: Waves  # of the outline, over direction and depth
    haze: Waves  # slow variation inside every domain
    streaks: Waves  # fibres, as the stain shows them
    speckle: Waves  # of cell types that mix like salt and pepper, over place and depth
    axis: Array  # (2,) from the adipose side to the muscle side
    lobes: Array  # (2, 3) x, y, radius of the two lobes of the tumour before they part
    nests: Array  # (n, 3) of small tumour nests
    follicles: Array  # (n, 3) of lymphoid tissue
    ducts: Array  # (n, 3) radius to the middle of the wall
    bands: float  # wavelength of the muscle bundles

    @classmethod
    def draw(cls, rng: np.random.Generator, *, grain: float) -> Self:
        """Draw a pattern whose finest detail is of the size of `grain`, the pitch of the spots."""
        angle = rng.uniform(0, 2 * np.pi)
        axis, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        centre = 0.15 * across
        lobes = np.array([[*(centre + 0.05 * axis), 0.14], [*(centre - 0.06 * axis), 0.12]])
        centres = _spread(rng, n=18, taken=np.array([centre - 0.12 * axis, centre, centre + 0.12 * axis]))
        blobs = np.column_stack([centres, rng.uniform(0.028, 0.055, len(centres))])
        return cls(
            wrinkles=(_detail(rng), _detail(rng)),
            bumps=Waves.draw(rng, n=8, wavelengths=(1.2, 3.0), dim=3),
            haze=Waves.draw(rng, n=10, wavelengths=(0.2, 0.7)),
            streaks=_streaks(rng, angle=angle, wavelengths=(0.16 * grain, 0.6 * grain)),
            speckle=Waves.draw(rng, n=16, wavelengths=(0.9 * grain, 2.0 * grain), dim=3),
            axis=axis,
            lobes=lobes,
            nests=blobs[:5],
            follicles=blobs[5:11] + [0, 0, 0.012],
            ducts=blobs[11:],
            bands=3.2 * grain,
        )

    def wrinkle(self, material: Array) -> Array:
        """Return the coordinates (n, 2) in which the shapes are smooth."""
        return material + WRINKLE * np.column_stack([wave(material) for wave in self.wrinkles])

    def outer(self, q: Array, z: float) -> Array:
        """Signed depth (n,) below the outer surface, positive inside."""
        radius = np.linalg.norm(q, axis=1)
        direction = q / np.maximum(radius, 1e-9)[:, None]
        return 0.45 + 0.035 * self.bumps(_at_depth(direction, z)) + 0.04 * (direction @ self.axis) ** 2 - radius

    def surface(self, q: Array, z: float) -> Array:
        """Signed depth (n,) below the nearest surface, outer or of a duct's lumen: positive where there is tissue."""
        return np.minimum(self.outer(q, z), -_balls(q, self.ducts - [0, 0, WALL]))

    def depths(self, q: Array, z: float) -> Array:
        """Signed depth (n, 6) inside each of `DOMAINS`; a point belongs to the one that it is deepest in."""
        along, across = q @ self.axis, q @ np.array([-self.axis[1], self.axis[0]])
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
        """Lobes (2, 3) of the tumour at depth `z`: one body near 0, two from about a third of a width."""
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
        along, across = q @ self.axis, q @ np.array([-self.axis[1], self.axis[0]])
        haze = self.haze(q)
        core = 1 - np.exp(-np.maximum(_balls(q, self.parted(z)), 0) / 0.05)
        speckle = expit(4 * self.speckle(_at_depth(q, z)))
        activity = share | {
            "muscle": share["muscle"] * (0.55 + 0.45 * np.cos(2 * np.pi * across / self.bands)),
            "hypoxia": share["tumour"] * core * expit((0.35 - z) / 0.1),
            "plasma": speckle * (0.25 * share["stroma"] + 0.5 * share["tumour"] + share["lymphoid"]),
            "zonation": 0.5 + 0.5 * np.sin(2 * np.pi * along / 0.3 + haze),
        }
        texture = np.clip(1 + 0.2 * haze, 0, None)
        return np.column_stack([activity[name] * texture for name in PROGRAMMES])


def _detail(rng: np.random.Generator) -> Waves:
    return Waves.draw(rng, n=16, wavelengths=(0.07, 0.4))


def _streaks(rng: np.random.Generator, *, angle: float, wavelengths: tuple[float, float]) -> Waves:
    """Waves that nearly share a direction: their sum is drawn out across it."""
    n = 12
    angles = angle + rng.normal(0, 0.2, n)
    vectors = np.column_stack([np.cos(angles), np.sin(angles)]) * (2 * np.pi / rng.uniform(*wavelengths, size=(n, 1)))
    return Waves(vectors, rng.uniform(0, 2 * np.pi, n))


def _at_depth(points: Array, z: float) -> Array:
    return np.column_stack([points, np.full(len(points), z)])


def _balls(q: Array, balls: Array) -> Array:
    """Signed depth (n,) inside the union of `balls` (k, 3): x, y, radius."""
    return (balls[:, 2] - np.linalg.norm(q[:, None] - balls[:, :2], axis=2)).max(1)


def _spread(rng: np.random.Generator, *, n: int, taken: Array) -> Array:
    """Draw `n` points (n, 2) of the tissue far from one another and from `taken`: each the best of some candidates."""
    points = taken
    for _ in range(n):
        candidates = rng.uniform(-0.38, 0.38, (60, 2))
        candidates = candidates[np.linalg.norm(candidates, axis=1) < 0.38]
        distances = np.linalg.norm(candidates[:, None] - points, axis=2).min(1)
        points = np.vstack([points, candidates[distances.argmax()]])
    return rng.permutation(points[len(taken) :])
