"""Interpolators to compare with, and to start from: `METHODS` names those that `tl.interpolate(model=…)` takes."""

from c2sti._types import Interpolator
from c2sti.baselines import gp, naive

METHODS: dict[str, Interpolator] = {"copy": naive.copy, "linear": naive.linear, "lowrank": naive.lowrank, "gp": gp.gp}
USES_CONTEXT = frozenset({"lowrank", "gp"})
