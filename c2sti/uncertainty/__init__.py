"""How far an interpolated value lies from the expectation of a spot at its place: a standard deviation.

The answer at position p is a mixture: with probability 1 − p it is what the section on the side of a says, with p what
the one on the side of b says. The variance of a mixture is that of its parts and that between them,

    std² = noise + detail + p (1 − p) (from b − from a)²,

where `noise` is what the spots' noise becomes on its way through the method (:class:`c2sti._types.Noise`), and "from a"
is the method's own answer right beside section a, at the same place.

`detail` is what the expectation of a spot has beyond that of the spots around it, which no neighbouring section tells.
Counts of measured spots are split into two independent parts; with r' and r" what a spot has in either part beyond the
Gaussian mean of the spots around it, which leaves the spot itself out, r' r" is free of count noise in expectation. Its
mean over spots tells genes apart, and its mean over genes tells places apart: `detail` is their product, see
:class:`Detail`. Where counts are not known it is 0.

Where a section has no tissue, what a method says "from" it comes from spots farther off, and says little of how far the
two would disagree there. With b unknown, and d² the mean square of what they disagree on where both are seen, the
mixture is that of a and of something d away from it, of variance p d². In bins that only a covers the second term is
therefore at least p d², in bins that only b covers (1 − p) d², in those that neither covers d², gene by gene.

Where a section could not be measured, because its capture window ends there, every section is what the method says of
a section right beside the other one, noise included, and has the standard deviation of bins that only one covers.

That is the uncertainty of an expectation. A measured value scatters around its own by far more: every measured spot of
either section is predicted from the other one, and how the measured values lie around those predictions, gene by gene,
gives intervals for what would be measured elsewhere (split-conformal prediction; nothing is learnt from other tissue).
"""

from c2sti.uncertainty._std import BESIDE, PART, Calibration, Intervals, Spread, ask

__all__ = ["BESIDE", "PART", "Calibration", "Intervals", "Spread", "ask"]
