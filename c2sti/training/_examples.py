"""Held-out sections as training examples, made ready once, and augmented anew at every step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import pi

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import KDTree
from torch import Tensor

from c2sti._types import FloatArray, Lattice, Section, SlicePair
from c2sti.models.c2sti import C2STiConfig, prepare, settings_of
from c2sti.models.gp import Baseline, BaselineTensors
from c2sti.nn.c2sti import ModelInputs
from c2sti.ops import linear_at


def elastic(case: Case, seed: int, amount: float = 0.7, width: float = 6.0) -> Case:
    """The case with the tissue of its sections moved a little, smoothly and each on its own; the held-out one stays.

    What was cut never lies as it lay in the block. Here it is known how far it does not, so motion can be learnt from
    tissue that was measured.

    Parameters
    ----------
    case
        To be changed; it stays as it is.
    seed
        Of the moves.
    amount
        Root mean square of a move of either section of the pair at a distance of half the gap, in spot spacings.
    width
        Length scale of the moves, in spot spacings.
    """
    pair, t = case.pair, case.position
    rng = np.random.default_rng(seed)
    waves = _waves(rng, width * pair.spacing)

    def shift(xy: FloatArray, position: float) -> FloatArray:
        return 2 * (position - t) * amount * pair.spacing * waves(xy)

    def moved(section: Section) -> Section:
        xy = section.xy + shift(section.xy, section.position)
        at_bins = shift(pair.lattice.centres, section.position)
        histology, features = (
            None if maps is None else _warped(maps, at_bins, pair.lattice)
            for maps in (section.histology, section.features)
        )
        return replace(section, xy=xy, histology=histology, features=features)

    a, b, *context = (moved(section) for section in pair.sections)

    def motion(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        still = np.zeros_like(points)
        known = case.motion(points) if case.motion is not None else (still, still)
        # A point that lay at x, and was there in a at x + known, is now at x + known + the shift at that place.
        there = [points + k for k in known]
        moves = [k + shift(x, q) for k, x, q in zip(known, there, (0.0, 1.0), strict=True)]
        return moves[0], moves[1]

    return replace(case, pair=replace(pair, a=a, b=b, context=tuple(context)), motion=motion, name=f"{case.name} moved")


def _waves(rng: np.random.Generator, width: float, n_waves: int = 24) -> Callable[[FloatArray], FloatArray]:
    """A random smooth field of vectors, (n, 2) → (n, 2), of length 1 (root mean square): Fourier features of an RBF."""
    frequency = rng.standard_normal((2, n_waves)) / width
    phase = rng.uniform(0, 2 * pi, (2, n_waves))

    def field(xy: FloatArray) -> FloatArray:
        return np.stack([np.cos(xy @ frequency + p).sum(axis=1) for p in phase], axis=1) / n_waves**0.5

    return field


def _warped(picture: FloatArray, moves: FloatArray, lattice: Lattice) -> FloatArray:
    """(C, H, W) image whose tissue was moved by (H·W, 2): what is at x now lay at about x minus the move."""
    found = linear_at(picture, lattice, lattice.centres - moves, beyond=np.nan)
    return found.reshape(-1, *lattice.shape).astype(picture.dtype)


def turned_maps(maps: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """(…, H, W) maps, mirrored in x first where asked for, then turned by quarters as ``torch.rot90`` counts them."""
    return torch.rot90(maps.flip(-1) if mirrored else maps, quarters, dims=(-2, -1)).contiguous()


def turn(example: Example, quarters: int, mirrored: bool) -> Example:
    """The example turned by quarters of a circle (and mirrored first): same tissue, another slide.

    Parameters
    ----------
    example
        To be turned; it stays as it is.
    quarters
        Quarter turns, as ``torch.rot90`` counts them: each takes +x to -y, up the slide.
    mirrored
        Whether to mirror x first.
    """
    inputs = example.inputs

    def moved(maps: Tensor) -> Tensor:
        return turned_maps(maps, quarters, mirrored)

    points = (example.points - np.asarray(inputs.lattice.origin)) / inputs.lattice.pitch
    height, width = inputs.lattice.shape
    if mirrored:
        points = np.column_stack([width - 1 - points[:, 0], points[:, 1]])
    for _ in range(quarters % 4):
        points = np.column_stack([points[:, 1], width - 1 - points[:, 0]])
        height, width = width, height
    motion = example.motion
    if motion is not None:
        dx, dy = motion[0::2], motion[1::2]
        dx = -dx if mirrored else dx
        for _ in range(quarters % 4):
            dx, dy = dy, -dx
        motion = moved(torch.stack([dx, dy], dim=1).flatten(0, 1))
    turned = replace(inputs.each(moved), lattice=Lattice((0.0, 0.0), 1.0, (height, width)))
    return replace(example, inputs=turned, points=points, motion=motion)


@dataclass(frozen=True)
class Case:
    """A pair and one measured section between its two, which the pair does not know.

    Parameters
    ----------
    pair
        What the network is given.
    points
        (M, 2) spots of the held-out section, in the frame of the pair.
    position
        Of the held-out section, in (0, 1).
    truth
        (M, N) log1p expression, CSR, genes as in the pair.
    name
        What errors call it.
    motion
        Where it is known, a function of (m, 2) points of the held-out section: how far (m, 2) from there the same
        material lies in section a, and in section b. Simulated tissue knows, and so does tissue moved by
        :func:`elastic`.
    """

    pair: SlicePair
    points: FloatArray
    position: float
    truth: sp.csr_array
    name: str = "case"
    motion: Callable[[FloatArray], tuple[FloatArray, FloatArray]] | None = None


@dataclass(frozen=True)
class Example:
    """A case made ready: model inputs, baseline prediction at the held-out spots, the truth there as (M, N) float32.

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
        Held-out sections.
    config
        Settings of the network.
    device
        Where the work is done, and the examples live.
    seed
        Of the descriptions of a pair.
    progress
        Called with each case when it is done.
    """
    examples, last, baseline = [], None, Baseline(settings_of(config))
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
    """Hash of what a network learns from: names, places and expression of the held-out sections."""
    digest = hashlib.sha256()
    for one in hidden:
        digest.update(f"{one.name} {one.position!r}".encode())
        truth = one.truth.cpu().numpy() if isinstance(one.truth, Tensor) else one.truth.toarray()
        for part in (one.points, truth):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
