"""How well hidden sections are made again: on a series of one's own, and the tables of the paper on measured ones.

:func:`leave_sections_out` hides sections of a series and scores every method on them; ``python -m c2sti.benchmark``
does so for all series in a folder, after training what needs training, and writes tables and figures.
"""

from c2sti.benchmark._leave_out import Window, depths, hidden_cases, leave_sections_out, windows
from c2sti.benchmark._material import MADE, made_cases, series_cases, training_cases
from c2sti.benchmark._methods import QUICK
from c2sti.benchmark._networks import provenance
from c2sti.benchmark._series import SERIES, Series, find_series, fingerprints, read_series, series_of

__all__ = [
    "MADE",
    "QUICK",
    "SERIES",
    "Series",
    "Window",
    "depths",
    "find_series",
    "fingerprints",
    "hidden_cases",
    "leave_sections_out",
    "made_cases",
    "provenance",
    "read_series",
    "series_cases",
    "series_of",
    "training_cases",
    "windows",
]
