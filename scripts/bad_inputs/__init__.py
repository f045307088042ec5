"""Call c2sti wrongly in some hundred ways, and see whether each is refused by an error of its own that says why.

    python -m scripts.bad_inputs                            a table on stdout, what is not named on stderr
    python -m scripts.bad_inputs --of tl.to_volume          one function
    python -m scripts.bad_inputs --of tl.to_volume --list   with all that was said

Every call of the catalogue is wrong, and no answer to it would be right. Outcomes: *named*: an error that a ``raise``
of the package raises, whose message holds what the catalogue says it has to (the name of the parameter, the section,
what was found); *silent on it*: such an error whose message does not say it; *foreign*: an error from inside another
library, or one that Python itself raises; *accepted*: an answer. All but the first are faults, and make exit code 1.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import c2sti

PACKAGE = str(Path(c2sti.__file__).parent)
NAMED = (ValueError, KeyError, TypeError, OSError, ImportError)
OUTCOMES = ("named", "silent on it", "foreign", "accepted")


class Refused(Exception):
    """What a command says of wrong usage, before it starts."""


@dataclass(frozen=True)
class Bad:
    """A wrong call.

    Parameters
    ----------
    of
        The function that is called, as a table names it: ``"tl.interpolate"``.
    what
        What is wrong, in words.
    call
        Makes the call; is given an empty folder.
    says
        Regular expressions that the message has to match, each of them.
    quick
        Whether a test can afford it.
    """

    of: str
    what: str
    call: Callable[[Path], object]
    says: tuple[str, ...]
    quick: bool = True


def outcome(bad: Bad, folder: Path) -> tuple[str, str]:
    """What comes of a wrong call, and in words."""
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            answer = bad.call(folder)
    except Exception as error:  # noqa: BLE001 - sorting them is what this is for
        said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {said[:300]} ({last.filename.rpartition('/')[2]}:{last.lineno})"
        ours = last.filename.startswith(PACKAGE) and str(last.line).startswith("raise") and isinstance(error, NAMED)
        if not (ours or isinstance(error, Refused)):
            return "foreign", text
        missing = [word for word in bad.says if not re.search(word, said)]
        return ("silent on it", f"{text}: lacks {missing}") if missing else ("named", text)
    return "accepted", repr(answer)[:200]


def tried(bads: Iterable[Bad]) -> tuple[dict[str, Counter[str]], list[tuple[Bad, str, str]]]:
    """Outcomes of some wrong calls: how many by function, and each."""
    counts: dict[str, Counter[str]] = {}
    every = []
    for bad in bads:
        with tempfile.TemporaryDirectory(prefix="bad_inputs.") as folder:
            kind, text = outcome(bad, Path(folder))
        counts.setdefault(bad.of, Counter())[kind] += 1
        every.append((bad, kind, text))
    return counts, every


def wrong_values(
    of: str, call: Callable[..., object], parameter: str, values: Iterable[Any], *says: str, quick: bool = True
) -> list[Bad]:
    """One wrong call for each value of a parameter; the message has to name the parameter, or what else is said."""
    needed = says or (rf"\b{parameter}\b",)
    return [
        Bad(of, f"{parameter}={_short(value)}", lambda _, v=value: call(**{parameter: v}), needed, quick)
        for value in values
    ]


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 50 else f"{text[:47]}..."
