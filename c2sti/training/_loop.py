"""The loop that lowers a loss, whatever network it belongs to: seeded, resumable, in one process or several."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, inf, isfinite, pi
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from c2sti import _validators
from c2sti._atomic import put
from c2sti.models._checkpoint import digest

STATE = "training.safetensors"
HASH = "sha256"  # in the file's metadata, of all else
HISTORY = "history"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; fields as of :class:`c2sti.TrainConfig`."""

    steps: int = 300
    batch: int = 2
    learning_rate: float = 4e-3
    final_learning_rate: float = 4e-5
    weight_decay: float = 1e-3
    clip: float = 1.0
    seed: int = 0
    save_every: int = 50
    epochs: int | None = None
    validate_every: int = 50
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every", "validate_every"):
            _validators.whole(getattr(self, name), name)
        for name in ("epochs", "patience"):
            if getattr(self, name) is not None:
                _validators.whole(getattr(self, name), name)
        _validators.seed(self.seed)
        for name in ("learning_rate", "final_learning_rate", "clip"):
            _validators.number(getattr(self, name), name, above=0)
        _validators.number(self.weight_decay, "weight_decay", least=0)

    def for_examples(self, n: int) -> Self:
        """The same with the steps that its epochs take with n examples."""
        return self if self.epochs is None else replace(self, steps=ceil(self.epochs * n / self.batch))

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        share = 0.5 * (1 + cos(pi * step / self.steps))
        return self.final_learning_rate + share * (self.learning_rate - self.final_learning_rate)


class OtherRun(ValueError):
    """A folder holds the state of another run than the one that would continue from it."""


