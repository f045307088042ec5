"""How the network, and the compared ones, are trained on held-out sections, each by its own loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from c2sti import _validators
from c2sti._tasks import threads_for
from c2sti.models import compared
from c2sti.models.c2sti import C2STi, C2STiConfig, Network, fresh, values_at
from c2sti.models.compared import NETWORKS, FrameInterpolator, Frames
from c2sti.nn.c2sti import on_bins
from c2sti.nn.losses import (
    coexpression,
    correlation,
    endpoint_error,
    paper_loss,
    relative_error,
    similarity,
    smoothness,
    squares,
)
from c2sti.ops import sample
from c2sti.training._examples import Case, Example, mark_of, turn, turned_maps
from c2sti.training._loop import Schedule, descend

OBJECTIVES = ("scores", "paper", "squares")
MIDDLE = 0.1  # how far from 0.5 a network that knows the middle only is shown sections
RATE, FINAL_RATE = 1e-3, 1e-5  # of the compared networks

# Two frames (2, K + 2, H, W), the position of the held-out section between them, its (K, H, W) maps, and (H, W) 1 where
# it has tissue.
Triplet: TypeAlias = tuple[Tensor, float, Tensor, Tensor]


@dataclass(frozen=True)
class TrainConfig(Schedule):
    """How to train the network.

    Parameters
    ----------
    steps
        Optimisation steps.
    batch
        Examples a step and process.
    learning_rate, final_learning_rate
        Of AdamW, from the first to the second along half a cosine.
    weight_decay
        Of AdamW.
    clip
        Largest norm of a gradient.
    seed
        Of the first weights and of every draw.
    save_every
        Steps between two states on disk.
    epochs
        Times that as many examples are drawn as there are; the steps follow from it. None: as many steps as given.
    validate_every
        Steps between two looks at the validation examples, where there are some; the weights with the lowest loss on
        them are kept.
    patience
        Looks without a lower loss after which training stops; None for never.
    genes, panel
        Genes compared in a step, and genes of the panel that the network looks at, drawn at random.
    objective
        ``"scores"``: correlation, relative error and co-expression, as sections are judged. ``"paper"``: mean absolute
        difference and smoothness, 1 : 1 (section 2.4). ``"squares"``: the same with squared differences.
    error, structure, smooth, motion
        Weights of relative error, co-expression, smoothness, and of the error of a known motion in bins, beside
        correlation.

    Examples
    --------
    >>> import c2sti
    >>> how = c2sti.TrainConfig(steps=100, seed=1)
    >>> c2sti.TrainConfig.paper(steps=100).objective
    'paper'
    """

    genes: int = 250
    panel: int = 48
    objective: str = "scores"
    error: float = 0.3
    structure: float = 0.05
    smooth: float = 0.02
    motion: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective = {self.objective!r}; those that exist are {', '.join(OBJECTIVES)}")
        for name in ("genes", "panel"):
            _validators.whole(getattr(self, name), name)
        for name in ("error", "structure", "smooth", "motion"):
            _validators.number(getattr(self, name), name, least=0)

    @classmethod
    def paper(cls, **settings: Any) -> TrainConfig:
        """The paper's settings: 40 epochs in batches of 6, L1 and smoothness, 1e-4 to 1e-6, weight decay 1e-4.

        Settings that are given replace these; ``steps=`` replaces the epochs.
        """
        given: dict[str, Any] = {
            "objective": "paper",
            "batch": 6,
            "learning_rate": 1e-4,
            "final_learning_rate": 1e-6,
            "weight_decay": 1e-4,
        }
        length = {} if "steps" in settings else {"epochs": 40}
        return cls(**{**given, **length, **settings})


def train(
    examples: Sequence[Example],
    *,
    validation: Sequence[Example] | None = None,
    config: C2STiConfig | None = None,
    how: TrainConfig | None = None,
    start: C2STi | None = None,
    folder: str | Path | None = None,
    device: str = "cpu",
    progress: Callable[[int, float], object] = lambda step, loss: None,
    show_progress_bar: bool = True,
) -> C2STi:
    """Train a network on examples.

    Every step draws examples, genes and a part of the panel, turns and mirrors the tissue, and lowers the loss.

    Parameters
    ----------
    examples
        Held-out sections made ready, all by the same `config`.
    validation
        Others of other sections, on which the loss is watched: the model has the weights for which it was lowest.
    config
        Settings of the network, where it does not continue from `start`.
    how
        Settings of the training.
    start
        A trained model to continue from.
    folder
        Where the state is kept; a run that finds a state of its own there continues from it. None keeps nothing.
    device, progress, show_progress_bar
        Where the work is done; what is called with step and loss after every step; whether a bar is shown.

    Returns
    -------
    The trained model. Its ``card["history"]`` has the loss of each step and of the validations, which
    :func:`c2sti.pl.training_history` draws.

    Raises
    ------
    ValueError
        No examples, or none for validation where `patience` asks for it; or the folder holds the state of a run with
        other settings or on other sections.
    FloatingPointError
        The loss is not a number; the message names the examples, and the last good state stays in the folder.
    """
    if not examples:
        raise ValueError("there is no example to train on; a series needs three sections or more")
    how = (how or TrainConfig()).for_examples(len(examples))
    if not validation and (validation is not None or how.patience is not None):
        raise ValueError(
            "no section is left for validation; give examples of other sections as validation=, or leave out "
            "validation= and patience="
        )
    settings = start.config if start is not None else (config or C2STiConfig())
    network = fresh(settings, how.seed)
    if start is not None:
        network.load_state_dict(start.network.state_dict())
    run = {
        "how": asdict(how),
        "network": asdict(settings),
        "start": "" if start is None else start.fingerprint(),
        "data": mark_of([*examples, *(validation or ())]),
    }
    with threads_for(max(example.inputs.n_values for example in examples)):
        history = descend(
            network,
            lambda place: [(example.name, example.to(place)) for example in examples],
            partial(_augmented, how),
            partial(_loss, how),
            how=how,
            folder=folder,
            settings=run,
            device=device,
            progress=progress,
            show_progress_bar=show_progress_bar,
            validation_on=lambda place: [_whole(example.to(place)) for example in validation or ()],
        )
    card = {"training": asdict(how), "examples": len(examples), "history": history}
    return C2STi(settings, network=network, card=card)


def _whole(example: Example) -> tuple[Example, Tensor]:
    """The example as it is, and all its genes."""
    return example, torch.arange(example.truth.shape[1], device=example.truth.device)


def _augmented(how: TrainConfig, example: Example, rng: np.random.Generator) -> tuple[Example, Tensor]:
    """The example turned, with a part of its panel, and the genes to compare."""
    device, inputs = example.truth.device, example.inputs
    genes = np.sort(rng.permutation(example.truth.shape[1])[: how.genes])
    panel = np.sort(rng.permutation(len(inputs.propagation))[: how.panel])
    fewer = replace(example, inputs=inputs.genes(torch.as_tensor(panel, device=device)))
    turned = turn(fewer, int(rng.integers(4)), bool(rng.integers(2)))
    return turned, torch.as_tensor(genes, device=device)


def _loss(how: TrainConfig, network: Network, example: Example, genes: Tensor) -> Tensor:
    """Scalar loss of an example on the chosen genes."""
    inputs, base = example.inputs, example.base
    found, deformation = network(inputs, example.position)
    found = sample(found, inputs.lattice, example.points)
    if network.config.deforms != "maps":
        genes = inputs.chosen
    predicted = values_at(found, base, inputs, network.config, genes)
    truth = example.truth[:, genes]
    displacement = deformation.displacement
    if how.objective != "scores":
        difference = similarity if how.objective == "paper" else squares
        return paper_loss(predicted, truth, displacement, difference=difference)
    loss = -correlation(predicted, truth) + how.error * relative_error(predicted, truth)
    loss = loss - how.structure * coexpression(predicted, truth)
    loss = loss + how.smooth * smoothness(displacement)
    if example.motion is not None:
        loss = loss + how.motion * endpoint_error(on_bins(deformation.shifts, inputs.lattice.shape), example.motion)
    return loss


def compared_schedule(**settings: Any) -> Schedule:
    """How the compared networks are trained by default: a :class:`Schedule` at rates of 1e-3 to 1e-5."""
    return Schedule(**{"learning_rate": RATE, "final_learning_rate": FINAL_RATE, **settings})


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
    folder, device, progress, show_progress_bar
        As in :func:`train`.

    Returns
    -------
    The trained model.

    Raises
    ------
    ValueError
        No such network, no case that it can learn from, or the folder holds the state of another run.
    """
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r} to train; those that exist are {', '.join(NETWORKS)}")
    how = how or compared_schedule()
    network = compared.fresh(NETWORKS[name], config, seed=how.seed)
    usable = [case for case in cases if network.arbitrary or abs(case.position - 0.5) <= MIDDLE]
    if not usable:
        where = "" if network.arbitrary else " near the middle of its pair, the one position that this network knows"
        raise ValueError(f"{name!r} has nothing to train on: {len(cases)} held-out section(s) were given, none{where}")
    how = how.for_examples(len(usable))
    run = {"model": name, "how": asdict(how), "network": asdict(network.config), "data": mark_of(usable)}
    with threads_for(network.config.n_maps * max(prod(case.pair.lattice.shape) for case in usable)):
        history = descend(
            network,
            lambda place: make_triplets(usable, network.config.n_maps, device=place),
            _augmented_triplet,
            lambda network, *triplet: network.loss(*triplet),
            how=how,
            folder=folder,
            settings=run,
            device=device,
            progress=progress,
            show_progress_bar=show_progress_bar,
        )
    card = {"training": asdict(how), "examples": len(usable), "history": history}
    return FrameInterpolator(network, card=card)


def make_triplets(cases: Sequence[Case], n_maps: int, *, device: str = "cpu") -> list[tuple[str, Triplet]]:
    """Names and frames of all cases; cases of one pair that follow each other share its axes."""
    triplets: list[tuple[str, Triplet]] = []
    frames: Frames | None = None
    for case in cases:
        if frames is None or case.pair is not frames.pair:
            frames = Frames(case.pair, n_maps, device=device)
        target, known = (
            torch.as_tensor(maps.astype(np.float32), device=device)
            for maps in (frames.maps_of(case.points, case.truth), frames.tissue_of(case.points))
        )
        triplets.append((case.name, (frames.ends, case.position, target, known)))
    return triplets


def _augmented_triplet(triplet: Triplet, rng: np.random.Generator) -> Triplet:
    """The triplet turned, mirrored and swapped at random."""
    quarters, mirrored, swapped = int(rng.integers(4)), bool(rng.integers(2)), bool(rng.integers(2))
    ends, position, target, known = triplet
    ends, target, known = (turned_maps(maps, quarters, mirrored) for maps in (ends, target, known))
    return (ends.flip(0), 1 - position, target, known) if swapped else (ends, position, target, known)
