"""Held-out sections as training examples: made ready once, and turned anew at every step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import pi

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import KDTree
from torch import Tensor

from c2sti._types import FloatArray, Lattice, Section, SlicePair
from c2sti.models.c2sti import BaselineTensors, C2STiConfig, moved, prepare, settings_of
from c2sti.models.gp import Baseline
from c2sti.nn.inputs import ModelInputs


@dataclass(frozen=True)
class Case:
    """A pair and one measured section between its two, which the pair does not contain."""

    pair: SlicePair
    points: FloatArray  # (M, 2) spots of the held-out section, in the frame of the pair
    position: float  # in (0, 1)
    truth: sp.csr_array  # (M, N) log1p expression, genes as in the pair
    name: str = "case"
    # Where it is known (on simulated tissue, and after `elastic`): how far from (m, 2) points of the held-out section
    # the same material lies in section a, and in section b.
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

    def to(self, device: str) -> Example:
        """The same on a device."""
        motion = None if self.motion is None else self.motion.to(device)
        inputs, base, truth = self.inputs.to(device), self.base.to(device), self.truth.to(device)
        return replace(self, inputs=inputs, base=base, truth=truth, motion=motion)


def make_examples(
    cases: Sequence[Case],
    config: C2STiConfig,
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[Case], object] = lambda case: None,
) -> list[Example]:
    """Compute what does not change while the network learns; cases of one pair that follow each other share most of it.

    `seed` is of the descriptions of a pair; `progress` is called with each case when it is done.
    """
    examples, last, baseline = [], None, Baseline(replace(settings_of(config), registered=False))
    for case in cases:
        if case.pair is not last:
            last, description = case.pair, baseline.describe(case.pair, device=device, seed=seed)
        inputs, base = prepare(case.pair, description, case.points, [case.position], config, device=device)
        truth = torch.as_tensor(case.truth.toarray().astype(np.float32), device=device)
        motion = None
        if case.motion is not None:
            lattice = inputs.lattice
            moves = np.concatenate(case.motion(lattice.centres), axis=1) / lattice.pitch
            moves[KDTree(case.points).query(lattice.centres)[0] > lattice.pitch] = np.nan
            motion = torch.as_tensor(moves.T.reshape(4, *lattice.shape).astype(np.float32), device=device)
        examples.append(Example(inputs, base, case.points, case.position, truth, case.name, motion))
        progress(case)
    return examples


def mark_of(held_out: Iterable[Case | Example]) -> str:
    """Hash of what a network learns from: names, places and expression of the held-out sections."""
    digest = hashlib.sha256()
    for one in held_out:
        digest.update(f"{one.name} {one.position!r}".encode())
        truth = one.truth.cpu().numpy() if isinstance(one.truth, Tensor) else one.truth.toarray()
        for part in (one.points, truth):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def turned_maps(maps: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """(…, H, W) maps, mirrored in x first where asked for, then turned by quarters as ``torch.rot90`` counts them."""
    return torch.rot90(maps.flip(-1) if mirrored else maps, quarters, dims=(-2, -1)).contiguous()


def turn(example: Example, quarters: int, mirrored: bool) -> Example:
    """The example, mirrored in x first where asked for, then turned by quarters as ``torch.rot90`` counts them.

    Each quarter takes +x to -y, up the slide. The example itself stays as it is.
    """
    turned = partial(turned_maps, quarters=quarters, mirrored=mirrored)
    lattice = example.inputs.lattice
    points = (example.points - np.asarray(lattice.origin)) / lattice.pitch
    height, width = lattice.shape
    dx, dy = (None, None) if example.motion is None else (example.motion[0::2], example.motion[1::2])
    if mirrored:
        points = np.column_stack([width - 1 - points[:, 0], points[:, 1]])
        dx = None if dx is None else -dx
    for _ in range(quarters % 4):
        points = np.column_stack([points[:, 1], width - 1 - points[:, 0]])
        height, width = width, height
        dx, dy = dy, None if dx is None else -dx
    motion = None if dx is None or dy is None else turned(torch.stack([dx, dy], dim=1).flatten(0, 1))
    inputs = replace(example.inputs.each(turned), lattice=Lattice((0.0, 0.0), 1.0, (height, width)))
    return replace(example, inputs=inputs, points=points, motion=motion)


def elastic(case: Case, seed: int, amount: float = 0.7, width: float = 6.0) -> Case:
    """The case with the tissue of its sections moved a little, smoothly and each on its own; the held-out one stays.

    Sections are distorted when they are cut. Here the distortion is known, so motion can be learnt from tissue that was
    measured. `amount` is the root mean square of a move of either section of the pair at a distance of half the gap,
    `width` the length scale of the moves, both in spot spacings.
    """
    pair, lattice = case.pair, case.pair.lattice
    waves = _waves(np.random.default_rng(seed), width * pair.spacing)

    def shift(xy: FloatArray, position: float) -> FloatArray:
        return 2 * (position - case.position) * amount * pair.spacing * waves(xy)

    def bent(section: Section) -> Section:
        before = lattice.centres - shift(lattice.centres, section.position)  # of what is there now, about
        return moved(section, section.xy + shift(section.xy, section.position), lattice, before)

    def motion(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        still = np.zeros_like(points)
        to_a, to_b = case.motion(points) if case.motion is not None else (still, still)
        # A point that lay at x, and was in a at x + known, is now at x + known + the shift at that place.
        return to_a + shift(points + to_a, 0.0), to_b + shift(points + to_b, 1.0)

    a, b, *context = map(bent, pair.sections)
    return replace(case, pair=replace(pair, a=a, b=b, context=tuple(context)), motion=motion, name=f"{case.name} moved")


def _waves(rng: np.random.Generator, width: float, n_waves: int = 24) -> Callable[[FloatArray], FloatArray]:
    """A random smooth field of vectors, (n, 2) → (n, 2), of length 1 (root mean square): Fourier features of an RBF."""
    frequency = rng.standard_normal((2, n_waves)) / width
    phase = rng.uniform(0, 2 * pi, (2, n_waves))
    return lambda xy: np.stack([np.cos(xy @ frequency + p).sum(axis=1) for p in phase], axis=1) / n_waves**0.5
