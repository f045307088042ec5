"""A Gaussian process on the principal axes of the sections: `gp`, and the baseline prediction of the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from c2sti._types import FloatArray, InterpolatedSection, Interpolator, Prediction, Section, SlicePair
from c2sti.models.components import Settings, describe
from c2sti.models.description import Description
from c2sti.models.registration import MOST_BINS
from c2sti.models.target_image import with_target_images


class Describing:
    """An interpolator that starts from a description, and takes one that was made before as ``description=``.

    Parameters
    ----------
    settings
        How a pair is described.
    name
        What tables and provenance call it.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings, self.__name__ = settings, name

    def describe(
        self, pair: SlicePair, *, device: str, seed: int, progress: Callable[[float], object] = lambda share: None
    ) -> Description:
        """The components of a pair and its context."""
        how: dict[str, Any] = {"device": device, "seed": seed, "progress": progress}
        return describe(pair.sections, pair.spacing, pair.keys, self.settings, **how)

    def __call__(self, *args: Any, **kwargs: Any) -> Prediction:
        """Interpolate sections; see :class:`c2sti._types.Interpolator`."""
        raise NotImplementedError


class Baseline(Describing):
    """Interpolation by components alone: a model for ``c2sti.tl.interpolate(…, model=…)``."""

    def __init__(self, settings: Settings | None = None, name: str = "baseline") -> None:
        super().__init__(settings or Settings(), name)

    def __call__(
        self,
        pair: SlicePair,
        at: FloatArray,
        positions: Sequence[float],
        *,
        device: str = "cpu",
        seed: int = 0,
        progress: Callable[[float], object] = lambda share: None,
        description: Description | None = None,
    ) -> Prediction:
        """Interpolate sections; see :class:`c2sti._types.Interpolator`. A description made before is used if given."""
        if description is None:
            description = self.describe(pair, device=device, seed=seed, progress=lambda share: progress(0.7 * share))
        else:
            progress(0.7)  # was done before
        maps = description.at(at, positions, lambda share: progress(0.3 * share))
        basis, field = description.basis, description.field
        slices = [
            InterpolatedSection(m, basis, blended_mean(pair.sections, p)) for m, p in zip(maps, positions, strict=True)
        ]
        notes = {
            "length": np.array([part.kernel.length for part in field.parts]) * description.spacing,
            "shared": field.parts[0].kernel.shared,
            "decay": field.parts[0].kernel.decay,
            "noise": torch.stack([part.noise for part in field.parts]).cpu().numpy(),
        }
        if description.registration is not None:
            lattice = pair.lattice.coarsened(MOST_BINS)
            moves = [description.displacement(lattice.centres, p).T.reshape(2, *lattice.shape) for p in positions]
            notes["displacement"] = np.stack(moves).astype(np.float32)
        prediction = Prediction(tuple(slices), notes, description.noise(at, positions))
        return with_target_images(prediction, pair, description, at, positions)


class Descriptions:
    """Descriptions of a pair, each made once: methods of the same settings share it.

    Parameters
    ----------
    pair, device, seed
        As every interpolator takes them.
    """

    def __init__(self, pair: SlicePair, *, device: str, seed: int) -> None:
        self.pair, self.device, self.seed = pair, device, seed
        self._made: dict[Settings, tuple[Description, float]] = {}

    def bound(self, method: Interpolator) -> Interpolator:
        """The method, with the description of the pair if it starts from one."""
        if not isinstance(method, Describing):
            return method
        if method.settings not in self._made:
            start = time.process_time()
            found = method.describe(self.pair, device=self.device, seed=self.seed)
            self._made[method.settings] = found, time.process_time() - start
        return with_description(method, self._made[method.settings][0])

    def seconds(self, method: Interpolator) -> float:
        """Processor time that making the description of a method took, 0 if it has none."""
        return self._made[method.settings][1] if isinstance(method, Describing) else 0.0


def with_description(method: Describing, description: Description) -> Interpolator:
    """The method, as it answers from a description that was made before."""
    return partial(method, description=description)


def blended_mean(sections: Sequence[Section], position: float) -> FloatArray:
    """(N,) expression around which the components of a section at this position vary."""
    return (1 - position) * sections[0].mean + position * sections[1].mean


gp = Baseline(Settings(n_splits=0, counts=False, matern=False, own_lengths=False, registered=False, detail=False), "gp")
