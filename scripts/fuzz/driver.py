"""Run cases, each of which may end the process that it runs in, and sort what comes of them."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

import c2sti
from scripts.fuzz import files
from scripts.fuzz.promises import NAMED, Nonsense
from scripts.fuzz.sections import sections

PACKAGE = str(Path(c2sti.__file__).parent)
WRONG = ("foreign", "nonsense", "crash")
OUTCOMES = ("correct", "named", "undamaged", "altered", "hdf5", *WRONG)
READERS = ("h5py", "numcodecs", "zarr")  # libraries that believe what is in a file
PATIENCE = 30  # seconds that one case may take
FAMILIES = {"sections": sections, "files": files.files}
# A damaged file may leave the memory of a process damaged, too, so each has its own; sections share the cost of one.
TOGETHER = {"sections": 50, "files": 1}


def case(family: str, number: int, folder: Path) -> str:
    """Run one case here: what comes of it, or what it raises."""
    return FAMILIES[family](np.random.default_rng([list(FAMILIES).index(family), number]), folder)


def outcome(family: str, number: int, folder: Path) -> tuple[str, str]:
    """What comes of one case, and in words; nothing that is right comes with a warning of numpy's."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        kind, text = _sorted(family, number, folder)
    numeric = [str(w.message) for w in said if issubclass(w.category, RuntimeWarning)]
    if numeric and kind not in WRONG and family == "sections":
        return "nonsense", f"{kind} with a warning: {numeric[0]}; {text}"
    return kind, text


def _sorted(family: str, number: int, folder: Path) -> tuple[str, str]:
    try:
        return case(family, number, folder), ""
    except Nonsense as broken:
        return "nonsense", str(broken)
    except Exception as error:  # noqa: BLE001 - sorting them is what this is for
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = last.filename.startswith(PACKAGE) and str(last.line).startswith("raise") and isinstance(error, NAMED)
        text = f"{type(error).__name__}: {str(error)[:200]} ({last.filename.rpartition('/')[2]}:{last.lineno})"
        return "named" if ours else "foreign", text


def guarded(family: str, numbers: Sequence[int], folder: Path) -> Iterator[tuple[int, str, str]]:
    """The same of several cases in other processes, which may die or hang: number, outcome and words of each."""
    left = list(numbers)
    while left:
        process, pipe = _started(family, left, folder)
        with pipe:
            for line in pipe:
                left.pop(0)
                yield tuple(json.loads(line))
        status = os.waitpid(process, 0)[1]
        if left:
            where = _last_place(folder / "fault.txt")
            kind = "hdf5" if any(f"/{library}/" in where for library in READERS) else "crash"
            yield left.pop(0), kind, f"the process ended with {status}, in {where}"


def _last_place(told: Path) -> str:
    """Where a process was when it died, by what it could still tell: the innermost code that is not Python's own."""
    thread = told.read_text().rpartition("Current thread")[2].partition("\n\n")[0]
    places = re.findall(r'File "(.+?)", line (\d+)', thread)
    found = [f"{file}:{line}" for file, line in places if "site-packages" in file or file.startswith(PACKAGE)]
    return found[0] if found else "a place that it could not tell"


def _started(family: str, numbers: Sequence[int], folder: Path) -> tuple[int, TextIO]:
    """A process that runs some cases, and what it says of them."""
    inlet, outlet = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        os.close(inlet)
        told = (folder / "fault.txt").open("w")
        faulthandler.enable(told)
        faulthandler.register(signal.SIGALRM, told, chain=True)
        for number in numbers:
            signal.alarm(PATIENCE)
            said = (number, *outcome(family, number, folder))
            os.write(outlet, (json.dumps(said) + "\n").encode())
        os._exit(0)
    os.close(outlet)
    return process, os.fdopen(inlet, encoding="utf-8")


def fuzz(
    seconds: float, seed: int, folder: Path, cases: float = float("inf")
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Run cases for some seconds, at most so many of a family; counts by outcome, and all that is wrong.

    What is wrong, and what HDF5 died of, is said on stderr at once: a long run may be stopped.
    """
    counts: dict[str, Counter[str]] = {family: Counter() for family in FAMILIES}
    wrong: list[str] = []
    first, done = seed * 1_000_000, 0
    end = time.monotonic() + seconds
    files.whole(folder)
    while time.monotonic() < end and done < cases:
        batch = range(first + done, first + done + int(min(max(TOGETHER.values()), cases - done)))
        for family in FAMILIES:
            for start in range(0, len(batch), TOGETHER[family]):
                for number, kind, text in guarded(family, batch[start : start + TOGETHER[family]], folder):
                    counts[family][kind] += 1
                    if kind not in (*WRONG, "hdf5"):
                        continue
                    said = f"--case {family} {number}: {kind}: {text}"
                    print(said, file=sys.stderr, flush=True)
                    wrong += [said] if kind in WRONG else []
        done += len(batch)
    return counts, wrong
