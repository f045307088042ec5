"""Training the compared networks on the same held-out sections as ours, each by its own loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from c2sti.models.compared import NETWORKS as NETWORKS
from c2sti.models.compared import FrameInterpolator, FrameNetwork, fresh, make_frames
from c2sti.training._examples import Case, mark_of, turned_maps
from c2sti.training._loop import Schedule, TrainingState, descend, make_accelerator

MIDDLE = 0.1  # how far from 0.5 a network that knows the middle only is shown sections
RATE, FINAL_RATE = 1e-3, 1e-5


@dataclass(frozen=True)
class Triplet:
    """Three frames of one tissue.

    Parameters
    ----------
    ends
        (2, K + 2, H, W) frames of the pair.
    position
        Of the one between, in (0, 1).
    target, known
        (K, H, W) maps of the held-out section, and (H, W) 1 where it has tissue.
    name
        What errors call it.
    """

    ends: Tensor
    position: float
    target: Tensor
    known: Tensor
    name: str

    def moved(self, change: Callable[[Tensor], Tensor]) -> Triplet:
        """The same with every map, (…, H, W), changed."""
        return replace(self, ends=change(self.ends), target=change(self.target), known=change(self.known))

    def backward(self) -> Triplet:
        """The same from the other end."""
        return replace(self, ends=self.ends.flip(0), position=1 - self.position)


def make_triplets(cases: Sequence[Case], n_maps: int, *, device: str = "cpu") -> list[Triplet]:
    """Frames of every case; cases of one pair that follow each other share its axes."""
    triplets, last, frames = [], None, None
    for case in cases:
        if frames is None or case.pair is not last:
            last, frames = case.pair, make_frames(case.pair, n_maps, device=device)
        maps, known = frames.maps_of(case.points, case.truth), frames.tissue_of(case.points)
        target, mask = (torch.as_tensor(m.astype(np.float32), device=device) for m in (maps, known))
        triplets.append(Triplet(frames.ends, case.position, target, mask, case.name))
    return triplets


def compared_schedule(**settings: Any) -> Schedule:
    """How the compared networks are trained by default: a schedule at rates of 1e-3 to 1e-5.

    Parameters
    ----------
    settings
        Fields of :class:`Schedule` that are otherwise.
    """
    return Schedule(**{"learning_rate": RATE, "final_learning_rate": FINAL_RATE, **settings})


class _Objective(nn.Module):
    """Loss of a triplet, as a module: what is wrapped for several processes."""

    def __init__(self, network: FrameNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, triplet: Triplet) -> Tensor:
        return self.network.loss(triplet.ends, triplet.position, triplet.target, triplet.known)


def train_compared(
    name: str,
    cases: Sequence[Case],
    *,
    config: Any = None,
    how: Schedule | None = None,
    folder: str | Path | None = None,
    device: str = "cpu",
    progress: Callable[[int, float], object] = lambda step, loss: None,
    show_progress_bar: bool = True,
) -> FrameInterpolator:
    """Train one of the networks that the paper compares with.

    Every step draws triplets, turns, mirrors and swaps them at random, and lowers the network's own loss.

    Parameters
    ----------
    name
        A key of ``c2sti.models.compared.NETWORKS``.
    cases
        Held-out sections; their context is not looked at.
    config
        Settings of the network, an instance of its ``Config``.
    how
        Settings of the training; by default 300 steps at rates of 1e-3 to 1e-5.
    folder
        Where the state is kept; a run that finds a state of its own there continues from it. None keeps nothing.
    device
        Where the work is done.
    progress
        Called with step and loss after every step.
    show_progress_bar
        Whether to show one.

    Returns
    -------
    The trained model.

    Raises
    ------
    ValueError
        No such network, no case that it can learn from, or the folder holds the state of another run.
    FloatingPointError
        The loss is not a number.
    ImportError
        accelerate is not installed: ``pip install "c2sti[train]"``.
    """
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r} to train; those that exist are {', '.join(NETWORKS)}")
    how = how or compared_schedule()
    network = fresh(NETWORKS[name], config, seed=how.seed)
    usable = _usable(cases, network)
    keep = (
        None
        if folder is None
        else TrainingState(
            Path(folder),
            {"model": name, "how": asdict(how), "network": asdict(network.config), "data": mark_of(usable)},
        )
    )
    accelerator = make_accelerator(device)
    triplets = make_triplets(usable, network.config.n_maps, device=str(accelerator.device))
    descend(
        network,
        _Objective(network),
        lambda objective, step: _step_loss(objective, triplets, how, step, accelerator.process_index),
        how=how,
        keep=keep,
        accelerator=accelerator,
        progress=progress,
        show_progress_bar=show_progress_bar,
    )
    return FrameInterpolator(network.cpu().eval(), card={"training": asdict(how), "examples": len(triplets)})


def _usable(cases: Sequence[Case], network: FrameNetwork) -> list[Case]:
    """Cases at positions that the network knows."""
    kept = [case for case in cases if network.arbitrary or abs(case.position - 0.5) <= MIDDLE]
    if not kept:
        where = "" if network.arbitrary else " near the middle of its pair, the one position that this network knows"
        raise ValueError(
            f"{network.name!r} has nothing to train on: {len(cases)} held-out section(s) were given, none{where}"
        )
    return kept


def _step_loss(
    objective: nn.Module, triplets: Sequence[Triplet], how: Schedule, step: int, process: int
) -> tuple[list[str], Tensor]:
    rng = np.random.default_rng([how.seed, step, process])
    chosen = [triplets[i] for i in rng.choice(len(triplets), how.batch, replace=how.batch > len(triplets))]
    losses = []
    for triplet in chosen:
        quarters, mirrored, swapped = int(rng.integers(4)), bool(rng.integers(2)), bool(rng.integers(2))

        def turned(maps: Tensor, quarters: int = quarters, mirrored: bool = mirrored) -> Tensor:
            return turned_maps(maps, quarters, mirrored)

        seen = triplet.moved(turned)
        losses.append(objective(seen.backward() if swapped else seen))
    return [triplet.name for triplet in chosen], torch.stack(losses).mean()
