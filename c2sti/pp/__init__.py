"""Before anything is interpolated: bring the sections of a series into one frame, and see whether they fit."""

from c2sti.pp._align import align, align_series
from c2sti.pp._fit import fit

__all__ = ["align", "align_series", "fit"]
