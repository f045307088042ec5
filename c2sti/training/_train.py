"""The loss of an example of the network, and its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from c2sti import _validators
from c2sti.models.c2sti import C2STi, C2STiConfig, Network, fresh
from c2sti.nn.losses import coexpression, correlation, endpoint_error, paper_loss, relative_error, smoothness
from c2sti.ops import sample
from c2sti.training._examples import Example, mark_of, turn
from c2sti.training._loop import Schedule, TrainingState, descend, make_accelerator


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
    genes, panel
        Genes compared in a step, and genes of the panel that the network looks at, drawn at random.
    objective
        ``"scores"``: correlation, relative error and co-expression, as sections are judged. ``"paper"``: mean absolute
        difference and smoothness, 1 : 1 (section 2.4).
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
        if self.objective not in ("scores", "paper"):
            raise ValueError(f"objective = {self.objective!r}; those that exist are 'scores' and 'paper'")
        for name in ("genes", "panel"):
            _validators.whole(getattr(self, name), name)
        for name in ("error", "structure", "smooth", "motion"):
            _validators.number(getattr(self, name), name, least=0)

    @classmethod
    def paper(cls, **settings: Any) -> TrainConfig:
        """The paper's settings: L1 and smoothness, 1e-4 to 1e-6, weight decay 1e-4."""
        given = {"objective": "paper", "learning_rate": 1e-4, "final_learning_rate": 1e-6, "weight_decay": 1e-4}
        return cls(**{**given, **settings})


class Objective(nn.Module):
    """Loss of one example, as a module: what is wrapped for several processes.

    Parameters
    ----------
    network
        To be trained.
    config
        Weights of the loss.
    """

    def __init__(self, network: Network, config: TrainConfig) -> None:
        super().__init__()
        self.network, self.config = network, config

    def forward(self, example: Example, genes: Tensor) -> Tensor:
        """Scalar loss on the chosen genes."""
        inputs, base = example.inputs, example.base
        change, deformation = self.network(inputs, example.position)
        maps = base.maps[0] + sample(change, inputs.lattice, example.points)
        predicted = maps @ base.basis[:, genes] + base.means[0, genes]
        truth = example.truth[:, genes]
        displacement = deformation.displacement
        if self.config.objective == "paper":
            return paper_loss(predicted, truth, [displacement])
        loss = -correlation(predicted, truth) + self.config.error * relative_error(predicted, truth)
        loss = loss - self.config.structure * coexpression(predicted, truth)
        loss = loss + self.config.smooth * smoothness([displacement])
        if example.motion is not None:
            loss = loss + self.config.motion * endpoint_error(deformation.shifts, example.motion)
        return loss


def train(
    examples: Sequence[Example],
    *,
    config: C2STiConfig | None = None,
    how: TrainConfig | None = None,
    start: C2STi | None = None,
    folder: str | Path | None = None,
    device: str = "cpu",
    progress: Callable[[int, float], object] = lambda step, loss: None,
    show_progress_bar: bool = True,
) -> C2STi:
    """Train a network on examples.

    Parameters
    ----------
    examples
        Held-out sections made ready, all by the same `config`.
    config
        Settings of the network, where it does not go on from `start`.
    how
        Settings of the training.
    start
        A trained model to go on from.
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
        No examples; or the folder holds the state of a run with other settings or on other sections.
    FloatingPointError
        The loss is not a number; the message names the examples, and the last good state stays in the folder.
    """
    if not examples:
        raise ValueError("there is no example to train on; a series needs three sections or more")
    how = how or TrainConfig()
    settings = start.config if start is not None else (config or C2STiConfig())
    network = fresh(settings, how.seed)
    if start is not None:
        network.load_state_dict(start.network.state_dict())
    told = {
        "how": asdict(how),
        "network": asdict(settings),
        "start": "" if start is None else start.fingerprint(),
        "data": mark_of(examples),
    }
    accelerator = make_accelerator(device)
    placed = [_placed(example, accelerator.device) for example in examples]
    descend(
        network,
        Objective(network, how),
        lambda objective, step: _step_loss(objective, placed, how, step, accelerator.process_index),
        how=how,
        keep=None if folder is None else TrainingState(Path(folder), told),
        accelerator=accelerator,
        progress=progress,
        show_progress_bar=show_progress_bar,
    )
    return C2STi(settings, network=network.cpu().eval(), card={"training": asdict(how), "examples": len(examples)})


def _placed(example: Example, device: torch.device) -> Example:
    where = str(device)
    return replace(
        example, inputs=example.inputs.to(where), base=example.base.to(where), truth=example.truth.to(device)
    )


def _step_loss(
    objective: nn.Module, examples: Sequence[Example], how: TrainConfig, step: int, process: int
) -> tuple[list[str], Tensor]:
    rng = np.random.default_rng([how.seed, step, process])
    chosen = [examples[i] for i in rng.choice(len(examples), how.batch, replace=how.batch > len(examples))]
    losses = []
    for example in chosen:
        n_genes = example.truth.shape[1]
        genes = np.sort(rng.permutation(n_genes)[: how.genes])
        turned = turn(_fewer(example, how.panel, rng), int(rng.integers(4)), bool(rng.integers(2)))
        losses.append(objective(turned, torch.as_tensor(genes, device=example.truth.device)))
    return [example.name for example in chosen], torch.stack(losses).mean()


def _fewer(example: Example, n_panel: int, rng: np.random.Generator) -> Example:
    """The example with some of the panel's genes."""
    inputs = example.inputs
    genes = np.sort(rng.permutation(len(inputs.propagation))[:n_panel])
    return replace(example, inputs=inputs.genes(torch.as_tensor(genes, device=inputs.propagation.device)))