class TrainingState:
    """How far a run has come, and its state in a folder: weights and moments by safetensors, all else by JSON.

    Parameters
    ----------
    folder
        Where the state is kept; None keeps nothing.
    settings
        Of the run, a mark of what it learns from among them; a state with others is refused.

    Attributes
    ----------
    loss, validation
        Loss of each step; steps done, and the mean loss on the validation examples then.
    best
        Weights with the least of these.
    """

    def __init__(self, folder: str | Path | None, settings: dict[str, Any]) -> None:
        self.path, self.settings = None if folder is None else Path(folder) / STATE, settings
        self.loss: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.best: dict[str, Tensor] | None = None

    @property
    def history(self) -> dict[str, Any]:
        """Losses, for a card."""
        return {"loss": self.loss, "validation": [list(one) for one in self.validation]}

    @property
    def waited(self) -> int:
        """Validations since the one with the least loss."""
        values = [value for _, value in self.validation]
        return len(values) - 1 - values.index(min(values)) if values else 0

    def validated(self, network: nn.Module, step: int, loss: float) -> None:
        """Take up the mean loss on the validation examples after `step` steps, and the weights if it is the least."""
        if loss < min((value for _, value in self.validation), default=inf):
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        self.validation.append((step, loss))

    def save(self, network: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Write the state after `step` steps; the file is whole or not there."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"weights.{name}": value for name, value in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            for key, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value)
        tensors |= {f"best.{name}": value for name, value in (self.best or {}).items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        # Step and settings travel inside the one file, so that they cannot belong to other weights.
        progress = json.dumps({"step": step, HISTORY: self.history, **self.settings})
        put(self.path, save(tensors, metadata={"progress": progress, HASH: digest(tensors, progress)}))

    def restore(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Take up the state that is there, and return after how many steps it was written; 0 where there is none."""
        if self.path is None or not self.path.is_file():
            return 0
        step, found, tensors = self._read(self.path)
        kept = found.pop(HISTORY, {"loss": [], "validation": []})  # earlier versions kept none
        wanted = json.loads(json.dumps(self.settings))
        # Settings that an older state does not name are believed: marks of data were not kept then.
        differs = next((key for key in found if found[key] != wanted.get(key)), None)
        if differs is not None:
            raise OtherRun(
                f"{self.path} is the state of a run with other settings ({differs} differs); train into another "
                "folder, or remove it to begin anew"
            )

        def of(kind: str) -> dict[str, Tensor]:
            return {key.removeprefix(kind): value for key, value in tensors.items() if key.startswith(kind)}

        network.load_state_dict(of("weights."))
        for name, parameter in network.named_parameters():
            found_of = {key: tensors.get(f"{key}.{name}") for key in MOMENTS}
            moments = {key: value.to(parameter.device) for key, value in found_of.items() if value is not None}
            if moments:
                optimiser.state[parameter] = moments
        self.loss, self.validation = kept["loss"], [(n, value) for n, value in kept["validation"]]
        self.best = of("best.") or None
        return step

    @staticmethod
    def _read(path: Path) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
        """Step, settings and tensors, none of them believed before all have been checked."""
        try:
            content = path.read_bytes()
            tensors = load(content)
            length = int.from_bytes(content[:8], "little")
            metadata = json.loads(content[8 : 8 + length])["__metadata__"]
            progress = json.loads(metadata["progress"])
            step = int(progress.pop("step"))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}); remove it to begin anew") from error
        if metadata.get(HASH, "") not in ("", digest(tensors, metadata["progress"])):  # earlier versions kept none
            raise ValueError(f"{path} was altered since it was written: its hash differs; remove it to begin anew")
        return step, progress, tensors


class _Objective(nn.Module):
    """A loss of a network as a module: what is wrapped for several processes."""

    def __init__(self, network: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, *given: Any) -> Tensor:
        return self.loss(self.network, *given)


def descend(
    network: nn.Module,
    examples_on: Callable[[str], Sequence[tuple[str, T]]],
    draw: Callable[[T, np.random.Generator], tuple[Any, ...]],
    loss_of: Callable[..., Tensor],
    *,
    how: Schedule,
    folder: str | Path | None,
    settings: dict[str, Any],
    device: str,
    progress: Callable[[int, float], object],
    show_progress_bar: bool,
    validation_on: Callable[[str], Sequence[tuple[Any, ...]]] = lambda place: [],
) -> dict[str, Any]:
    """Train the network in place, from the state that the folder holds or from the start; then it is on the CPU.

    `examples_on` gives, on a device, what is learnt from, each with its name; `draw` what a step takes of an example,
    at random; `loss_of` the loss of the network on that. Random numbers depend on the seed, the step and the process
    alone, not on the steps before. `settings` are those of the run, see :class:`TrainingState`. `validation_on` gives
    what the loss of validation is the mean over; with it, the weights are those that it was lowest for. The
    losses are returned, for a card.
    """
    try:
        import accelerate  # noqa: PLC0415 - heavy, and only training needs it
    except ImportError as error:
        raise ImportError('training needs accelerate: pip install "c2sti[train]"') from error
    # Without H&E a step leaves the image's encoder untouched, which processes have to expect of each other.
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    # What accelerate takes as its device at the first training of a process stays that: only processes of a launch, of
    # which each has a device of its own, are told by it where to work.
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = accelerate.Accelerator(
        cpu=launched and device == "cpu", device_placement=False, kwargs_handlers=[unused]
    )
    place = str(accelerator.device) if launched else device
    examples = examples_on(place)
    network.to(place)
    state = TrainingState(folder, settings)
    optimiser = torch.optim.AdamW(network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    first = state.restore(network, optimiser)
    unseen = validation_on(place)
    objective, optimiser = accelerator.prepare(_Objective(network, loss_of), optimiser)
    shown = show_progress_bar and accelerator.is_main_process
    bar = tqdm(range(first, how.steps), initial=first, total=how.steps, desc="training", disable=not shown)
    for step in bar:
        if how.patience is not None and state.waited >= how.patience:
            break
        for group in optimiser.param_groups:
            group["lr"] = how.rate(step)
        rng = np.random.default_rng([how.seed, step, accelerator.process_index])
        drawn = [examples[i] for i in rng.choice(len(examples), how.batch, replace=how.batch > len(examples))]
        loss = torch.stack([objective(*draw(example, rng)) for _, example in drawn]).mean()
        value = float(loss.detach())
        if not isfinite(value):
            kept = "" if state.path is None else f"; the last good state is in {state.path.parent}"
            names = ", ".join(name for name, _ in drawn)
            raise FloatingPointError(f"the loss is {value} at step {step}, on {names}{kept}")
        optimiser.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), how.clip)
        optimiser.step()
        state.loss.append(value)
        if unseen and ((step + 1) % how.validate_every == 0 or step + 1 == how.steps):
            with torch.no_grad():
                mean = torch.stack([loss_of(network, *given) for given in unseen]).mean()
            state.validated(network, step + 1, float(mean))
        progress(step, value)
        bar.set_postfix(loss=f"{value:.4f}")
        if accelerator.is_main_process and (step + 1) % how.save_every == 0:
            state.save(network, optimiser, step + 1)
    if state.best is not None:
        network.load_state_dict(state.best)
    network.cpu().eval()
    return state.history
