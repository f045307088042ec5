"""Simulated tissue with a known truth, and measured series of serial sections."""

from c2sti.datasets._openst import openst
from c2sti.datasets._patches import patches
from c2sti.datasets._real import developing_heart, dlpfc, her2st, sections, stahl, starmap
from c2sti.datasets._simulated import Phantom, phantom

__all__ = [
    "Phantom",
    "developing_heart",
    "dlpfc",
    "her2st",
    "openst",
    "patches",
    "phantom",
    "sections",
    "stahl",
    "starmap",
]
