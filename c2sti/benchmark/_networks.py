"""The methods of the tables, and their networks: one for each method, fold and seed, trained once."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from c2sti._types import Interpolator
from c2sti.benchmark._series import MADE, Material, Source
from c2sti.models import _checkpoint
from c2sti.models._registry import METHODS as NAIVE
from c2sti.models._registry import NETWORKS, ON_REQUEST, load_compared
from c2sti.models.c2sti import KIND, C2STi, C2STiConfig
from c2sti.models.compared import FrameInterpolator
from c2sti.training import Schedule, TrainConfig, compared_schedule, train, train_compared

OURS = KIND.name
STEPS = 300  # of every network, unless told otherwise
SAVE_EVERY = 10  # steps: what a stopped run loses at most
QUICK = C2STiConfig(channels=4, panel=24, n_components=12, n_splits=1)


@dataclass(frozen=True)
class Method:
    """A row.

    Parameters
    ----------
    name
        In folders, and on the command line.
    label
        In tables.
    make
        Makes what needs no training; None for what has to be trained.
    model
        Whose checkpoint a trained one is: ``"c2sti"`` or a key of ``c2sti.models.compared.NETWORKS``.
    switches
        Fields of :class:`c2sti.C2STiConfig` that are off.
    arbitrary
        Whether it interpolates at any position; else it knows the middle.
    """

    name: str
    label: str
    make: Callable[[C2STiConfig], Interpolator] | None = None
    model: str = ""
    switches: tuple[str, ...] = field(default=())
    arbitrary: bool = True

    @property
    def trained(self) -> bool:
        """Whether it has to be trained."""
        return self.make is None

    def config(self, ours: C2STiConfig) -> Any:
        """Settings of its network, where `ours` are those of C2-STi."""
        if self.model == OURS:
            return replace(ours, **dict.fromkeys(self.switches, False))
        return NETWORKS[self.model].Config()

    def schedule(self, steps: int, seed: int) -> Schedule:
        """How its network is trained."""
        kind = TrainConfig if self.model == OURS else compared_schedule
        return kind(steps=steps, seed=seed, save_every=SAVE_EVERY)


def _given(method: Interpolator) -> Callable[[C2STiConfig], Interpolator]:
    return lambda ours: method


def _still(ours: C2STiConfig) -> Interpolator:
    """The network that may move nothing. It has nothing to learn: what it answers is its base."""
    return C2STi(replace(ours, displacement=False))


_LABELS = {"rbi": "RBI", "unet": "U-Net", "rife": "RIFE", "ifrnet": "IFRNet", "dain": "DAIN-style"}
_SWITCHES = {
    "no_cross_modal": ("w/o cross-modal", "cross_modal"),
    "no_graph": ("w/o MGC-Graph", "graph"),
    "no_dlsm": ("w/o DLSM", "dlsm"),
}

ROWS: dict[str, Method] = {
    row.name: row
    for row in (
        *(Method(name, name, make=_given(method)) for name, method in NAIVE.items()),
        *(Method(name, _LABELS[name], make=_given(method)) for name, method in ON_REQUEST.items()),
        *(Method(name, _LABELS[name], model=name, arbitrary=NETWORKS[name].arbitrary) for name in NETWORKS),
        Method(OURS, "C2-STi", model=OURS),
        *(Method(name, label, model=OURS, switches=(off,)) for name, (label, off) in _SWITCHES.items()),
        Method("no_displacement", "displacement off", make=_still),
    )
}
_ABLATED = [OURS, *_SWITCHES, "no_displacement"]
TABLES = {
    "1": [*NAIVE, *_LABELS, OURS],
    "2": [*NAIVE, *_LABELS, OURS],
    "ablation": [*NAIVE, *_ABLATED],
}
SLICES = {"1": [1], "2": [2, 3, 4], "ablation": [1, 2, 3, 4]}  # sections held out in a row


def rows_named(names: Iterable[str]) -> list[Method]:
    """Methods by their names.

    Raises
    ------
    ValueError
        There is no such method; the message lists those that exist.
    """
    for name in names:
        if name not in ROWS:
            raise ValueError(f"there is no method {name!r}; those that exist are {', '.join(ROWS)}")
    return [ROWS[name] for name in dict.fromkeys(names)]


Trained: TypeAlias = C2STi | FrameInterpolator

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
    return load_compared(network.method.model, network.folder)


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
        model = train_compared(
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
        "not for": "differences between conditions, replicates, diagnosis; interpolated sections are estimates",
    }


def forget(network: Network) -> None:
    """Remove what a folder holds of a network: its checkpoint, and the state of its training."""
    for name in (_checkpoint.SETTINGS, _checkpoint.WEIGHTS):
        (network.folder / name).unlink(missing_ok=True)
    shutil.rmtree(network.folder / STATE, ignore_errors=True)
