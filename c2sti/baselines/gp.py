"""A Gaussian process on every principal axis of the sections: the strongest method that needs no training.

Axis k of the sections' centred log expression is a field over the tissue block (:mod:`c2sti.field`); its posterior mean
at the z of the missing section, times the loadings of the axis, is the prediction. There is no rank to set: axes that
the tissue does not support vanish. It is the baseline prediction with its switches off.
"""

from c2sti.model.baseline import Baseline
from c2sti.model.components import Settings

gp = Baseline(Settings(n_splits=0, counts=False, matern=False, own_lengths=False), "gp")
