"""The same tissue otherwise: moved a little before it is looked at, or turned on its slide afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import pi

import numpy as np
import torch
from torch import Tensor

from c2sti._types import FloatArray, Lattice, Section
from c2sti.ops import linear_at
from c2sti.training._examples import Case, Example


def elastic(case: Case, seed: int, amount: float = 0.7, width: float = 6.0) -> Case:
    """The case with the tissue of its sections moved a little, smoothly and each on its own; the hidden one stays.

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
    """(C, H, W) picture whose tissue was moved by (H·W, 2): what is at x now lay at about x minus the move."""
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
