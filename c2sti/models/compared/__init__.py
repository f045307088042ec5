"""The methods that the paper compares with: networks made for video frames, and registration-based interpolation.

`NETWORKS` are trained first; `c2sti.training.train_compared` does it.
"""

from c2sti.models.compared._frames import FrameInterpolator, FrameNetwork, Frames, fresh
from c2sti.models.compared.dain import DAIN
from c2sti.models.compared.ifrnet import IFRNet
from c2sti.models.compared.rbi import rbi
from c2sti.models.compared.rife import RIFE
from c2sti.models.compared.unet import UNet

NETWORKS: dict[str, type[FrameNetwork]] = {network.name: network for network in (UNet, RIFE, IFRNet, DAIN)}

__all__ = ["NETWORKS", "FrameInterpolator", "FrameNetwork", "Frames", "fresh", "rbi"]
