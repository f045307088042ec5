"""What all plots share: parameters in squidpy's and scanpy's words, colours that suit the background, and panels."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar, get_type_hints

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import Colormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from c2sti import _validators
from c2sti._docs import documented
from c2sti._types import FloatArray

INSERTED_COLOUR, MEASURED_COLOUR = "#b5402a", "#333333"
INK = "#12203a"  # of lines over bins
PAGE = 7.2  # inches: width of a printed page, which no figure exceeds by itself
PANEL, LARGE_PANEL = 2.6, 4.6  # inches, of one of several panels and of one alone
MOST_COLUMNS = 5  # of a figure: more could not be read on a page
BAR, CAPTION = 0.8, 0.35  # inches, beside the panels for a colour bar and above each for its title
CAPTION_FONT, SMALL_FONT = 7.5, 6.2
DPI = 300  # of files that are written: a page is printed at no less
HALO = [Stroke(linewidth=2.0, foreground="white"), Normal()]  # around what is written over an image
THIN_HALO = [Stroke(linewidth=1.4, foreground="white"), Normal()]  # around lines over it
PERCENTILE = re.compile(r"p\d+(\.\d+)?")
Plot = TypeVar("Plot", bound=Callable[..., Any])


def is_dark() -> bool:
    """Whether the style in force writes in a light colour, on a dark background."""
    return float(np.dot(to_rgb(rcParams["text.color"]), (0.299, 0.587, 0.114))) > 0.5


def ink() -> str:
    """Colour of what stands on the background: measured sections, marks, names."""
    return str(rcParams["text.color"]) if is_dark() else MEASURED_COLOUR


def accent() -> str:
    """Colour of interpolated sections, bright enough for the background."""
    return "#ff8466" if is_dark() else INSERTED_COLOUR


def halo() -> list[Any]:
    """Around what is written on the background, over lines."""
    return [Stroke(linewidth=2.0, foreground="black" if is_dark() else "white"), Normal()]


# ---- parameters: declared, checked and documented once


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


class Panels(Scale, total=False):
    """What plots take that have a colour map, and set panels out in rows."""

    cmap: str | Colormap | None
    ncols: int | None


def shares(words: type) -> Callable[[Plot], Plot]:
    """Give a plot the parameters of `words`, in place of its ``**look``, and their text.

    They are checked before anything is drawn. Titles, files and ``plt.show()`` are seen to afterwards.
    """
    hints = get_type_hints(words)
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False if name == "show" else None, annotation=hints[name]
        )
        for name in ("ncols", "cmap", "vmin", "vmax", "ax", "figsize", "title", "save", "show")
        if name in hints
    ]

    def wrap(draw: Plot) -> Plot:
        own = inspect.signature(draw, eval_str=True)
        signature = own.replace(parameters=[*list(own.parameters.values())[:-1], *added])

        @functools.wraps(draw)
        def call(*given: Any, **named: Any) -> Any:
            signature.bind(*given, **named)  # a TypeError where a name is unknown
            look = {name: value for name, value in named.items() if name in hints}
            _check(look)
            axes = draw(*given, **named)
            _finish([axes] if isinstance(axes, Axes) else axes, look)
            return axes

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        call.__annotations__["return"] = own.return_annotation
        return documented(call)  # type: ignore[return-value]

    return wrap


def _check(look: dict[str, Any]) -> None:
    """Refuse a file that cannot be written, colours that do not exist, and a `vmin` that is not below `vmax`."""
    cmap, figsize = look.get("cmap"), look.get("figsize")
    if isinstance(cmap, str) and cmap not in colormaps:
        raise ValueError(f"cmap = {cmap!r} is no colour map of matplotlib, such as 'viridis' or 'magma'")
    _validators.a(cmap, "cmap", (str, Colormap, type(None)), "the name of a colour map")
    low, high = (_end(look.get(name), name) for name in ("vmin", "vmax"))
    if low is not None and high is not None and not low < high:
        raise ValueError(f"vmin = {low:g} must lie below vmax = {high:g}")
    if figsize is not None:
        sides = _validators.several(figsize, "figsize", "two")
        for side in sides:
            _validators.number(side, "figsize", above=0)
        if len(sides) != 2:
            raise ValueError(f"figsize holds {len(sides)} numbers; width and height in inches are needed")
    if look.get("title") is not None:
        _validators.names(look["title"], "title")
    if look.get("ncols") is not None:
        _validators.whole(look["ncols"], "ncols")
    if (save := look.get("save")) is not None and not (path := check_kind(save, "save")).parent.is_dir():
        raise FileNotFoundError(f"save = {str(path)!r}: there is no folder {path.parent}; make it first")


def _end(end: float | str | None, name: str) -> float | None:
    """An end of a scale that was given as a number, not as a percentile."""
    if end is None or (isinstance(end, str) and PERCENTILE.fullmatch(end) and float(end[1:]) <= 100):
        return None
    if isinstance(end, str):
        raise ValueError(f"{name} = {end!r} is no percentile from 'p0' to 'p100'; give one, such as 'p99', or a number")
    return _validators.number(end, name)


def check_kind(file: str | Path, name: str) -> Path:
    """A file of a kind that matplotlib can draw; raises ValueError for others."""
    path, kinds = _validators.path(file, name), FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{name} = {str(path)!r} ends in none of what can be drawn: {', '.join(sorted(kinds))}")
    return path


def _finish(axes: Sequence[Axes], look: dict[str, Any]) -> None:
    """Titles, the file and the window, where they are asked for."""
    title = look.get("title")
    if isinstance(title, str) and len(axes) > 1:
        figure_of(axes[0]).suptitle(title)
    elif title is not None:
        given = _validators.names(title, "title")
        if len(given) != len(axes):
            raise ValueError(f"title holds {len(given)} texts; one for each of {len(axes)} panels is needed")
        for ax, text in zip(axes, given, strict=True):
            ax.set_title(text)
    if look.get("save") is not None:
        figure_of(axes[0]).savefig(look["save"], bbox_inches="tight", dpi=DPI)
    if look.get("show"):
        plt.show()


def ends(
    values: FloatArray, look: Scale | Panels, low: float | str = "p1", high: float | str = "p99"
) -> tuple[float, float]:
    """Ends of the scale of what is drawn: those asked for, else those given; not the same where nothing varies."""
    finite = values[np.isfinite(values)]
    asked = [default if end is None else end for end, default in ((look.get("vmin"), low), (look.get("vmax"), high))]
    at = [
        float(end) if not isinstance(end, str) else float(np.percentile(finite, float(end[1:]))) if finite.size else 0.0
        for end in asked
    ]
    return at[0], max(at[1], at[0] + 1e-3 * max(1.0, abs(at[0])))


def figure_of(ax: Axes) -> Figure:
    """The figure that holds the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes that were drawn into belong to one
    return figure


