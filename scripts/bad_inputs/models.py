"""`C2STi`, its settings, `C2STi.load` and `save`, `TrainConfig`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import c2sti
from c2sti.models import _checkpoint
from scripts.bad_inputs import Bad, wrong_values
from scripts.bad_inputs.material import checkpoint, network


def cases() -> Iterator[Bad]:
    """All of these."""
    yield from _settings()
    yield from _folders()


def _settings() -> Iterator[Bad]:
    whole = [0, -1, 1.5, "many", None]
    for name in ("channels", "n_levels", "panel", "n_components"):
        yield from wrong_values("C2STiConfig", c2sti.C2STiConfig, name, whole)
    yield from wrong_values("C2STiConfig", c2sti.C2STiConfig, "kernel_size", [0, 2, -3, 1.5, "wide"])
    yield from wrong_values("C2STiConfig", c2sti.C2STiConfig, "image_channels", [0, "rgb"])
    for name in ("alpha", "reach"):
        yield from wrong_values("C2STiConfig", c2sti.C2STiConfig, name, [-1.0, float("nan"), "far", None])
    yield from wrong_values("C2STiConfig", c2sti.C2STiConfig, "n_splits", [-1, 0.5, "two"])
    for name in ("steps", "batch", "save_every", "genes", "panel"):
        yield from wrong_values("TrainConfig", c2sti.TrainConfig, name, whole)
    for name in ("learning_rate", "clip"):
        yield from wrong_values("TrainConfig", c2sti.TrainConfig, name, [-1.0, 0, float("nan"), "fast"])
    yield from wrong_values("TrainConfig", c2sti.TrainConfig, "seed", [-1, 0.5, "zero"])
    yield from wrong_values("TrainConfig", c2sti.TrainConfig, "weight_decay", [-1.0, float("nan")])
    yield from wrong_values("TrainConfig", c2sti.TrainConfig, "objective", ["beauty", None, 3])
    yield from wrong_values("TrainConfig", c2sti.TrainConfig, "smooth", [float("nan"), "very"])
    yield from wrong_values("C2STi", lambda config: c2sti.C2STi(config), "config", [{"channels": 4}, "small", 3])
    yield from wrong_values("C2STi", lambda card: c2sti.C2STi(card=card), "card", ["mine", 3])


def _folders() -> Iterator[Bad]:
    of = "C2STi.load"

    def settings(folder: Path, **changed: Any) -> Path:
        """A checkpoint whose settings say something else, under a hash that is right."""
        model = checkpoint(folder)
        path = model / "config.json"
        told = {k: v for k, v in (json.loads(path.read_text()) | changed).items() if v is not ...}
        told["sha256"] = _checkpoint._hash(told)
        path.write_text(json.dumps(told))
        return model

    for what, value in (("a number", 3), ("None", None), ("no folder", "nowhere"), ("a file", __file__), ("empty", "")):
        yield Bad(of, f"folder is {what}", lambda _, v=value: c2sti.C2STi.load(v), ("folder|holds no",))
    yield Bad(of, "a folder that is empty", lambda f: c2sti.C2STi.load(f), ("config.json",))
    for what, changed, says in (
        ("of another format", {"format": 1}, "format 1"),
        ("of no format", {"format": ...}, "format"),
        ("of another model", {"model": "rife"}, "rife"),
        ("of no model", {"model": ...}, "None|model"),
        ("with a setting that is unknown", {"config": {"colour": 3}}, "colour"),
        ("with a setting that makes no sense", {"config": {"channels": -4}}, "channels"),
        ("with a setting that is text", {"config": {"channels": "four"}}, "channels"),
        ("with settings that are a list", {"config": [1, 2]}, "config"),
        ("without settings", {"config": ...}, "config"),
        ("without a hash of the weights", {"weights": ...}, "weights|hash"),
        ("with a wrong hash of the weights", {"weights": "0"}, "hash"),
        ("with settings of other weights", {"config": {"channels": 8}}, "model.safetensors"),
        ("with a card that is text", {"card": "mine"}, "card"),
    ):
        yield Bad(of, f"a checkpoint {what}", lambda f, c=changed: c2sti.C2STi.load(settings(f, **c)), (says,))
    for what, content in (("no JSON", "{"), ("a JSON list", "[]"), ("empty", "")):
        yield Bad(
            of,
            f"settings that are {what}",
            lambda f, c=content: c2sti.C2STi.load(_with(f, "config.json", c)),
            ("config.json|model",),
        )
        yield Bad(
            of,
            f"weights that are {what}",
            lambda f, c=content: c2sti.C2STi.load(_with(f, "model.safetensors", c)),
            ("model.safetensors",),
        )
    of = "C2STi.save"
    yield Bad(of, "a folder that is a file", lambda f: network().save(_file(f)), ("file|folder",))
    yield Bad(of, "below a file", lambda f: network().save(_file(f) / "model"), ("file|folder",))
    yield Bad(of, "a folder that is not written into", lambda f: network().save("/proc/model"), ("/proc/model",))
    for value in (3, None):
        yield Bad(of, f"folder={value!r}", lambda _, v=value: network().save(v), ("folder",))


def _with(folder: Path, name: str, content: str) -> Path:
    model = checkpoint(folder)
    (model / name).write_text(content)
    return model


def _file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"
