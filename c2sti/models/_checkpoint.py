"""A trained model as a folder: weights by safetensors, settings by JSON, and errors that say what is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from c2sti import _validators
from c2sti._atomic import put

WEIGHTS, SETTINGS = "model.safetensors", "config.json"
HASH = "sha256"  # in the settings, of all else that they say

Network = TypeVar("Network", bound=nn.Module)


def fingerprint(network: nn.Module) -> str:
    """Hash of the weights."""
    return digest(network.state_dict())


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Hash of tensors by name, in whatever order, and of a text beside them."""
    found = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(value.cpu().numpy()).tobytes())
    return found.hexdigest()


def write(
    folder: str | Path,
    network: nn.Module,
    config: Any,
    card: dict[str, Any],
    *,
    model: str,
    version: int,
    overwrite: bool,
) -> None:
    """Write both files into a folder, which is made where it is not; over another checkpoint with `overwrite`.

    `version` is that of the form of the weights of the `model`; it is raised when old ones can no longer be read.
    """
    folder = _validators.new_folder(folder, "folder")
    if not overwrite and (folder / SETTINGS).exists():
        raise FileExistsError(f"{folder} holds a checkpoint; name another folder, or say overwrite=True")
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    settings = {
        "format": version,
        "model": model,
        "config": asdict(config),
        "weights": fingerprint(network),
        "card": card,
    }
    settings[HASH] = _hash(settings)
    # Settings come last: they tell a reader that the weights are whole, and by their hash that they are these.
    put(folder / WEIGHTS, save(state))
    put(folder / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())


def read(
    folder: str | Path, config: type[Any], build: Callable[[Any], Network], *, model: str, version: int
) -> tuple[Network, Any, dict[str, Any]]:
    """The network that is in a folder, its settings, and its card.

    Parameters
    ----------
    folder
        Where both files are.
    config, build
        Class of the settings, and what makes a network of these.
    model, version
        Which are read, see :func:`write`.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint in the folder.
    ValueError
        It is of another version or another model, truncated, or was altered; the message says which.
    """
    folder = _validators.path(folder, "folder")
    found = kind_of(folder)
    path, settings = folder / SETTINGS, _json(folder)
    if found != model:
        raise ValueError(f"{path} is not the settings of a {model} model but of {found!r}")
    if settings.get("format") != version:
        raise ValueError(
            f"{folder} has format {settings.get('format')}, this version reads {version}; train again, or "
            "install the version of c2sti that wrote it"
        )
    given, card = settings.get("config"), settings.get("card", {})
    if not isinstance(given, dict) or not isinstance(card, dict) or not isinstance(settings.get("weights"), str):
        raise ValueError(f"{path} lacks config, card or the hash of the weights; copy the checkpoint again")
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    unknown = sorted(set(given) - {f.name for f in fields(config)})
    if unknown:
        raise ValueError(f"{path} has settings that this version does not know: {unknown}")
    if settings.get(HASH, "") not in ("", _hash(settings)):  # checkpoints of before have none
        raise ValueError(f"{path} was altered since it was written: its hash differs; copy the checkpoint again")
    own = config(**given)
    network, weights = build(own), folder / WEIGHTS
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{weights} cannot be read ({error}); copy the checkpoint again") from error
    if fingerprint(network) != settings["weights"]:
        raise ValueError(f"{weights} does not belong to its {SETTINGS}: the hashes differ; copy both again")
    return network, own, card


def kind_of(folder: str | Path) -> str | None:
    """Name of the model whose checkpoint is in a folder; None where the settings do not say."""
    folder = Path(folder)
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}; a checkpoint is a folder that a model's save wrote")
    return _json(folder).get("model")


def _hash(settings: dict[str, Any]) -> str:
    told = {key: value for key, value in settings.items() if key != HASH}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _json(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / SETTINGS).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / SETTINGS} is not JSON ({error}); copy the checkpoint again") from error
    return settings if isinstance(settings, dict) else {}
