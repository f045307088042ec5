"""Hidden sections as cases, and cases made ready: what does not change while the network learns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import KDTree
from torch import Tensor

from c2sti._types import FloatArray, SlicePair
from c2sti.model.baseline import Baseline, BaselineTensors
from c2sti.model.c2sti import C2STiConfig
from c2sti.model.inputs import ModelInputs, prepare


@dataclass(frozen=True)
class Case:
    """A pair and one measured section between its two, which the pair does not know.

    Parameters
    ----------
    pair
        What the network is given.
    points
        (M, 2) spots of the hidden section, in the frame of the pair.
    position
        Of the hidden section, in (0, 1).
    truth
        (M, N) log1p expression, CSR, genes as in the pair.
    name
        What errors call it.
    motion
        Where it is known, a function of (m, 2) points of the hidden section: how far (m, 2) from there the same
        material lies in section a, and in section b. Made tissue knows, and so does tissue moved by :func:`elastic`.
    """

    pair: SlicePair
    points: FloatArray
    position: float
    truth: sp.csr_array
    name: str = "case"
    motion: Callable[[FloatArray], tuple[FloatArray, FloatArray]] | None = None


@dataclass(frozen=True)
class Example:
    """A case made ready: model inputs, baseline prediction at the hidden spots, and the truth there as (M, N) float32.

    Where motion is known it is (4, H, W): (dx, dy) in bins to section a, then to section b; NaN off the tissue.
    """

    inputs: ModelInputs
    base: BaselineTensors
    points: FloatArray
    position: float
    truth: Tensor
    name: str
    motion: Tensor | None = None


def make_examples(
    cases: Sequence[Case],
    config: C2STiConfig,
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[Case], object] = lambda case: None,
) -> list[Example]:
    """Compute what does not change while the network learns; cases of one pair that follow each other share most of it.

    Parameters
    ----------
    cases
        Hidden sections.
    config
        Settings of the network.
    device
        Where the work is done, and the examples live.
    seed
        Of the descriptions of a pair.
    progress
        Called with each case when it is done.
    """
    examples, last, baseline = [], None, Baseline(config.settings)
    for case in cases:
        if case.pair is not last:
            last, description = case.pair, baseline.describe(case.pair, device=device, seed=seed)
        inputs, base = prepare(
            case.pair, description, case.points, [case.position], n_panel=config.panel, device=device
        )
        truth = torch.as_tensor(case.truth.toarray().astype(np.float32), device=device)
        motion = None if case.motion is None else _known_motion(case, inputs).to(device)
        examples.append(Example(inputs, base, case.points, case.position, truth, case.name, motion))
        progress(case)
    return examples


def _known_motion(case: Case, inputs: ModelInputs) -> Tensor:
    assert case.motion is not None
    lattice = inputs.lattice
    moves = np.concatenate(case.motion(lattice.centres), axis=1) / lattice.pitch
    far = KDTree(case.points).query(lattice.centres)[0] > lattice.pitch
    moves[far] = np.nan
    return torch.as_tensor(moves.T.reshape(4, *lattice.shape).astype(np.float32))


def mark_of(hidden: Iterable[Case | Example]) -> str:
    """Hash of what a network learns from: names, places and expression of the hidden sections."""
    digest = hashlib.sha256()
    for one in hidden:
        digest.update(f"{one.name} {one.position!r}".encode())
        truth = one.truth.cpu().numpy() if isinstance(one.truth, Tensor) else one.truth.toarray()
        for part in (one.points, truth):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
