"""How well held-out sections are interpolated: on a series of one's own, and the tables of the paper on measured ones.

:func:`leave_sections_out` scores every method on the held-out sections of a series; ``python -m c2sti.benchmark`` does
so for all series in a folder, after training what needs training, and writes tables and figures.
"""

from c2sti.benchmark._leave_out import depths, held_out_cases, leave_sections_out
from c2sti.benchmark._networks import QUICK, provenance
from c2sti.benchmark._series import MADE, fingerprints, read_series, series_of, simulated_cases, training_cases

__all__ = [
    "MADE",
    "QUICK",
    "depths",
    "fingerprints",
    "held_out_cases",
    "leave_sections_out",
    "provenance",
    "read_series",
    "series_of",
    "simulated_cases",
    "training_cases",
]
