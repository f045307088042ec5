"""The methods of the tables, and their networks: one for each method, fold and seed, trained once."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from c2sti._types import Interpolator
from c2sti.benchmark._series import MADE, Material, Source
from c2sti.models import _checkpoint
from c2sti.models._registry import METHODS as NAIVE
from c2sti.models._registry import NETWORKS, ON_REQUEST, bundled, load_compared
from c2sti.models.c2sti import NAME as OURS
from c2sti.models.c2sti import C2STi, C2STiConfig
from c2sti.models.compared import FrameInterpolator
from c2sti.nn.inputs import ModelInputs
from c2sti.training import Schedule, TrainConfig, compared_schedule, train, train_compared

STEPS = 300  # of every network by default
SAVE_EVERY = 10  # steps: what a stopped run loses at most
UNIMPORTANT = {"save_every": SAVE_EVERY}  # settings of a training that do not change its result
STATE = "state"  # folder of a training that is not finished
CARD = ("series", "without", "sections", "version")  # of a recipe, what a checkpoint's card keeps beside the training
# The default's network, and the paper's at a size that a processor can train: tables say so.
DEFAULT, PAPER = "default", "paper"
NETWORK = {
    DEFAULT: C2STiConfig(),
    PAPER: C2STiConfig.paper(channels=8, histology_channels=8, bins=64, panel=128, resnet=False, n_splits=0),
}
# At the paper's own size; without ResNet-50, whose weights have to be fetched.
FULL = NETWORK | {PAPER: C2STiConfig.paper(panel=128, resnet=False, n_splits=0)}
QUICK = {
    DEFAULT: C2STiConfig(channels=4, panel=24, n_components=12, n_splits=1),
    PAPER: replace(NETWORK[PAPER], channels=4, histology_channels=4, bins=16, panel=12, n_components=8),
}
PAPER_TRAINING = {"batch": 2, "learning_rate": 2e-3, "final_learning_rate": 2e-5, "validate_every": 25}

Trained: TypeAlias = C2STi | FrameInterpolator
Control: TypeAlias = Callable[[C2STi], C2STi]


@dataclass(frozen=True)
class Method:
    """A row of a table: a method that is given as it is (`naive`), or one with a network."""

    name: str  # in folders, and on the command line
    label: str  # in tables
    model: str = ""  # whose checkpoint its network is: "c2sti" or a key of compared.NETWORKS
    network: str = DEFAULT  # of C2-STi: the default's or the paper's
    changed: Mapping[str, Any] = field(default_factory=dict)  # fields of its C2STiConfig that are other ones
    objective: str = "paper"  # what the paper's network is trained for
    naive: Interpolator | None = None
    arbitrary: bool = True  # whether it interpolates at any position; else it knows the middle
    control: Control | None = None  # what is taken from a trained network before it is scored
    of: str = ""  # the method whose network that is; its own by default

    @property
    def trained(self) -> bool:
        """Whether it has a network to train: the default's, if it may move nothing, has nothing to learn."""
        return self.naive is None and (self.network == PAPER or self.changed.get("displacement", True))

    @property
    def trained_as(self) -> str:
        """The method whose network it is scored with."""
        return self.of or self.name

    def config(self, networks: Mapping[str, C2STiConfig]) -> Any:
        """Settings of its network, where `networks` has those of the default's and of the paper's."""
        return replace(networks[self.network], **self.changed) if self.model == OURS else NETWORKS[self.model].Config()

    def schedule(self, steps: int, seed: int, *, watched: bool = False, full: bool = False) -> Schedule:
        """How its network is trained.

        `watched`: sections of a validation part may stop the paper's early; `full`: that one has the paper's own
        batches and rates.
        """
        settings: dict[str, Any] = {"steps": steps, "seed": seed, "save_every": SAVE_EVERY}
        if self.model != OURS:
            return compared_schedule(**settings)
        if self.network == DEFAULT:
            return TrainConfig(**settings)
        settings |= ({"patience": 8} if watched else {}) | ({} if full else PAPER_TRAINING)
        return TrainConfig.paper(**settings, objective=self.objective)


def without_displacement(model: C2STi) -> C2STi:
    """The trained model, in which nothing moves."""
    model.network.config = replace(model.network.config, displacement=False)
    return model


def with_histology_shuffled(model: C2STi) -> C2STi:
    """The trained model, which sees the bins of either H&E in a random order."""

    def shuffled(image: Tensor | None) -> Tensor | None:
        if image is None:
            return None
        flat = image.flatten(1).clone()
        shown = flat.isfinite().all(dim=0).nonzero()[:, 0]
        flat[:, shown] = flat[:, shown[_order(len(shown)).to(shown)]]
        return flat.reshape(image.shape)

    return _with_inputs(model, lambda inputs: replace(inputs, images=tuple(map(shuffled, inputs.images))))


