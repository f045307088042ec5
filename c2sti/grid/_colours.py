"""Colours of labels, ``uns["<key>_colors"]``, in every form in which scanpy, squidpy and files hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from anndata import AnnData

from c2sti import _check, _keys, _log

R_NAMES = """
antiquewhite2:eedfcc azure3:c1cdcd chartreuse3:66cd00 darkolivegreen2:bcee68 firebrick3:cd2626 gold2:eec900
grey10:1a1a1a grey20:333333 grey30:4d4d4d grey40:666666 grey50:7f7f7f grey60:999999 grey65:a6a6a6 grey77:c4c4c4
grey80:cccccc grey90:e5e5e5 indianred3:cd5555 khaki2:eee685 lightblue3:9ac0cd mediumorchid1:e066ff
mediumpurple3:8968cd olivedrab3:9acd32 orchid3:b452cd palegreen3:7ccd7c palevioletred3:cd6889 plum3:cd96cd
purple4:551a8b seagreen4:2e8b57 slategray3:9fb6cd snow4:8b8989 tomato2:ee5c42 violetred:d02090 wheat4:8b7e66
yellow4:8b8b00
"""  # names of R that scanpy reads beside those of matplotlib


def read_colours(adata: AnnData, name: str, key: str, categories: list[str]) -> dict[str, str]:
    """Colours of the categories of a column of `obs` as hex text; the log says which cannot be read.

    Parameters
    ----------
    adata, name
        An object, and what messages call it.
    key
        The column.
    categories
        All of its categories, in their order.
    """
    palette = adata.uns.get(_keys.colours(key))
    if palette is None:
        return {}
    where = f"uns[{_keys.colours(key)!r}] of {name}"
    given = _by_category(palette, categories)
    if not given:
        found = _check.shown(palette)
        _log.warning(f"{where} holds {found}, which is not a colour for each of {len(categories)} categories; left out")
        return {}
    colours = {category: _hex(colour) for category, colour in given.items()}
    wrong = [f"{_check.shown(given[category])} for {category!r}" for category, c in colours.items() if c is None]
    if wrong:
        _log.warning(f"{where} holds {', '.join(wrong)}, which cannot be read as a colour; left out")
    return {category: colour for category, colour in colours.items() if colour is not None}


def label_text(value: Any) -> str:
    """A label as text, the same for 1, 1.0 (whole numbers beside NaN) and "1"."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return value.decode() if isinstance(value, bytes) else str(value)


def _by_category(palette: Any, categories: list[str]) -> dict[str, Any]:
    """What a palette gives each category: by name, or in their order; nothing where it gives fewer."""
    palette = palette.compute() if hasattr(palette, "compute") else palette  # of a lazy object
    palette = palette.to_numpy() if hasattr(palette, "to_numpy") else palette
    if isinstance(palette, np.ndarray):  # of one: a view of anndata puts a dict, or one text, into an array
        palette = palette.item() if palette.size == 1 else list(palette)
    if isinstance(palette, Mapping):
        by_name = {label_text(category): colour for category, colour in palette.items()}
        return {category: by_name[category] for category in categories if category in by_name}
    colours = [palette] if isinstance(palette, str | bytes) else list(palette) if isinstance(palette, Iterable) else []
    if colours and isinstance(colours[0], Real):  # the channels of one colour
        colours = [tuple(colours)]
    return dict(zip(categories, colours, strict=False)) if len(colours) >= len(categories) else {}


def _hex(colour: Any) -> str | None:
    """A colour as hex text, with alpha where it is not opaque; None if it is none."""
    from matplotlib.colors import to_hex, to_rgba  # noqa: PLC0415 - loaded where colours are carried only

    colour = colour.decode() if isinstance(colour, bytes) else colour
    if isinstance(colour, str):
        of_r = dict(pair.split(":") for pair in R_NAMES.split())
        colour = f"#{of_r[short]}" if (short := colour.replace(" ", "")) in of_r else colour
    try:
        return str(to_hex(colour, keep_alpha=to_rgba(colour)[3] < 1))
    except (ValueError, TypeError):
        return None
