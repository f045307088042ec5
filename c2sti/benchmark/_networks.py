"""Networks of the benchmark: one for each method, fold and seed, in a folder of its own, trained once.

``OUT/networks/<method>/<fold>/<seed>/`` is an ordinary checkpoint. Its card says by which recipe it was trained, so one
that ``scripts/train_bundled.py --without A --series her2st --seed 0`` wrote is as good as one that was trained here.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from c2sti import _checkpoint
from c2sti.baselines import Rival, load_rival
from c2sti.benchmark._material import MADE, Material
from c2sti.benchmark._methods import OURS, Method
from c2sti.benchmark._series import Source
from c2sti.model import C2STi, C2STiConfig
from c2sti.training import Schedule, train, train_rival

Trained: TypeAlias = C2STi | Rival

STATE = "state"  # folder of a run that is not finished
NO_MATTER = ("save_every",)  # settings of the training that do not change what comes of it


@dataclass(frozen=True)
class Network:
    """One network to be had.

    Parameters
    ----------
    method
        Whose it is.
    fold
        Patient that it has not seen.
    seed
        Of its training.
    folder
        Where its checkpoint is, or will be.
    """

    method: Method
    fold: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.method.name} without {self.fold}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether the folder holds a whole checkpoint."""
        return all((self.folder / name).is_file() for name in (_checkpoint.SETTINGS, _checkpoint.WEIGHTS))


@dataclass(frozen=True)
class Recipe:
    """What a network is trained by, as its checkpoint has to tell it."""

    config: Mapping[str, Any]
    training: Mapping[str, Any]
    series: list[str]
    without: list[str]
    sections: Mapping[str, str]
    version: str

    @classmethod
    def of(cls, network: Network, source: Source, ours: C2STiConfig, how: Schedule) -> Recipe:
        """The recipe of a network of these sections."""
        return cls(
            asdict(network.method.config(ours)),
            _telling(asdict(how)),
            [source.taught, MADE],
            [network.fold],
            source.known(source.lessons(network.fold)),
            version("c2sti"),
        )

    def card(self) -> dict[str, Any]:
        """What of it goes into a card beside the training."""
        return {
            "series": self.series,
            "without": self.without,
            "sections": dict(self.sections),
            "version": self.version,
        }

    def differs(self, model: Trained) -> str:
        """In which point a trained network is of another recipe, in words; empty where it agrees.

        A card of before sections and version were kept is believed in these two.
        """
        card = model.card
        wanted: dict[str, Any] = {"config": dict(self.config), "training": dict(self.training), **self.card()}
        found: dict[str, Any] = {
            **{key: card[key] for key in ("series", "without", "sections", "version") if key in card},
            "config": asdict(model.network.config),
            "training": _telling(card.get("training", {})),
        }
        for key, value in wanted.items():
            if key in ("sections", "version") and key not in found:
                continue
            if found.get(key) != value:
                return f"{key}: {_difference(found.get(key), value)}"
        return ""


def _telling(training: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in training.items() if key not in NO_MATTER}


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(k for k in [*wanted, *found] if found.get(k) != wanted.get(k))
        return f"{key} {found.get(key)!r} instead of {wanted.get(key)!r}"
    return f"{found!r} instead of {wanted!r}"


def load(network: Network) -> Trained:
    """A finished network.

    Raises
    ------
    ValueError
        The folder holds the checkpoint of another model, or one that cannot be read.
    """
    found = _checkpoint.kind_of(network.folder)
    if found != network.method.model:
        raise ValueError(
            f"{network.folder} holds a checkpoint of {found!r}, where one of {network.method.model!r} belongs; move it "
            "away, or train anew with --force"
        )
    if found == OURS:
        return C2STi.load(network.folder)
    return load_rival(network.method.model, network.folder)


def check(network: Network, recipe: Recipe) -> bool:
    """Whether the network is finished, and by this recipe.

    Raises
    ------
    ValueError
        It is finished, but by another recipe, of another version, or of another model.
    """
    if not network.finished:
        return False
    try:
        differs = recipe.differs(load(network))
    except ValueError as error:
        raise ValueError(f"{error} (another --out leaves {network.folder} as it is)") from error
    if differs:
        raise ValueError(
            f"{network.folder} was trained by another recipe ({differs}); name another --out, or train it anew with "
            "--force"
        )
    return True


def fit(
    network: Network,
    recipe: Recipe,
    material: Material,
    how: Schedule,
    *,
    device: str,
    progress: Callable[[int, float], object] = lambda step, loss: None,
) -> None:
    """Train a network, from where it was stopped if it was, and write its checkpoint.

    Raises
    ------
    ValueError
        Its folder holds the state of a run with other settings.
    """
    start, state = time.perf_counter(), network.folder / STATE
    config = network.method.config(material.config)
    model: Trained
    # Both write their progress to a callback: the bar is the caller's, over all networks.
    if network.method.model == OURS:
        given = {"config": config, "how": how, "folder": state, "device": device}
        model = train(material.examples(network.fold), progress=progress, show_progress_bar=False, **given)
    else:
        model = train_rival(
            network.method.model,
            material.cases(network.fold),
            config=config,
            how=how,
            folder=state,
            device=device,
            progress=progress,
            show_progress_bar=False,
        )
    model.card |= {**recipe.card(), **provenance(time.perf_counter() - start, device)}
    model.save(network.folder)
    shutil.rmtree(state, ignore_errors=True)


def provenance(seconds: float, device: str) -> dict[str, Any]:
    """What a card says beside its recipe: how long it took, where, and what the network is not for."""
    return {
        "seconds": round(seconds),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device}",
        "not for": "differences between conditions, replicates, diagnosis; inserted sections are estimates",
    }


def forget(network: Network) -> None:
    """Remove what a folder holds of a network: its checkpoint, and the state of its training."""
    for name in (_checkpoint.SETTINGS, _checkpoint.WEIGHTS):
        (network.folder / name).unlink(missing_ok=True)
    shutil.rmtree(network.folder / STATE, ignore_errors=True)
