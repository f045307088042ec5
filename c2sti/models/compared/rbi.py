"""Registration-based interpolation: where tissue of one section lies in the other, and the straight way between.

The pair is registered both ways by cubic B-splines (SimpleITK), on its leading maps. What lies at x in one section and
at x + u(x) in the other passes x + t·u(x) on its way, where it looks as a blend of both; the two directions are
averaged by 1 − t and t. Nothing is trained. Positions are arbitrary, and sections beyond the pair are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from c2sti._types import FloatArray, Prediction, SlicePair
from c2sti.models.compared._frames import Frames, blend, warp

N_MAPS = 5
N_REGISTERED = 3  # leading maps that are registered
CONTROL = 6  # bins between control points, about
ROUNDS = 5  # of finding where a place comes from
ITERATIONS = 40
FARTHEST = 5.0  # bins that a control point may move
FEWEST_BINS = 8  # a side; of fewer there is nothing to register, and nothing moves


def rbi(
    pair: SlicePair,
    at: FloatArray,
    positions: Sequence[float],
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> Prediction:
    """Interpolate along a registration of the pair; see :class:`c2sti._types.Interpolator`."""
    frames = Frames(pair, N_MAPS)
    maps = frames.ends[:, :N_MAPS]
    there, back = registered(frames.ends[0], frames.ends[1]), registered(frames.ends[1], frames.ends[0])
    progress(0.8)
    changes = []
    for p in positions:
        forth = _on_the_way(maps[0], maps[1], there, p)
        home = _on_the_way(maps[1], maps[0], back, 1 - p)
        changes.append((1 - p) * forth + p * home - blend(maps, p))
        progress(0.2 / len(positions))
    # Where the two registrations agree: (dx, dy) from a to b, in the unit of the frame.
    motion = ((there - back) / 2).numpy() * frames.lattice.pitch
    return frames.prediction(at, positions, changes, {"motion": motion})


def registered(fixed: Tensor, moving: Tensor) -> Tensor:
    """(2, H, W) how far, in bins, what is at x in one (K + 2, H, W) frame lies from there in the other: (dx, dy).

    SimpleITK's measures compare single images, so each of the leading maps is registered by itself, and the
    moves are averaged by the variance of the maps.
    """
    strength = fixed[:N_REGISTERED].var(dim=(1, 2)) * moving[:N_REGISTERED].var(dim=(1, 2))
    weights = (strength.sqrt() / strength.sqrt().sum().clamp(min=1e-12)).tolist()
    total = torch.zeros_like(fixed[:2])
    if min(fixed.shape[1:]) < FEWEST_BINS:
        return total
    for i, weight in enumerate(weights):
        if weight > 0.05:
            total = total + weight * _register(fixed[i].numpy(), moving[i].numpy(), fixed[N_MAPS].numpy())
    return total


def _register(fixed: FloatArray, moving: FloatArray, tissue: FloatArray) -> Tensor:
    try:
        import SimpleITK as sitk  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ImportError('model="rbi" needs SimpleITK: pip install "c2sti[registration]"') from error
    images = [sitk.GetImageFromArray(((m - m.mean()) / (m.std() or 1)).astype(np.float64)) for m in (fixed, moving)]
    mesh = [max(2, round(n / CONTROL)) for n in fixed.shape[::-1]]
    transform = sitk.BSplineTransformInitializer(images[0], mesh, 3)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(sitk.GetImageFromArray(tissue.astype(np.uint8)))
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGSB(numberOfIterations=ITERATIONS, lowerBound=-FARTHEST, upperBound=FARTHEST)
    method.SetInitialTransform(transform, inPlace=True)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1.0, 0.5])
    method.SetNumberOfThreads(1)  # sums in another order would give other results
    method.Execute(*images)
    to_field = sitk.TransformToDisplacementFieldFilter()
    to_field.SetReferenceImage(images[0])
    field = to_field.Execute(transform)
    return torch.as_tensor(sitk.GetArrayFromImage(field).astype(np.float32)).permute(2, 0, 1)


def _on_the_way(near: Tensor, far: Tensor, moves: Tensor, t: float) -> Tensor:
    """(K, H, W) maps at t of the way along the moves from one section to the other."""
    # The place y that is passed at t was left at x with x + t·u(x) = y: a few rounds of x = y − t·u(x) find it.
    back = torch.zeros_like(moves)
    for _ in range(ROUNDS):
        back = -t * warp(moves, back)
    return (1 - t) * warp(near, back) + t * warp(far, back + warp(moves, back))
