"""The look of every plot: one palette, one set of sizes, figures as bytes. Nothing here knows what is plotted."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# Colours that stay apart in print and for the colour-blind; a family has the same one in every plot.
FAMILY_COLORS = {
    "ivit": "#d1495b",
    "ivit, paper": "#edae49",
    "ibert": "#2a6f97",
    "ppoly": "#3d9a6b",
    "exact": "#3d9a6b",
    "lut": "#7b5ea7",
    "lut, rounded": "#b9a6d3",
    "float": "#8a8a8a",
}
_OTHER_COLORS = cycle(("#c2185b", "#00897b", "#6d4c41", "#5e35b1", "#9e9d24", "#0288d1"))  # of families not above
KIND_COLORS = {
    "linear": "#2a6f97",
    "attention": "#d1495b",
    "gelu": "#edae49",
    "layernorm": "#3d9a6b",
    "residual": "#7b5ea7",
    "input": "#8a8a8a",
    "pooling": "#e07a2f",
    "constant": "#b5a08c",
}
DARK, LIGHT, INK = "#2a6f97", "#89c2d9", "#333333"
WIDTH = 5.6  # inches: letters of 8 pixels on a phone, and those of the text around on a desktop

_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "savefig.dpi": 200,
    "svg.hashsalt": "intvit",
    "figure.constrained_layout.use": True,
}


@cache
def family_color(family: str) -> str:
    """Of a family of ours, or the next of the cycle, which it then keeps in every plot."""
    return FAMILY_COLORS.get(family) or next(_OTHER_COLORS)


def line_of(family: str) -> dict[str, Any]:
    """How the curve of a family is drawn; float's lies behind the others, which often cover it."""
    if family == "float":
        return {"color": INK, "linewidth": 4, "alpha": 0.25, "label": family, "zorder": 1}
    style = "--" if family.endswith(", paper") else "-" if family in FAMILY_COLORS else "-."
    return {"color": family_color(family), "linestyle": style, "label": family}


def legend_below(figure: Figure, handles: Iterable[Any], labels: Iterable[str]) -> None:
    """One legend for all axes, at the lower end of the figure, four entries in a row."""
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "columnspacing": 1.5, "handlelength": 1.5}
    figure.legend(list(handles), list(labels), **place)


def plain_logarithmic(axis: Any) -> None:
    """A logarithmic y axis with ticks at 1, 2 and 5, written as decimals."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


@contextmanager
def plot(rows: int = 1, columns: int = 1, *, height: float = 3.2, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure of the page's width and its axes, in the common look; `options` go to Figure.subplots."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, height))
        yield figure, figure.subplots(rows, columns, **options)


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    return _saved(figure, "png", {"Software": None})


def svg(figure: Figure) -> bytes:
    """The figure as SVG; the same figure gives the same bytes."""
    return _saved(figure, "svg", {"Date": None})


def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
