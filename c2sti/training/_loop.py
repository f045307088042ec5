"""The loop that lowers a loss, whatever network it belongs to: seeded, resumable, in one process or several."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from c2sti import _validators
from c2sti._atomic import put

STATE = "training.safetensors"
HASH = "sha256"  # in the file's metadata, of all else


class OtherRun(ValueError):
    """A folder holds the state of another run than the one that would go on from it."""


@dataclass(frozen=True)
class TrainingState:
    """State of a run on disk: weights and moments by safetensors, step and settings by JSON.

    Parameters
    ----------
    folder
        Where it is kept.
    settings
        Of the run, a mark of what it learns from among them; a state with others is refused.
    """

    folder: Path
    settings: dict[str, Any]

    def save(self, network: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Write the state after `step` steps; the file is whole or not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"weights.{name}": value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            for key, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        # Step and settings travel inside the one file, so that they cannot belong to other weights.
        progress = json.dumps({"step": step, **self.settings})
        metadata = {"progress": progress, HASH: _digest(progress, tensors)}
        put(self.folder / STATE, save(tensors, metadata=metadata))

    def restore(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Take up the state that is there, and say after how many steps it was written; 0 where there is none.

        Raises
        ------
        OtherRun
            It belongs to a run of other settings, or that learns from other sections.
        ValueError
            It is truncated or altered.
        """
        path = self.folder / STATE
        if not path.is_file():
            return 0
        step, found, tensors = _read(path)
        wanted = json.loads(json.dumps(self.settings))
        # What a state of before does not say is believed: marks of data were not kept then.
        differs = next((key for key in found if found[key] != wanted.get(key)), None)
        if differs is not None:
            raise OtherRun(
                f"{path} is the state of a run with other settings ({differs} differs); train into another folder, or "
                "remove it to begin anew"
            )
        network.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
        for name, parameter in network.named_parameters():
            moments = {
                key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors
            }
            if moments:
                optimiser.state[parameter] = moments
        return step


def _read(path: Path) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """Step, settings and tensors of a state, none of them believed before all have been checked."""
    try:
        content = path.read_bytes()
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        progress = json.loads(metadata["progress"])
        step = int(progress.pop("step"))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it to begin anew") from error
    if metadata.get(HASH, "") not in ("", _digest(metadata["progress"], tensors)):  # earlier versions kept none
        raise ValueError(f"{path} was altered since it was written: its hash differs; remove it to begin anew")
    return step, progress, tensors


def _digest(progress: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(progress.encode())
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    return digest.hexdigest()


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
            _validators.whole(getattr(self, name), name)
        _validators.seed(self.seed)
        for name in ("learning_rate", "final_learning_rate", "clip"):
            _validators.number(getattr(self, name), name, above=0)
        _validators.number(self.weight_decay, "weight_decay", least=0)

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
    # Without H&E a step leaves the image's encoder untouched, which processes have to expect of each other.
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    return accelerate.Accelerator(cpu=device == "cpu", kwargs_handlers=[unused])
