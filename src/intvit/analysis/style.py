"""The look of every plot: one palette, one set of sizes, figures as bytes. Nothing here knows what is plotted."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

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
KIND_COLORS = {
    "linear": "#2a6f97",
    "attention": "#d1495b",
    "gelu": "#edae49",
    "layernorm": "#3d9a6b",
    "residual": "#7b5ea7",
    "input": "#8a8a8a",
    "pooling": "#e07a2f",
}
DARK, LIGHT, INK = "#2a6f97", "#89c2d9", "#333333"
WIDTH = 6.4  # inches; a phone shows this width at a readable size

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
    "savefig.dpi": 150,
    "svg.hashsalt": "intvit",
    "figure.constrained_layout.use": True,
}


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
