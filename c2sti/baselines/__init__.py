"""Interpolators to compare with, and to start from.

`METHODS` names those that `tl.interpolate(model=…)` takes and `tl.evaluate` always shows, `ON_REQUEST` those that it
shows where they are asked for, because they need more than the package brings; `RIVALS` are the networks that the paper
compares with, which need training first.
"""

from pathlib import Path

from c2sti._types import Interpolator
from c2sti.baselines import _rival, gp, naive, rbi
from c2sti.baselines._maps import make_frames
from c2sti.baselines._rival import FrameNetwork, Rival, fresh
from c2sti.baselines.dain import DAIN
from c2sti.baselines.ifrnet import IFRNet
from c2sti.baselines.rife import RIFE
from c2sti.baselines.unet import UNet

METHODS: dict[str, Interpolator] = {"copy": naive.copy, "linear": naive.linear, "lowrank": naive.lowrank, "gp": gp.gp}
ON_REQUEST: dict[str, Interpolator] = {"rbi": rbi.rbi}
USES_CONTEXT = frozenset({"lowrank", "gp"})
RIVALS: dict[str, type[FrameNetwork]] = {network.name: network for network in (UNet, RIFE, IFRNet, DAIN)}


def load_rival(name: str, folder: str | Path) -> Rival:
    """Read the rival of that name from the folder that its ``save`` wrote."""
    return _rival.load(RIVALS[name], folder)
