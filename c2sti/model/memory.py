"""About how many bytes describing a pair takes, beside the sections themselves: known before any work is done."""

from __future__ import annotations

from c2sti._stored import BLOCK
from c2sti._types import SlicePair
from c2sti.field import MOST
from c2sti.model.components import PATCHES, Settings

PER_ENTRY = 72  # bytes for each entry of a block while it is split into two parts
PER_SCORE = 8  # for each spot and map: scores, and their copy while they are centred
PER_POINT = 8  # for each point, position and map: the posterior mean, and what it is compressed to
PER_PAIR = 120  # for each two cells of a tile: their covariance, its spectrum for each length scale
LEAST = 60_000_000  # whatever the size


def memory(pair: SlicePair, n_points: int, n_positions: int, settings: Settings) -> int:
    """Bytes at the peak of a description and of the maps made from it.

    Parameters
    ----------
    pair
        What is described.
    n_points, n_positions
        M and S of what is asked for.
    settings
        Of the description.
    """
    sections = pair.sections
    n_spots = sum(len(section.xy) for section in sections)
    entries = min(BLOCK, sum(getattr(section.expression, "nnz", BLOCK) for section in sections))
    parts = 2 if settings.counts and settings.n_splits else 1
    n_maps = settings.n_components * (1 + 2 * settings.n_splits * settings.counts)
    patches = 4 * parts * pair.n_genes * (min(PATCHES, n_spots) + 2 * len(sections))
    describing = patches + PER_ENTRY * entries + PER_SCORE * n_spots * n_maps
    mapping = PER_POINT * n_points * (n_positions + 1) * n_maps
    tile = PER_PAIR * min(n_spots, MOST) ** 2
    return LEAST + tile + max(describing, mapping)
