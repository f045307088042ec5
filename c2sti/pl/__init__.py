"""Plots: a gene through depth, what moved, which genes vary together, and how well hidden sections were made again."""

from c2sti.pl._coexpression import coexpression
from c2sti.pl._displacement import displacement
from c2sti.pl._evaluation import evaluation
from c2sti.pl._sections import sections

__all__ = ["coexpression", "displacement", "evaluation", "sections"]
