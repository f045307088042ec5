"""Plots: sections through depth, their uncertainty, what moved, genes that vary together, and how well it worked."""

from c2sti.pl._alignment import alignment
from c2sti.pl._coexpression import coexpression
from c2sti.pl._displacement import displacement
from c2sti.pl._evaluation import evaluation, genes, training_history
from c2sti.pl._sections import sections, spread
from c2sti.pl._stack import stack

__all__ = [
    "alignment",
    "coexpression",
    "displacement",
    "evaluation",
    "genes",
    "sections",
    "spread",
    "stack",
    "training_history",
]
