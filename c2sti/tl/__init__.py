"""Tools: make the missing sections, take the result apart, learn from a series, and measure how well it works."""

from c2sti.tl._coexpression import coexpression
from c2sti.tl._describe import describe
from c2sti.tl._evaluate import evaluate
from c2sti.tl._get_section import get_section
from c2sti.tl._interpolate import interpolate
from c2sti.tl._interpolate_cells import interpolate_cells
from c2sti.tl._materialize import materialize
from c2sti.tl._sample_counts import sample_counts
from c2sti.tl._series import interpolate_series
from c2sti.tl._slice_series import slice_series
from c2sti.tl._to_slices import to_slices
from c2sti.tl._to_spatialdata import to_spatialdata
from c2sti.tl._to_volume import to_volume
from c2sti.tl._train import train

__all__ = [
    "coexpression",
    "describe",
    "evaluate",
    "get_section",
    "interpolate",
    "interpolate_cells",
    "interpolate_series",
    "materialize",
    "sample_counts",
    "slice_series",
    "to_slices",
    "to_spatialdata",
    "to_volume",
    "train",
]
