"""Before anything is interpolated: give the sections of a series common coordinates, and check pairs of them."""

from c2sti.pp._align import align, align_series
from c2sti.pp._check_pair import check_pair

__all__ = ["align", "align_series", "check_pair"]
