"""All wrong calls, function by function."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.bad_inputs import Bad, alignment, commands, data, gaps, models, plots, results, slides


def catalogue() -> Iterator[Bad]:
    """The whole list, in the order of the table."""
    for module in (gaps, slides, results, alignment, models, data, plots, commands):
        yield from module.cases()
