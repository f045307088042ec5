"""How well held-out sections are interpolated: on a series of one's own, and the tables of the paper on measured ones.

:func:`leave_sections_out` hides sections of a series and scores every method on them; ``python -m c2sti.benchmark``
does so for all series in a folder, after training what needs training, and writes tables and figures.
"""

from c2sti.benchmark._leave_out import Window, depths, held_out_cases, leave_sections_out, windows
from c2sti.benchmark._networks import QUICK, provenance
from c2sti.benchmark._series import (
    MADE,
    SERIES,
    Series,
    find_series,
    fingerprints,
    read_series,
    series_cases,
    series_of,
    simulated_cases,
    training_cases,
)

__all__ = [
    "MADE",
    "QUICK",
    "SERIES",
    "Series",
    "Window",
    "depths",
    "find_series",
    "fingerprints",
    "held_out_cases",
    "leave_sections_out",
    "simulated_cases",
    "provenance",
    "read_series",
    "series_cases",
    "series_of",
    "training_cases",
    "windows",
]
