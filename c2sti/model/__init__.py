"""The C2-STi network, in the order of the paper."""

from c2sti.model.c2sti import C2STi, C2STiConfig

__all__ = ["C2STi", "C2STiConfig"]
