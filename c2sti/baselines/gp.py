"""A Gaussian process on every principal axis of the sections: the strongest method that needs no training.

Axis k of the sections' centred expression is a field over the tissue block (:mod:`c2sti.field`); its posterior mean at
the inserted depth, times the loadings of the axis, is the answer. There is no rank to set: axes that the tissue does
not support vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from c2sti._types import FloatArray, InsertedSection, Noise, Prediction, SlicePair
from c2sti.field import Field, observe
from c2sti.ops import smoothed_axes

N_AXES = 60


def gp(
    pair: SlicePair,
    at: FloatArray,
    positions: Sequence[float],
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> Prediction:
    """Gaussian process interpolation on each principal axis of the pair and its context; see the module's text.

    `seed` chooses the spots from which ℓ, c and ρ are learnt where there are many.
    """
    sections = pair.sections
    axes = smoothed_axes([s.expression for s in sections], N_AXES)
    means = [s.mean for s in sections]
    observed = observe(
        [s.xy / pair.spacing for s in sections],
        [s.position for s in sections],
        [s.expression @ axes.T - m @ axes.T for s, m in zip(sections, means, strict=True)],
        device=device,
    )
    field = Field.learn(observed, seed)
    progress(0.3)
    scores = field.at(at / pair.spacing, positions, lambda share: progress(0.7 * share))
    slices = [
        InsertedSection(score, axes, (1 - p) * means[0] + p * means[1])
        for score, p in zip(scores, positions, strict=True)
    ]
    notes = {
        "length": field.kernel.length * pair.spacing,
        "shared": field.kernel.shared,
        "decay": field.kernel.decay,
        "noise": field.noise.cpu().numpy(),
    }
    noise = Noise(lambda: field.variance_at(at / pair.spacing, positions), lambda: axes**2)
    return Prediction(tuple(slices), notes, noise)
