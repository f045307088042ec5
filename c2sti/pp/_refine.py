"""From a rough placement to the best one nearby, by SimpleITK."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Literal

import numpy as np

from c2sti._types import FloatArray
from c2sti.pp._maps import Maps, apply

Method = Literal["rigid", "affine"]

# Of the parameters of a 3-D transform those that act within the plane of a section.
IN_PLANE = {"rigid": [0, 0, 1, 1, 1, 0], "affine": [1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0]}
FIRST_STEP, LAST_STEP, MOST_ITERATIONS = 0.25, 1e-3, 200  # in distances between spots
COARSE_STEP = 0.05  # the last one where placements are only to be told apart


def simpleitk() -> ModuleType:
    """The library, or an error that names the extra which brings it."""
    try:
        import SimpleITK  # noqa: PLC0415  an extra, and a second to import
    except ImportError as error:
        raise ImportError(
            'align estimates a placement with SimpleITK: pip install "c2sti[registration]"; or give one with matrix='
        ) from error
    return SimpleITK


def refine(
    reference: Maps, moving: Maps, matrix: FloatArray, method: Method, last_step: float = LAST_STEP
) -> FloatArray:
    """The (3, 3) placement near `matrix` in which the two sections' maps correlate best.

    SimpleITK's metrics compare images of one channel. Channels are therefore stacked along the third axis of a 3-D
    image, and a 3-D transform is optimised whose parameters outside of the plane carry no weight. Outside of their
    tissue maps are 0, their mean: that draws outlines together, where masks would let sections drift apart.

    Nothing is drawn at random and one thread sums up: the same input gives the same placement.
    """
    sitk = simpleitk()
    unit = np.diag([1 / reference.step, 1 / reference.step, 1.0])
    start = unit @ matrix @ np.linalg.inv(unit)
    centre = apply(start, moving.points / reference.step).mean(axis=0)
    correction = sitk.AffineTransform(3) if method == "affine" else sitk.Euler3DTransform()
    correction.SetCenter((*centre.tolist(), 0.0))

    registration = sitk.ImageRegistrationMethod()
    registration.SetNumberOfThreads(1)
    registration.SetMetricAsCorrelation()
    registration.SetMetricSamplingStrategy(registration.NONE)
    # The gradient filter would smooth along the third axis too, from one channel into the next.
    registration.MetricUseFixedImageGradientFilterOff()
    registration.MetricUseMovingImageGradientFilterOff()
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetMovingInitialTransform(_transform(sitk, np.linalg.inv(start)))
    registration.SetInitialTransform(correction, inPlace=True)
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=FIRST_STEP, minStep=last_step, numberOfIterations=MOST_ITERATIONS, gradientMagnitudeTolerance=1e-8
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetOptimizerWeights(IN_PLANE[method])
    registration.Execute(_image(sitk, reference, reference.step), _image(sitk, moving, reference.step))
    # A correction acts on points of the reference, before the inverse of the start brings them to `moving`.
    return np.linalg.inv(unit) @ np.linalg.inv(_matrix(correction)) @ start @ unit


def _image(sitk: ModuleType, maps: Maps, unit: float) -> Any:
    image = sitk.GetImageFromArray(maps.channels)
    pixel = maps.lattice.pitch / unit
    image.SetSpacing((pixel, pixel, 1.0))
    image.SetOrigin((maps.lattice.origin[0] / unit, maps.lattice.origin[1] / unit, 0.0))
    return image


def _transform(sitk: ModuleType, matrix: FloatArray) -> Any:
    linear = np.eye(3)
    linear[:2, :2] = matrix[:2, :2]
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(linear.ravel().tolist())
    transform.SetTranslation((*matrix[:2, 2].tolist(), 0.0))
    return transform


def _matrix(transform: Any) -> FloatArray:
    """(3, 3) matrix of a transform, read off three points."""
    corners = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    origin, right, down = (np.array(transform.TransformPoint(c)[:2]) for c in corners)
    matrix = np.eye(3)
    matrix[:2] = np.column_stack([right - origin, down - origin, origin])
    return matrix
