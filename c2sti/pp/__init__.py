"""Bring the sections of a series into one frame, before anything is interpolated between them."""

from c2sti.pp._align import align, align_series

__all__ = ["align", "align_series"]
