"""The checks of single values: what they refuse, and what they give back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from c2sti import _validators

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
