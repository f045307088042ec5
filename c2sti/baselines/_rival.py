"""A network made for video frames as an interpolator: trained, saved and loaded like any other model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from c2sti import _checkpoint
from c2sti._types import FloatArray, Prediction, SlicePair
from c2sti.baselines._maps import make_frames


class FrameNetwork(nn.Module):
    """What every rival's network is: two frames and a position in, the change to their blend out.

    Parameters
    ----------
    config
        An instance of `Config`.
    """

    Config: ClassVar[type]
    name: ClassVar[str]
    arbitrary: ClassVar[bool] = True  # whether it learns positions other than the middle

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, ends: Tensor, t: float) -> Tensor:
        """(K, H, W) change to the linear blend of the maps at t, of (2, K + 2, H, W) frames."""
        raise NotImplementedError

    def loss(self, ends: Tensor, t: float, target: Tensor, known: Tensor) -> Tensor:
        """Scalar loss against the (K, H, W) maps of the hidden section, where (H, W) is 1."""
        raise NotImplementedError


class Rival:
    """A trained network of the field as a model for ``c2sti.tl.interpolate(…, model=…)``. It ignores context.

    Parameters
    ----------
    network
        Trained weights. Untrained ones answer as `lowrank` does.
    card
        What is known of its training: goes into the checkpoint, and comes back with it.
    """

    uses_context = False

    def __init__(self, network: FrameNetwork, *, card: dict[str, Any] | None = None) -> None:
        self.network = network
        self.card = dict(card or {})
        self.__name__ = network.name

    def __call__(
        self,
        pair: SlicePair,
        at: FloatArray,
        positions: Sequence[float],
        *,
        device: str = "cpu",
        seed: int = 0,
        progress: Callable[[float], object] = lambda share: None,
    ) -> Prediction:
        """Insert sections; see :class:`c2sti._types.Interpolator`."""
        frames = make_frames(pair, self.network.config.n_maps, device=device)
        network, slices = self.network.to(device).eval(), []
        with torch.no_grad():
            for p in positions:
                slices.append(frames.inserted(pair, at, p, network(frames.ends, p)))
                progress(1 / len(positions))
        return Prediction(tuple(slices), {"weights": self.fingerprint()}, frames.noise(pair, at, positions))

    @property
    def n_parameters(self) -> int:
        """Numbers that are learnt."""
        return sum(p.numel() for p in self.network.parameters())

    def fingerprint(self) -> str:
        """Hash of the weights."""
        return _checkpoint.fingerprint(self.network)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder, which is made where it is not."""
        _kind(type(self.network)).write(folder, self.network, self.network.config, self.card)


def fresh(network: type[FrameNetwork], config: Any = None, *, seed: int = 0) -> FrameNetwork:
    """An untrained network, the same for the same seed; nobody's random state is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(network.Config() if config is None else config)


def load(network: type[FrameNetwork], folder: str | Path) -> Rival:
    """Read the rival of this network from the folder that :meth:`Rival.save` wrote.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint in the folder.
    ValueError
        It is truncated, of another version, or of another model; the message says which.
    """
    kind = _kind(network)
    config, card = kind.read_settings(folder)
    rival = Rival(fresh(network, config), card=card)
    kind.read_weights(folder, rival.network)
    return rival


def _kind(network: type[FrameNetwork]) -> _checkpoint.Kind:
    return _checkpoint.Kind(network.name, 1, network.Config)
