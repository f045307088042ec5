"""What the `model=` of a tool may be: the name of a method, a folder with a checkpoint, or a method itself."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from c2sti import _validators
from c2sti._types import FloatArray, ImageEncoder, Interpolator, SlicePair
from c2sti.models import _checkpoint
from c2sti.models.c2sti import C2STi
from c2sti.models.compared import NETWORKS as NETWORKS
from c2sti.models.compared import FrameInterpolator, fresh, rbi
from c2sti.models.compared._frames import VERSION
from c2sti.models.components import memory
from c2sti.models.gp import Describing, gp
from c2sti.models.naive import copy, linear, lowrank
from c2sti.ops import inference

BUNDLED = Path(__file__).parents[1] / "weights"
C2STI = "c2sti"  # name of the bundled checkpoint
METHODS: dict[str, Interpolator] = {"copy": copy, "linear": linear, "lowrank": lowrank, "gp": gp}  # not trained
ON_REQUEST: dict[str, Interpolator] = {"rbi": rbi}  # likewise, but it needs SimpleITK, and minutes
NAMED = METHODS | ON_REQUEST
PAIR_ONLY = (copy, linear, rbi)  # do not look at context


def resolve(model: str | Path | Interpolator, argument: str = "model") -> Interpolator:
    """The method of that name, the model of that folder, or what was given; errors call it by its argument.

    Raises
    ------
    ValueError
        There is no such method; the message lists those that exist. Or a checkpoint cannot be read.
    """
    if not isinstance(model, str | Path):
        if not callable(model):
            raise TypeError(
                f"{argument} = {_validators.shown(model)} is no model; give the name of one "
                f"({', '.join([C2STI, *NAMED])}), a folder written by C2STi.save, or a callable"
            )
        return model
    if model == C2STI:
        return bundled()
    if isinstance(model, str) and model in NAMED:
        return NAMED[model]
    if Path(model).is_dir():
        return _load(Path(model))
    if model in NETWORKS:
        raise ValueError(
            f"{argument}: there is no model {model!r} that comes trained; train one by "
            f"c2sti.training.train_compared({model!r}, …), save it, and give its folder"
        )
    raise ValueError(
        f"{argument}: there is no model {str(model)!r}; those that exist are {', '.join([C2STI, *NAMED])}, and folders "
        "written by C2STi.save"
    )


def _load(folder: Path) -> Interpolator:
    """The model whose checkpoint is in a folder: ours, or a compared method's."""
    kind = _checkpoint.kind_of(folder)
    if kind in NETWORKS:
        return load_compared(kind, folder)
    if kind != C2STI:
        raise ValueError(
            f"{folder} is a checkpoint of {kind!r}; those that can be read are of {', '.join([C2STI, *NETWORKS])}"
        )
    return C2STi.load(folder)


def load_compared(name: str, folder: str | Path) -> FrameInterpolator:
    """Read the compared method of that name from the folder that its ``save`` wrote."""
    network = NETWORKS[name]
    build = partial(fresh, network)
    found, _, card = _checkpoint.read(folder, network.Config, build, model=name, version=VERSION)
    return FrameInterpolator(found, card=card)


def sees_context(method: Interpolator) -> bool:
    """Whether a method looks at sections beyond the pair."""
    return method not in PAIR_ONLY and getattr(method, "uses_context", True)


def reads_blocks(method: Interpolator) -> bool:
    """Whether a method takes expression that is left on disk; the others want it in memory."""
    return isinstance(method, Describing)


def memory_of(method: Interpolator, pair: SlicePair, n_points: int, n_positions: int) -> int:
    """Bytes that a method says it takes while it works; 0 where it does not say."""
    return memory(pair, n_points, n_positions, method.settings) if isinstance(method, Describing) else 0


def name_of(model: str | Path | Interpolator) -> str:
    """What provenance and tables call a model."""
    return str(model) if isinstance(model, str | Path) else getattr(model, "__name__", type(model).__name__)


def named(models: Iterable[str | Path | Interpolator], argument: str = "model") -> dict[str, Interpolator]:
    """Methods by their names, each once; models that would share a name are numbered: ``"C2STi"``, ``"C2STi 2"``."""
    found: dict[str, Interpolator] = {}
    for model in dict.fromkeys(models):
        method = resolve(model, argument)
        name, n = name_of(model), 2
        while name in found:
            name, n = f"{name_of(model)} {n}", n + 1
        found[name] = method
    return found


@cache
def bundled() -> C2STi:
    """The checkpoint that comes with the package."""
    return C2STi.load(BUNDLED)


def available(device: str | None) -> str:
    """The device asked for, or a GPU where there is one."""
    if device is not None:
        return _validators.device(device)
    return "cuda" if torch.cuda.is_available() else "cpu"


def image_encoder(encoder: nn.Module | None) -> ImageEncoder | None:
    """An encoder of tensors, such as :class:`c2sti.nn.resnet.ResNet50Features`, as one of arrays."""
    if encoder is None:
        return None
    if not callable(encoder):
        raise TypeError(
            f"histology_encoder is a {type(encoder).__name__}; one by c2sti.nn.resnet.load_resnet50 is needed"
        )

    def describe(image: FloatArray, shape: tuple[int, int]) -> FloatArray:
        with inference():
            return encoder(torch.as_tensor(image), shape).cpu().numpy()

    return describe