def with_graph_shuffled(model: C2STi) -> C2STi:
    """The trained model, whose genes have each other's neighbours in the graph."""

    def shuffled(inputs: ModelInputs) -> ModelInputs:
        order = _order(len(inputs.propagation))
        return replace(inputs, propagation=inputs.propagation[order][:, order])

    return _with_inputs(model, shuffled)


def _order(n: int) -> Tensor:
    """A random order, always the same."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def _with_inputs(model: C2STi, change: Callable[[ModelInputs], ModelInputs]) -> C2STi:
    model.network.register_forward_pre_hook(lambda network, given: (change(given[0]), *given[1:]))
    return model


_LABELS = {"rbi": "RBI", "unet": "U-Net", "rife": "RIFE", "ifrnet": "IFRNet", "dain": "DAIN-style"}
_OFF = {"cross_modal": "w/o cross-modal", "graph": "w/o MGC-Graph", "dlsm": "w/o DLSM"}
_ABLATIONS = {f"no_{off}": (label, off) for off, label in {**_OFF, "displacement": "displacement off"}.items()}
_CONTROLS = {
    "histology_shuffled": ("H&E shuffled", with_histology_shuffled),
    "graph_shuffled": ("graph shuffled", with_graph_shuffled),
    "no_displacement": ("displacement off", without_displacement),
}
_PAPERS = "paper's network"
ROWS: dict[str, Method] = {
    row.name: row
    for row in (
        *(Method(name, name, naive=method) for name, method in NAIVE.items()),
        *(Method(name, _LABELS[name], naive=method) for name, method in ON_REQUEST.items()),
        *(Method(name, _LABELS[name], name, arbitrary=NETWORKS[name].arbitrary) for name in NETWORKS),
        Method(OURS, "C2-STi", OURS),
        Method("bundled", "C2-STi, as it comes", naive=bundled()),
        *(Method(name, label, OURS, changed={off: False}) for name, (label, off) in _ABLATIONS.items()),
        Method(PAPER, f"{_PAPERS}, from zero", OURS, PAPER),
        *(Method(f"paper_no_{off}", f"from zero, {label}", OURS, PAPER, {off: False}) for off, label in _OFF.items()),
        *(
            Method(f"paper_{name}", f"from zero, {label}", OURS, PAPER, control=control, of=PAPER)
            for name, (label, control) in _CONTROLS.items()
        ),
        Method("paper_from_baseline", f"{_PAPERS}, from the baseline", OURS, PAPER, {"start": "baseline"}),
        Method("paper_squares", f"{_PAPERS}, squared error", OURS, PAPER, objective="squares"),
    )
}
TABLES = {
    "1": [*NAIVE, *_LABELS, OURS],
    "2": [*NAIVE, *_LABELS, OURS],
    "ablation": [*NAIVE, OURS, *_ABLATIONS],
}
PAPER_ROWS = [*NAIVE, *_LABELS, "bundled", OURS, *(name for name, row in ROWS.items() if row.network == PAPER)]
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


def recipe_of(network: Network, source: Source, configs: Mapping[str, C2STiConfig], how: Schedule) -> dict[str, Any]:
    """What a network is trained by, as its checkpoint has to say it."""
    return {
        "config": asdict(network.method.config(configs)),
        "training": asdict(how) | UNIMPORTANT,
        "series": [source.taught, *([MADE] if source.simulated else [])],
        "without": [network.fold],
        "sections": {name: source.prints[name] for series in source.lessons(network.fold) for name in series.names},
        "version": version("c2sti"),
    }


def difference(model: Trained, recipe: Mapping[str, Any]) -> str:
    """In which point a trained network is of another recipe; empty where it agrees."""
    training = model.card.get("training", {}) | UNIMPORTANT
    found = {**model.card, "config": asdict(model.network.config), "training": training}
    for key, wanted in recipe.items():
        was = found.get(key)
        if was == wanted:
            continue
        if not (isinstance(was, dict) and isinstance(wanted, dict)):
            return f"{key}: {was!r} instead of {wanted!r}"
        name = next(k for k in [*wanted, *was] if was.get(k) != wanted.get(k))
        return f"{key}: {name} {was.get(name)!r} instead of {wanted.get(name)!r}"
    return ""


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
        "config": method.config(material.configs),
        "how": how,
        "folder": network.folder / STATE,
        "device": device,
        "progress": progress,
        "show_progress_bar": False,  # the bar is the caller's, over all networks
    }
    model: Trained
    if method.model == OURS:
        model = train(
            material.examples(fold, method.network), validation=material.validation(method.network) or None, **given
        )
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
