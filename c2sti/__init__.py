"""The missing sections of a serial spatial-transcriptomics series, from their neighbours.

``c2sti.tl.interpolate(slice_a, slice_b, n_slices=3)`` is the main call; ``pp`` brings sections into a common coordinate
system first, ``pl`` draws, ``datasets`` has made and real series, ``metrics`` the scores.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

import lazy_loader

from c2sti import datasets, metrics, pp, tl
from c2sti._types import InterpolatedSection, Interpolator, Lattice, Noise, Prediction, Section, SlicePair
from c2sti.io import read_zarr
from c2sti.models.c2sti import C2STi, C2STiConfig
from c2sti.training import TrainConfig

if TYPE_CHECKING:
    from c2sti import pl

# matplotlib, half a second, comes when something is drawn.
__getattr__, _, _ = lazy_loader.attach(__name__, submodules=["pl"])

__all__ = [
    "C2STi",
    "C2STiConfig",
    "InterpolatedSection",
    "Interpolator",
    "Lattice",
    "Noise",
    "Prediction",
    "Section",
    "SlicePair",
    "TrainConfig",
    "datasets",
    "metrics",
    "pl",
    "pp",
    "read_zarr",
    "tl",
]
__version__ = version("c2sti")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
