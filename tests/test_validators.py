"""Wrong calls, function by function, by `scripts/bad_inputs`: each has to be refused by a named error."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import c2sti
from c2sti import _validators

ROOT = str(Path(c2sti.__file__).parents[1])


@pytest.fixture(scope="module")
def bad_inputs() -> Iterator[Any]:
    sys.path.insert(0, ROOT)
    try:
        yield importlib.import_module("scripts.bad_inputs")
    finally:
        sys.path.remove(ROOT)


FUNCTIONS = [
    "tl.interpolate", "tl.interpolate(out=…)", "tl.interpolate_cells", "tl.interpolate_series", "tl.slice_series",
    "tl.evaluate", "tl.train", "tl.describe", "tl.to_slices", "tl.to_volume", "tl.sample_counts", "tl.get_section",
    "tl.coexpression",
    "pp.align", "pp.align_series", "pp.check_pair",
    "C2STiConfig", "TrainConfig", "C2STi", "C2STi.load", "C2STi.save", "datasets.phantom", "Phantom.section",
    "datasets.sections", "datasets.her2st", "datasets.stahl", "datasets.developing_heart", "datasets.dlpfc",
    "datasets.starmap", "datasets.openst", "datasets.patches", "metrics.gene_pcc", "metrics.pcc",
    "metrics.rmse", "metrics.rv", "metrics.psnr", "metrics.ssim", "metrics.ceiling",
    "pl.sections", "pl.spread", "pl.displacement", "pl.coexpression", "pl.evaluation", "pl.stack", "pl.alignment",
    "pl.genes", "c2sti",
    "python -m c2sti.benchmark",
]  # fmt: skip
SLOW = {"tl.to_spatialdata", "tl.interpolate(SpatialData)"}  # the library takes seconds to import


@pytest.fixture(scope="module")
def catalogue(bad_inputs: Any) -> list[Any]:
    return list(importlib.import_module("scripts.bad_inputs.catalogue").catalogue())


def test_every_function_of_the_catalogue_is_tried_here(catalogue: list[Any]) -> None:
    assert {bad.of for bad in catalogue} == set(FUNCTIONS) | SLOW


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_wrong_call_is_refused_by_name(bad_inputs: Any, catalogue: list[Any], function: str) -> None:
    some = [bad for bad in catalogue if bad.of == function and bad.quick]
    counts, every = bad_inputs.tried(some)
    assert [f"{bad.what}: {kind}: {text}" for bad, kind, text in every if kind != "named"] == []
    assert counts[function].total() == len(some) > 0


def test_the_judge_tells_named_from_foreign(bad_inputs: Any, tmp_path: Path) -> None:
    def kind(call: Any, *says: str) -> str:
        return bad_inputs.outcome(bad_inputs.Bad("f", "x", lambda _: call(), says), tmp_path)[0]

    assert kind(lambda: _validators.whole(0, "n"), "n = 0") == "named"
    assert kind(lambda: _validators.whole(0, "n"), "n = 1") == "silent on it"
    assert kind(lambda: int("x")) == "foreign"
    assert kind(lambda: np.zeros(3)[7]) == "foreign"
    assert kind(lambda: 1) == "accepted"


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "text for a number": (
        lambda: _validators.number("a", "x"),
        TypeError,
        "x = 'a' is no number; one number is needed",
    ),
    "NaN": (lambda: _validators.number(float("nan"), "x"), ValueError, "x = nan must be finite"),
    "not above": (lambda: _validators.number(0, "x", above=0), ValueError, "x = 0 must be positive and finite"),
    "below the least": (
        lambda: _validators.number(-1, "x", least=0),
        ValueError,
        "x = -1 must be finite and at least 0",
    ),
    "more than the most": (
        lambda: _validators.number(2, "x", least=0, most=1),
        ValueError,
        "x = 2 must be from 0 to 1",
    ),
    "half a thing": (lambda: _validators.whole(1.5, "n"), ValueError, "n = 1.5 must be a whole number of at least 1"),
    "True for a number": (
        lambda: _validators.whole(True, "n"),
        TypeError,
        "n = True must be a whole number of at least 1",
    ),
    "a long value": (lambda: _validators.number("a" * 99, "x"), TypeError, "x = a str is no number"),
    "complex": (lambda: _validators.reals([1j], "z"), TypeError, "z holds complex128; real numbers are needed"),
    "ragged": (
        lambda: _validators.reals([[1], [1, 2]], "z"),
        TypeError,
        r"z holds \[\[1\], \[1, 2\]\] and not numbers alone",
    ),
    "a gene twice": (lambda: _validators.genes(["a", "a"], ["a"], "x"), ValueError, "genes= names 'a' more than once"),
    "no such gene": (
        lambda: _validators.genes(["a", "b"], ["a"], "x"),
        KeyError,
        "1 of 2 genes= are not in x .first: 'b'",
    ),
    "no device": (lambda: _validators.device("gpu"), ValueError, "device = 'gpu' is not there; this machine has cpu"),
    "a file for a folder": (
        lambda: _validators.folder(__file__, "to"),
        NotADirectoryError,
        "test_validators.py is a file",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_named(case: str) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()


def test_what_is_meant_is_given_back() -> None:
    assert _validators.number(np.float32(0.5), "x", above=0) == 0.5
    assert _validators.number(np.array(2), "x") == 2.0
    assert _validators.whole(3.0, "n") == 3
    assert isinstance(_validators.whole(np.int64(3), "n"), int)
    assert _validators.names("a", "x") == ["a"]
    assert _validators.names(("a", "b"), "x") == ["a", "b"]
    assert _validators.reals(np.array([1, None], dtype=object), "z")[0] == 1.0
    assert _validators.device("cpu:0") == "cpu:0"
