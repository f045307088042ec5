"""About how many bytes describing a pair takes, beside the sections themselves: known before any work is done."""

from __future__ import annotations

from c2sti._stored import BLOCK
from c2sti._types import SlicePair
from c2sti.model.streamed import PATCHES, is_large

PER_ENTRY = 56  # bytes for each entry of a block while it is read and seen in three views
PER_MAP = 32  # for each spot and programme: scores, the field's copies of them
PER_POINT = 12  # for each inserted bin and map: the posterior mean, and what is kept of it
PER_VALUE = 22  # for each spot and gene of a view, where all spots are compared with all
PER_PAIR = 120  # for each two of them
LEAST = 100_000_000  # whatever the size


def memory(pair: SlicePair, n_points: int, n_positions: int, *, n_programmes: int, n_views: int, n_splits: int) -> int:
    """Bytes at the peak of a description and of the maps made from it.

    Parameters
    ----------
    pair
        What is described.
    n_points, n_positions
        M and S of what is asked for.
    n_programmes, n_views, n_splits
        Of the settings; views are one matrix, or three where there are counts.
    """
    n_spots = sum(len(section.xy) for section in pair.sections)
    columns = n_views * pair.n_genes
    maps = PER_POINT * n_positions * n_points * n_programmes
    if is_large(pair):
        patches = 4 * columns * sum(min(PATCHES, len(section.xy)) for section in pair.sections)
        # Axes are found before there are maps, and what that takes is given back.
        return LEAST + max(patches + PER_ENTRY * BLOCK, maps + PER_MAP * n_spots * n_programmes)
    return LEAST + maps * (1 + 2 * n_splits) + PER_VALUE * n_spots * columns + PER_PAIR * n_spots**2
