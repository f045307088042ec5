"""A published tool in an environment of its own, as a method that `model=` of c2sti's functions takes.

Tools pin versions that c2sti cannot share. Arrays go to a process of the tool's Python as .npz, and come back so.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from c2sti._types import FloatArray, InterpolatedSection, Prediction, Section, SlicePair


class Outside:
    """One of `spateo_vtk`, `spateo_kernel` and `feast` of ``tools.py``, run by another Python.

    Parameters
    ----------
    name
        Of the function.
    python
        The interpreter of an environment that holds the tool, started at the first call and kept until :meth:`close`.
    """

    def __init__(self, name: str, python: Path) -> None:
        self.__name__, self.python = name, python
        self.process: subprocess.Popen[str] | None = None

    def __call__(
        self,
        pair: SlicePair,
        at: FloatArray,
        positions: Sequence[float],
        *,
        device: str = "cpu",
        seed: int = 0,
        progress: Callable[[float], object] = lambda share: None,
    ) -> Prediction:
        """The sections between two; see :class:`c2sti.Interpolator`. Raises a RuntimeError where the tool fails."""
        nothing = np.zeros(pair.n_genes)
        sections = []
        for position in positions:
            values = self.ask(pair, at, position, seed)
            sections.append(InterpolatedSection(np.eye(len(at), dtype=np.float32), values, nothing))
            progress(1 / len(positions))
        return Prediction(tuple(sections))

    def ask(self, pair: SlicePair, at: FloatArray, position: float, seed: int) -> FloatArray:
        """(M, N) log expression that the tool gives at the points."""
        with tempfile.TemporaryDirectory() as folder:
            question, result = Path(folder) / "in.npz", Path(folder) / "out.npy"
            numbers = {"at": at, "position": position, "spacing": pair.spacing, "seed": seed}
            np.savez(question, **numbers, **arrays(pair.a, "a"), **arrays(pair.b, "b"))
            process = self.start()
            process.stdin.write(f"{question}\t{result}\n")
            process.stdin.flush()
            said = process.stdout.readline().strip()
            if said != "done":
                self.close()
                raise RuntimeError(f"{self.__name__} failed: {said or 'its process ended'}")
            return np.load(result)

    def start(self) -> subprocess.Popen[str]:
        """The process of the tool."""
        if self.process is None:
            script = Path(__file__).with_name("tools.py")
            call = [str(self.python), str(script), self.__name__]
            self.process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self.process

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.communicate()
            self.process = None


def arrays(section: Section, name: str) -> dict[str, FloatArray]:
    """Coordinates, log expression and, where they are known, counts of a section."""
    found = {f"{name}_xy": section.xy, f"{name}_expression": section.expression.toarray()}
    if section.counts is not None:
        found[f"{name}_counts"] = section.counts.toarray()
    return found
