"""State of a run on disk, from which one that was killed goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

STATE = "training.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """State of a run on disk: weights and moments by safetensors, step and settings by JSON.

    Parameters
    ----------
    folder
        Where it is kept.
    settings
        Of the run; a state with others is refused.
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
        metadata = {"progress": json.dumps({"step": step, **self.settings})}
        (self.folder / f"{STATE}.part").write_bytes(save(tensors, metadata=metadata))
        (self.folder / f"{STATE}.part").replace(self.folder / STATE)

    def restore(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Take up the state that is there, and say after how many steps it was written; 0 where there is none."""
        path = self.folder / STATE
        if not path.is_file():
            return 0
        progress = _metadata(path)
        step = int(progress.pop("step"))
        if progress != json.loads(json.dumps(self.settings)):
            raise ValueError(f"{path} is the state of a run with other settings; train into another folder")
        tensors = load_file(path)
        network.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
        for name, parameter in network.named_parameters():
            moments = {
                key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors
            }
            if moments:
                optimiser.state[parameter] = moments
        return step


def _metadata(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return json.loads(header["__metadata__"]["progress"])
