"""Counts as they might have been measured on an interpolated section: drawn around its smooth values, noise and all.

The counts of gene g in row i are

    C_ig ~ Poisson(L_i · q_ig · M_ig · G_ig),

a library size L, the share q of the gene, and two factors of mean one for what a smooth section does not know: M is
shared by genes (spots hold more of one kind of cell than their surroundings, and all of its genes follow), G, of a
gamma distribution, is each gene's own. All of it comes from the two measured neighbours at the rows of the section:

- **libraries** are drawn from nearby spots, as ranks within their own section; the level belonging to a rank is
  interpolated between the sections;
- **shares** are read off the interpolated values. These are an expectation of logarithms, E log1p(1e4 C / L), which
  lies far below the logarithm of the expectation where a gene is rare: :func:`expected_log` says how far, and is
  inverted. What is left is made to agree with the neighbours, row by row over all genes and gene by gene over all rows;
- **dispersions** of genes are moments of the neighbours' counts around the very shares, drawn towards a trend over the
  mean as far as they are uncertain;
- **what genes share** are principal axes of the neighbours' residuals, found in one half of each count and kept where
  the other half agrees. A row takes the scores of the nearby spot that gave it the rank of its library.

Every gene has a stream of random numbers of its own, told by its name: what is drawn for it does not depend on which
other genes are drawn, in what order, or how many at a time.
"""

from __future__ import annotations

from c2sti.counts._draw import draw, draw_libraries
from c2sti.counts._fit import TARGET_SUM, Measured, Model, Place, expected_log, fit

__all__ = ["TARGET_SUM", "Measured", "Model", "Place", "draw", "draw_libraries", "expected_log", "fit"]
