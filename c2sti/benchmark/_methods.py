"""The rows of the tables: which methods there are, which of them have to be trained, and where they can insert."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from c2sti._types import Interpolator
from c2sti.baselines import METHODS as NAIVE
from c2sti.baselines import ON_REQUEST, RIVALS
from c2sti.model import C2STi, C2STiConfig
from c2sti.model.c2sti import KIND
from c2sti.training import Schedule, TrainConfig, rival_schedule

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
        Whose checkpoint a trained one is: ``"c2sti"`` or a key of ``c2sti.baselines.RIVALS``.
    switches
        Fields of :class:`c2sti.C2STiConfig` that are off.
    arbitrary
        Whether it inserts at any position; else it knows the middle.
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
        return RIVALS[self.model].Config()

    def schedule(self, steps: int, seed: int) -> Schedule:
        """How its network is trained."""
        kind = TrainConfig if self.model == OURS else rival_schedule
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
        *(Method(name, _LABELS[name], model=name, arbitrary=RIVALS[name].arbitrary) for name in RIVALS),
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
SLICES = {"1": [1], "2": [2, 3, 4], "ablation": [1, 2, 3, 4]}  # sections hidden in a row


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
