"""Plots: a gene through depth, how uncertain it is, what moved, which genes vary together, how well it worked."""

from c2sti.pl._coexpression import coexpression
from c2sti.pl._displacement import displacement
from c2sti.pl._evaluation import evaluation, training_history
from c2sti.pl._sections import sections, spread

__all__ = ["coexpression", "displacement", "evaluation", "sections", "spread", "training_history"]
