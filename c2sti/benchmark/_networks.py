"""The methods of the tables, and their networks: one for each method, fold and seed, trained once."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from c2sti._types import Interpolator
from c2sti.benchmark._series import MADE, Material, Source
from c2sti.models import _checkpoint
from c2sti.models._registry import METHODS as NAIVE
from c2sti.models._registry import NETWORKS, ON_REQUEST, bundled, load_compared
from c2sti.models.c2sti import KIND, C2STi, C2STiConfig
from c2sti.models.compared import FrameInterpolator
from c2sti.training import Schedule, TrainConfig, compared_schedule, train, train_compared

OURS = KIND.name
STEPS = 300  # of every network by default
SAVE_EVERY = 10  # steps: what a stopped run loses at most
STATE = "state"  # folder of a training that is not finished
CARD = ("series", "without", "sections", "version")  # of a recipe, what a checkpoint's card keeps beside the training
# The paper's network, and its training, at a size that a processor can train: tables say so.
PAPER = C2STiConfig.paper(channels=8, histology_channels=8, bins=64, panel=32, resnet=False, n_splits=0)
PAPER_QUICK = replace(PAPER, channels=4, histology_channels=4, bins=16, panel=12, n_components=8)
PAPER_TRAINING = {"batch": 2, "learning_rate": 2e-3, "final_learning_rate": 2e-5, "validate_every": 25, "patience": 8}
QUICK = C2STiConfig(channels=4, panel=24, n_components=12, n_splits=1)

Trained: TypeAlias = C2STi | FrameInterpolator


@dataclass(frozen=True)
class Method:
    """A row of a table: a method that is given as it is (`naive`), or one with a network."""

    name: str  # in folders, and on the command line
    label: str  # in tables
    model: str = ""  # whose checkpoint its network is: "c2sti" or a key of compared.NETWORKS
    off: str = ""  # the field of C2STiConfig that an ablation switches off
    start: str = ""  # that of C2STiConfig, where it is another one
    naive: Interpolator | None = None
    arbitrary: bool = True  # whether it interpolates at any position; else it knows the middle

    @property
    def trained(self) -> bool:
        """Whether it has to be trained. A network that may move nothing has nothing to learn."""
        return self.naive is None and self.off != "displacement"

    def config(self, ours: C2STiConfig) -> Any:
        """Settings of its network, where `ours` are those of C2-STi."""
        if self.model != OURS:
            return NETWORKS[self.model].Config()
        switched: dict[str, Any] = {self.off: False} if self.off else {}
        if self.start:
            switched["start"] = self.start
        return replace(ours, **switched)

    def schedule(self, steps: int, seed: int, *, paper: bool = False) -> Schedule:
        """How its network is trained; ours as in the paper, where it is its network."""
        settings: dict[str, Any] = {"steps": steps, "seed": seed, "save_every": SAVE_EVERY}
        if self.model != OURS:
            return compared_schedule(**settings)
        return TrainConfig.paper(**PAPER_TRAINING, **settings) if paper else TrainConfig(**settings)


_LABELS = {"rbi": "RBI", "unet": "U-Net", "rife": "RIFE", "ifrnet": "IFRNet", "dain": "DAIN-style"}
_ABLATIONS = {
    "no_cross_modal": ("w/o cross-modal", "cross_modal"),
    "no_graph": ("w/o MGC-Graph", "graph"),
    "no_dlsm": ("w/o DLSM", "dlsm"),
    "no_displacement": ("displacement off", "displacement"),
}
ROWS: dict[str, Method] = {
    row.name: row
    for row in (
        *(Method(name, name, naive=method) for name, method in NAIVE.items()),
        *(Method(name, _LABELS[name], naive=method) for name, method in ON_REQUEST.items()),
        *(Method(name, _LABELS[name], name, arbitrary=NETWORKS[name].arbitrary) for name in NETWORKS),
        Method(OURS, "C2-STi", OURS),
        Method("default", "C2-STi, default", naive=bundled()),
        Method("from_baseline", "from the baseline", OURS, start="baseline"),
        *(Method(name, label, OURS, off) for name, (label, off) in _ABLATIONS.items()),
    )
}
TABLES = {
    "1": [*NAIVE, *_LABELS, OURS],
    "2": [*NAIVE, *_LABELS, OURS],
    "ablation": [*NAIVE, OURS, *_ABLATIONS],
}
PAPER_ROWS = [*NAIVE, *_LABELS, "default", OURS, "from_baseline", "no_cross_modal", "no_graph", "no_dlsm"]
SLICES = {"1": [1], "2": [2, 3, 4], "ablation": [1, 2, 3, 4]}  # sections held out in a row


@dataclass(frozen=True)
class Network:
    """The network of a method that has not seen a patient (`fold`), by the seed of its training, and its folder."""

    method: Method
    fold: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.method.name} without {self.fold}, seed {self.seed}"

    def load(self) -> Trained:
        """The finished network; a ValueError where the folder holds another model, or what cannot be read."""
        found = _checkpoint.kind_of(self.folder)
        if found != self.method.model:
            raise ValueError(
                f"{self.folder} holds a checkpoint of {found!r}, where one of {self.method.model!r} belongs; move it "
                "away, or train anew with --force"
            )
        return C2STi.load(self.folder) if found == OURS else load_compared(found, self.folder)

    def finished(self, recipe: Mapping[str, Any]) -> bool:
        """Whether the folder holds a whole checkpoint; a ValueError where it is of another recipe or another model."""
        if not all((self.folder / name).is_file() for name in (_checkpoint.SETTINGS, _checkpoint.WEIGHTS)):
            return False
        try:
            differs = difference(self.load(), recipe)
        except ValueError as error:
            raise ValueError(f"{error} (another --out leaves {self.folder} as it is)") from error
        if differs:
            raise ValueError(
                f"{self.folder} was trained by another recipe ({differs}); name another --out, or train it anew with "
                "--force"
            )
        return True

    def forget(self) -> None:
        """Remove its checkpoint, and the state of its training."""
        for name in (_checkpoint.SETTINGS, _checkpoint.WEIGHTS):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / STATE, ignore_errors=True)


def recipe_of(network: Network, source: Source, ours: C2STiConfig, how: Schedule) -> dict[str, Any]:
    """What a network is trained by, as its checkpoint has to say it."""
    return {
        "config": asdict(network.method.config(ours)),
        "training": _without_saving(asdict(how)),
        "series": [source.taught, *([MADE] if source.simulated else [])],
        "without": [network.fold],
        "sections": {name: source.prints[name] for series in source.lessons(network.fold) for name in series.names},
        "version": version("c2sti"),
    }


def difference(model: Trained, recipe: Mapping[str, Any]) -> str:
    """In which point a trained network is of another recipe; empty where it agrees.

    Cards of before sections and version were kept are believed in these two.
    """
    training = _without_saving(model.card.get("training", {}))
    found = {**model.card, "config": asdict(model.network.config), "training": training}
    for key, wanted in recipe.items():
        if found.get(key) == wanted or (key in ("sections", "version") and key not in found):
            continue
        was = found.get(key)
        if not (isinstance(was, dict) and isinstance(wanted, dict)):
            return f"{key}: {was!r} instead of {wanted!r}"
        field = next(k for k in [*wanted, *was] if was.get(k) != wanted.get(k))
        return f"{key}: {field} {was.get(field)!r} instead of {wanted.get(field)!r}"
    return ""


def _without_saving(training: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that change the result."""
    return {key: value for key, value in training.items() if key != "save_every"}


def fit(
    network: Network,
    recipe: Mapping[str, Any],
    material: Material,
    how: Schedule,
    *,
    device: str,
    progress: Callable[[int, float], object],
) -> None:
    """Train a network, from where it was stopped if it was, and write its checkpoint."""
    start, method, fold = time.perf_counter(), network.method, network.fold
    given: dict[str, Any] = {
        "config": method.config(material.config),
        "how": how,
        "folder": network.folder / STATE,
        "device": device,
        "progress": progress,
        "show_progress_bar": False,  # the bar is the caller's, over all networks
    }
    model: Trained
    if method.model == OURS:
        model = train(material.examples(fold), validation=material.validation() or None, **given)
    else:
        model = train_compared(method.model, material.cases(fold), **given)
    model.card |= {key: recipe[key] for key in CARD} | provenance(time.perf_counter() - start, device)
    model.save(network.folder, overwrite=True)
    shutil.rmtree(network.folder / STATE, ignore_errors=True)


def provenance(seconds: float, device: str) -> dict[str, Any]:
    """What a card says beside its recipe: how long it took, where, and what the network is not for."""
    return {
        "seconds": round(seconds),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device}",
        "not for": "differences between conditions, replicates, diagnosis; interpolated sections are estimates",
    }
