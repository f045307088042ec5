"""The loop that lowers a loss, whatever network it belongs to: seeded, resumable, in one process or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from c2sti import _check
from c2sti.training._state import TrainingState


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

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
    """

    steps: int = 300
    batch: int = 2
    learning_rate: float = 4e-3
    final_learning_rate: float = 4e-5
    weight_decay: float = 1e-3
    clip: float = 1.0
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every"):
            _check.whole(getattr(self, name), name)
        _check.seed(self.seed)
        for name in ("learning_rate", "final_learning_rate", "clip"):
            _check.number(getattr(self, name), name, above=0)
        _check.number(self.weight_decay, "weight_decay", least=0)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        share = 0.5 * (1 + cos(pi * step / self.steps))
        return self.final_learning_rate + share * (self.learning_rate - self.final_learning_rate)


def descend(
    network: nn.Module,
    objective: nn.Module,
    step_loss: Callable[[nn.Module, int], tuple[list[str], Tensor]],
    *,
    how: Schedule,
    keep: TrainingState | None,
    accelerator: Any,
    progress: Callable[[int, float], object],
    show_progress_bar: bool,
) -> None:
    """Train the network in place, from the state that is kept or from the start.

    Parameters
    ----------
    network
        To be trained.
    objective
        Gives the loss of an example, and holds the network.
    step_loss
        Of the objective (wrapped for several processes) and the step: names of the examples drawn, and their loss. What
        is random in it depends on the step alone, not on the steps before.
    how
        Settings.
    keep
        Where the state is kept, or None.
    accelerator
        Made by :func:`make_accelerator`.
    progress
        Called with step and loss after every step.
    show_progress_bar
        Whether to show one.

    Raises
    ------
    FloatingPointError
        The loss is not a number.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    first = 0 if keep is None else keep.restore(network, optimiser)
    wrapped, optimiser = accelerator.prepare(objective, optimiser)
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
        drawn, loss = step_loss(wrapped, step)
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


def make_accelerator(device: str) -> Any:
    """What runs the steps on a device, in one process or several."""
    try:
        import accelerate  # noqa: PLC0415 - heavy, and only training needs it
    except ImportError as error:
        raise ImportError('training needs accelerate: pip install "c2sti[train]"') from error
    # Without H&E a step leaves the picture's encoder untouched, which processes have to expect of each other.
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    return accelerate.Accelerator(cpu=device == "cpu", kwargs_handlers=[unused])
