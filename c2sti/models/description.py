"""What is known of the sections of a block: components, maps of them, and where tissue lies in each section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from c2sti._types import FloatArray, Noise
from c2sti.field import Field
from c2sti.models.registration import Registration


@dataclass(frozen=True)
class Description:
    """Sections as D sets of K components each, of which predictions are averaged.

    Parameters
    ----------
    loadings
        (D, K, N) on log expression.
    field
        Maps of all sets, side by side, D·K.
    shares
        (D,) of each set in the average.
    spacing
        Of the spots, unit of the frame: the unit of places in the field.
    origin, unit
        Position p lies at z = (p − origin) / unit of the field.
    registration
        Displacements of the sections, where there are any; the field is that of the moved sections.
    """

    loadings: FloatArray
    field: Field
    shares: FloatArray
    spacing: float
    origin: float = 0.0
    unit: float = 1.0
    registration: Registration | None = None

    def at(
        self,
        points: FloatArray,
        positions: Sequence[float],
        progress: Callable[[float], object] = lambda share: None,
    ) -> FloatArray:
        """(S, M, D·K) maps at (M, 2) points of the frame and S positions, float32."""
        return _stacked(self.field.at_each(self._sets(points, positions), progress))

    def _sets(self, points: FloatArray, positions: Sequence[float]) -> list[tuple[FloatArray, list[float]]]:
        """Places of the field, and z there, that are points of the frame at positions: one set, or one a position."""
        places, zs = points / self.spacing, self._z(positions)
        if self.registration is None:
            return [(places, zs)]
        return [(self.registration.at_home(places, z), [z]) for z in zs]

    def with_ends(
        self,
        halfway: FloatArray,
        points: FloatArray,
        positions: Sequence[float],
        progress: Callable[[float], object] = lambda share: None,
    ) -> tuple[FloatArray, FloatArray]:
        """(2, H·W, D·K) maps of both sections of a pair at places halfway between them, and those of :meth:`at`."""
        places = halfway / self.spacing
        if self.registration is not None:
            places = self.registration.from_halfway(places, self._gap())
        sets = [(places, self._z([0.0, 1.0])), *self._sets(points, positions)]
        ends, *found = self.field.at_each(sets, progress)
        return ends, _stacked(found)

    def halfway(self, points: FloatArray, position: float) -> FloatArray:
        """(M, 2) where halfway between the sections of a pair the tissue lies that is at the points at a position."""
        if self.registration is None:
            return points
        (z,) = self._z([position])
        y = self.registration.halfway(points / self.spacing, z)
        return self.registration.across(y, self.registration.gap(z)[0], self._gap()) * self.spacing

    def at_section(self, points: FloatArray, position: float) -> FloatArray:
        """(M, 2) where in a section the tissue lies that is at the points halfway between the sections of a pair."""
        if self.registration is None:
            return points
        return self.registration.at_section(points / self.spacing, self._gap(), *self._z([position])) * self.spacing

    def displacement(self, points: FloatArray, position: float) -> FloatArray:
        """(M, 2) displacement at points of a section between two, see :func:`c2sti.io.source_places`."""
        if self.registration is None:
            return np.zeros_like(points)
        return self.registration.displacement(points / self.spacing, *self._z([position])) * self.spacing

    def _gap(self) -> int:
        assert self.registration is not None
        return self.registration.gap(*self._z([0.5]))[0]

    @property
    def basis(self) -> FloatArray:
        """(D·K, N) loadings that give, times the maps, the average over the sets."""
        return (self.loadings * self.shares[:, None, None]).reshape(-1, self.loadings.shape[2])

    def noise(self, points: FloatArray, positions: Sequence[float]) -> Noise:
        """Variance of the average over the sets: the average of their variances, for they err alike."""
        return Noise(
            lambda: _stacked([self.field.variance_at(*one) for one in self._sets(points, positions)]),
            lambda: (np.square(self.loadings) * self.shares[:, None, None]).reshape(-1, self.loadings.shape[2]),
        )

    def keeping(self) -> Description:
        """The same for many gaps: what is solved for one serves the others."""
        return replace(self, field=self.field.keeping())

    def between(self, first: float, second: float) -> Description:
        """The same for positions on the scale of a pair that lies at these two positions of this one's."""
        step = second - first
        return replace(self, origin=(self.origin - first) / step, unit=self.unit / step)

    def _z(self, positions: Sequence[float]) -> list[float]:
        return [(p - self.origin) / self.unit for p in positions]


def _stacked(found: Sequence[FloatArray]) -> FloatArray:
    """(S, M, K) of all sets; what is one already is not copied."""
    return found[0] if len(found) == 1 else np.concatenate(found)
