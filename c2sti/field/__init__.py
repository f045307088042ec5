"""Component maps of a tissue block as Gaussian fields, seen at noisy spots: what `gp` and the network start from.

Map k of the sections' expression is a field over the block,

    f_k ~ GP(0, σ_k² · S(|x - x'| / ℓ) · B(z, z')),      B = 1 within a section, c · ρ^((z - z')²) between two,

with S a Gaussian, exp(-u²/2), or Matérn's of order 3/2, (1 + √3 u) exp(-√3 u), whose fields have one derivative and not
infinitely many; seen through noise of variance σ_k² r_k v_i. ℓ, c and ρ are shared by the maps, r_k is the map's own,
v_i the spot's, σ_k² drops out; all but v are chosen by the evidence. So there is no smoothing width to set: maps that
the tissue does not support get a large r_k and vanish, fine-grained ones stay sharp, and 1 - c is what a section shares
with no other. A map may also have a length scale of its own: it is then the mean over a few, weighted by its evidence.

Below these length scales there is detail, which sections a few micrometres apart share: a field of its own, on top.

One eigendecomposition of the covariance serves all maps and noise levels. Many spots are solved tile by tile: a tile is
halved where that is less work, and sees the spots around it, whose weight fades to zero over some length scales.
Tiles are solved side by side by threads, or on the caller's Dask cluster.
"""

from c2sti.field._detail import Detail
from c2sti.field._field import MOST, Field, Part, windows_of
from c2sti.field._kernel import (
    NEARLY_SAME,
    NOISES,
    Kernel,
    Observed,
    Spectrum,
    best_length,
    best_sharing,
    dot,
    log_evidence,
)

__all__ = [
    "MOST",
    "NEARLY_SAME",
    "NOISES",
    "Detail",
    "Field",
    "Kernel",
    "Observed",
    "Part",
    "Spectrum",
    "best_length",
    "best_sharing",
    "dot",
    "log_evidence",
    "windows_of",
]
