"""State of a run on disk, from which one that was killed goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from c2sti._aside import put

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
