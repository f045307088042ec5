"""The parameters that all plots share, in squidpy's and scanpy's words: declared, checked and documented once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar, get_type_hints

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from c2sti import _validators
from c2sti._docs import documented
from c2sti._types import FloatArray

DPI = 300  # of files that are written: a page is printed at no less
PERCENTILE = re.compile(r"p\d+(\.\d+)?")
Plot = TypeVar("Plot", bound=Callable[..., Any])


class Frame(TypedDict, total=False):
    """What every plot takes."""

    ax: Axes | Sequence[Axes] | None
    figsize: tuple[float, float] | None
    title: str | Sequence[str] | None
    save: str | Path | None
    show: bool


class Scale(Frame, total=False):
    """What plots take whose colours stand for numbers."""

    vmin: float | str | None
    vmax: float | str | None


class Colours(Scale, total=False):
    """What plots take that have a colour map."""

    cmap: str | Colormap | None


class Panels(Colours, total=False):
    """What plots take that set panels out in rows."""

    ncols: int | None


def shares(words: type) -> Callable[[Plot], Plot]:
    """Give a plot the parameters of `words`, in place of its ``**look``, and their text.

    They are checked before anything is drawn. Titles, files and ``plt.show()`` are seen to afterwards.
    """
    hints = get_type_hints(words)

    def wrap(draw: Plot) -> Plot:
        own = inspect.signature(draw, eval_str=True)
        keyword, kept = inspect.Parameter.KEYWORD_ONLY, list(own.parameters.values())[:-1]
        first = {"show": False}
        added = [
            inspect.Parameter(name, keyword, default=first.get(name), annotation=hints[name])
            for name in ("ncols", "cmap", "vmin", "vmax", "ax", "figsize", "title", "save", "show")
            if name in hints
        ]
        signature = own.replace(parameters=[*kept, *added])

        @functools.wraps(draw)
        def call(*given: Any, **named: Any) -> Any:
            signature.bind(*given, **named)  # a TypeError where a name is unknown
            look = {name: value for name, value in named.items() if name in hints}
            check(look)
            axes = draw(*given, **named)
            finish([axes] if isinstance(axes, Axes) else axes, look)
            return axes

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        call.__annotations__["return"] = own.return_annotation
        return documented(call)  # type: ignore[return-value]

    return wrap


def check(look: dict[str, Any]) -> None:
    """Refuse a file that cannot be written, colours that do not exist, and a `vmin` that is not below `vmax`."""
    cmap, title, figsize = look.get("cmap"), look.get("title"), look.get("figsize")
    if isinstance(cmap, str) and cmap not in colormaps:
        raise ValueError(f"cmap = {cmap!r} is no colour map of matplotlib, such as 'viridis' or 'magma'")
    _validators.a(cmap, "cmap", (str, Colormap, type(None)), "the name of a colour map")
    ends = {name: check_end(look[name], name) for name in ("vmin", "vmax") if look.get(name) is not None}
    numbers = {name: end for name, end in ends.items() if not isinstance(end, str)}
    if len(numbers) == 2 and not numbers["vmin"] < numbers["vmax"]:
        raise ValueError(f"vmin = {numbers['vmin']:g} must lie below vmax = {numbers['vmax']:g}")
    if figsize is not None:
        sides = [
            _validators.number(side, "figsize", above=0) for side in _validators.several(figsize, "figsize", "two")
        ]
        if len(sides) != 2:
            raise ValueError(f"figsize holds {len(sides)} numbers; width and height in inches are needed")
    if title is not None:
        _validators.names(title, "title")
    if look.get("ncols") is not None:
        _validators.whole(look["ncols"], "ncols")
    if (save := look.get("save")) is not None and not (path := check_kind(save, "save")).parent.is_dir():
        raise FileNotFoundError(f"save = {str(path)!r}: there is no folder {path.parent}; make it first")


def check_end(end: float | str, name: str) -> float | str:
    """An end of a scale: a number, or a percentile."""
    if not isinstance(end, str):
        return _validators.number(end, name)
    if not PERCENTILE.fullmatch(end) or float(end[1:]) > 100:
        raise ValueError(f"{name} = {end!r} is no percentile from 'p0' to 'p100'; give one, such as 'p99', or a number")
    return end


def check_kind(file: str | Path, name: str) -> Path:
    """A file of a kind that matplotlib can draw; raises ValueError for others."""
    path, kinds = _validators.path(file, name), FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{name} = {str(path)!r} ends in none of what can be drawn: {', '.join(sorted(kinds))}")
    return path


def ends(
    values: FloatArray, look: Scale | Colours | Panels, low: float | str = "p1", high: float | str = "p99"
) -> tuple[float, float]:
    """Ends of the scale of what is drawn: those asked for, else those given; not the same where nothing varies."""
    finite = values[np.isfinite(values)]
    wanted = [default if end is None else end for end, default in ((look.get("vmin"), low), (look.get("vmax"), high))]
    at = [
        float(end) if not isinstance(end, str) else float(np.percentile(finite, float(end[1:]))) if finite.size else 0.0
        for end in wanted
    ]
    return at[0], max(at[1], at[0] + 1e-3 * max(1.0, abs(at[0])))


def finish(axes: Sequence[Axes], look: dict[str, Any]) -> None:
    """Titles, the file and the window, where they are asked for."""
    title = look.get("title")
    if isinstance(title, str) and len(axes) > 1:
        figure_of(axes[0]).suptitle(title)
    elif title is not None:
        given = [title] if isinstance(title, str) else list(title)
        if len(given) != len(axes):
            raise ValueError(f"title holds {len(given)} texts; one for each of {len(axes)} panels is needed")
        for ax, text in zip(axes, given, strict=True):
            ax.set_title(text)
    if look.get("save") is not None:
        figure_of(axes[0]).savefig(look["save"], bbox_inches="tight", dpi=DPI)
    if look.get("show"):
        plt.show()


def figure_of(ax: Axes) -> Figure:
    """The figure that holds the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes that were drawn into belong to one
    return figure