# ---- panels


class Row(NamedTuple):
    """Panels that share a scale, and an empty axes beside them for a colour bar or a legend, unless axes were given."""

    axes: list[Axes]
    key: Axes | None = None


def panels(groups: Sequence[int], look: Frame | Panels, *, shape: float = 1.0, width: float = PANEL) -> list[Row]:
    """Axes for groups of so many panels, each of which begins a row unless it is one panel; or those given.

    `shape` is a panel's height by its width, and `width` the most that it has, inches.
    """
    if look.get("ax") is not None:
        given = iter(_given(look["ax"], sum(groups)))
        return [Row([next(given) for _ in range(n)]) for n in groups]
    alone = max(groups) == 1  # each with a key of its own
    longest = len(groups) if alone else max(groups)
    most = MOST_COLUMNS // 2 if alone else MOST_COLUMNS
    asked: Any = look.get("ncols")
    columns = min(asked or -(-longest // -(-longest // most)), longest)  # rows of about one length
    side = min(LARGE_PANEL if longest == 1 else width, (PAGE - BAR * (columns if alone else 1)) / columns)
    lines = [-(-n // columns) for n in ([longest] if alone else groups)]
    ratios = [side, BAR] * columns if alone else [side] * columns + [BAR]
    size = look.get("figsize") or (sum(ratios), (side * shape + CAPTION) * sum(lines))
    figure = plt.figure(figsize=size, layout="constrained")
    spec = figure.add_gridspec(sum(lines), len(ratios), width_ratios=ratios)
    if alone:
        places = [(i // columns, 2 * (i % columns)) for i in range(longest)]
        rows = [Row([figure.add_subplot(spec[i, j])], figure.add_subplot(spec[i, j + 1])) for i, j in places]
    else:
        rows = []
        for n, first, count in zip(groups, np.cumsum([0, *lines]), lines, strict=False):
            axes = [figure.add_subplot(spec[first + i // columns, i % columns]) for i in range(n)]
            rows.append(Row(axes, figure.add_subplot(spec[first : first + count, -1])))
    for row in rows:
        assert row.key is not None
        row.key.set_axis_off()
    return rows


def one_panel(look: Frame, *, size: tuple[float, float]) -> Axes:
    """The axes given, or new ones in a figure of that size, inches."""
    if look.get("ax") is not None:
        return _given(look["ax"], 1)[0]
    return plt.subplots(figsize=look.get("figsize") or size, layout="constrained")[1]


def _given(given: Any, total: int) -> list[Axes]:
    """Axes that were given, one for each panel."""
    if isinstance(given, np.ndarray):
        given = list(given.flat)
    found = [given] if isinstance(given, Axes) else _validators.several(given, "ax", "axes, one a panel")
    if len(found) != total:
        raise ValueError(f"ax holds {len(found)} axes; one for each of {total} panels is needed")
    for ax in found:
        _validators.a(ax, "ax, or one of it,", Axes, "a matplotlib Axes")
    return found
