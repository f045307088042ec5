"""The loss of an example, and the loop that lowers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from c2sti.model.c2sti import C2STi, C2STiConfig, Network, fresh, sample
from c2sti.model.loss import coexpression, correlation, endpoint_error, paper_loss, relative_error, smoothness
from c2sti.training._examples import Example
from c2sti.training._moves import turn
from c2sti.training._state import TrainingState


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Parameters
    ----------
    steps
        Optimisation steps.
    batch
        Examples a step and process.
    genes, panel
        Genes compared in a step, and genes of the panel that the network looks at, drawn at random.
    learning_rate, final_learning_rate
        Of AdamW, from the first to the second along half a cosine.
    weight_decay
        Of AdamW.
    objective
        ``"scores"``: correlation, relative error and co-expression, as sections are judged. ``"paper"``: mean absolute
        difference and smoothness, 1 : 1 (section 2.4).
    error, structure, smooth, motion
        Weights of relative error, co-expression, smoothness, and of the error of a known motion in bins, beside
        correlation.
    clip
        Largest norm of a gradient.
    seed
        Of the first weights and of every draw.
    save_every
        Steps between two states on disk.

    Examples
    --------
    >>> import c2sti
    >>> how = c2sti.TrainConfig(steps=100, seed=1)
    >>> c2sti.TrainConfig.paper(steps=100).objective
    'paper'
    """

    steps: int = 300
    batch: int = 2
    genes: int = 250
    panel: int = 48
    learning_rate: float = 4e-3
    final_learning_rate: float = 4e-5
    weight_decay: float = 1e-3
    objective: str = "scores"
    error: float = 0.3
    structure: float = 0.05
    smooth: float = 0.02
    motion: float = 0.3
    clip: float = 1.0
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        if self.objective not in ("scores", "paper"):
            raise ValueError(f"objective = {self.objective!r}; those that exist are 'scores' and 'paper'")
        for name in ("steps", "batch", "genes", "panel", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")

    @classmethod
    def paper(cls, **settings: Any) -> TrainConfig:
        """The paper's settings: L1 and smoothness, 1e-4 to 1e-6, weight decay 1e-4."""
        given = {"objective": "paper", "learning_rate": 1e-4, "final_learning_rate": 1e-6, "weight_decay": 1e-4}
        return cls(**{**given, **settings})

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        share = 0.5 * (1 + cos(pi * step / self.steps))
        return self.final_learning_rate + share * (self.learning_rate - self.final_learning_rate)


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
        scene, basis = example.scene, example.basis
        change, deformation = self.network(scene, example.position)
        maps = basis.maps[0] + sample(change, scene.lattice, example.points)
        predicted = maps @ basis.averaged(genes) + basis.means[0, genes]
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
        Hidden sections made ready, all by the same `config`.
    config
        Settings of the network, where it does not go on from `start`.
    how
        Settings of the training.
    start
        A trained model to go on from.
    folder
        Where the state is kept; a run that finds a state of its own there goes on from it. None keeps nothing.
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
        No examples; or the folder holds the state of a run with other settings.
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
    accelerator = _accelerator(device)
    objective = Objective(network, how)
    optimiser = torch.optim.AdamW(network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    keep = None if folder is None else TrainingState(Path(folder), {"how": asdict(how), "network": asdict(settings)})
    first = 0 if keep is None else keep.restore(network, optimiser)
    wrapped, optimiser = accelerator.prepare(objective, optimiser)
    placed = [_placed(example, accelerator.device) for example in examples]
    bar = tqdm(
        range(first, how.steps),
        initial=first,
        total=how.steps,
        desc="training",
        disable=not (show_progress_bar and accelerator.is_main_process),
    )
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = how.rate(step)
        drawn, loss = _step_loss(wrapped, placed, how, step, accelerator.process_index)
        value = float(loss.detach())
        if not isfinite(value):
            kept = "" if keep is None else f"; the last good state is in {keep.folder}"
            raise FloatingPointError(f"the loss is {value} at step {step}, on {', '.join(drawn)}{kept}")
        optimiser.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), how.clip)
        optimiser.step()
        progress(step, value)
        bar.set_postfix(loss=f"{value:.4f}")
        if keep is not None and accelerator.is_main_process and (step + 1) % how.save_every == 0:
            keep.save(network, optimiser, step + 1)
    return C2STi(settings, network=network.cpu().eval(), card={"training": asdict(how), "examples": len(examples)})


def _accelerator(device: str) -> Any:
    try:
        import accelerate  # noqa: PLC0415 - heavy, and only training needs it
    except ImportError as error:
        raise ImportError('training needs accelerate: pip install "c2sti[train]"') from error
    # Without H&E a step leaves the picture's encoder untouched, which processes have to expect of each other.
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    return accelerate.Accelerator(cpu=device == "cpu", kwargs_handlers=[unused])


def _placed(example: Example, device: torch.device) -> Example:
    where = str(device)
    return replace(
        example, scene=example.scene.to(where), basis=example.basis.to(where), truth=example.truth.to(device)
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
    scene = example.scene
    genes = np.sort(rng.permutation(len(scene.propagation))[:n_panel])
    return replace(example, scene=scene.genes(torch.as_tensor(genes, device=scene.propagation.device)))
