"""The plots of a search: presets and candidates against the budget, the finalists, the widths of the winner."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from intvit.reports.model_plots import block_of
from intvit.reports.style import DARK, INK, KIND_COLORS, LIGHT, legend_below, plain_logarithmic, plot
from intvit.search.budget import Budget
from intvit.search.evaluator import gain
from intvit.search.search import Outcome
from intvit.search.study import Evaluated

FOUND = KIND_COLORS["attention"]
_AXES = {
    "bytes": ("weights, MB", 1e6),
    "bitops": ("bit operations of an image, G", 1e9),
    "accumulator": ("widest accumulator, bits", 1.0),
}


def label(entry: Evaluated) -> str:
    """The preset, and whether a candidate changes it."""
    preset = entry.candidate.preset.replace(",quant/calibration=", ", ")
    return f"{preset} + overrides" if entry.candidate.overrides else preset


def pareto(outcome: Outcome, budget: Budget) -> Figure:
    """Presets and candidates on the search images against every quantity of the budget, bytes where it has none.

    A full dot is within all limits; the front is that of these.
    """
    names = [name for name in _AXES if name in budget.limits] or ["bytes"]
    with plot(1, len(names), height=4.4, sharey=True, squeeze=False) as (figure, axes):
        for axis, name in zip(axes[0], names, strict=True):
            _panel(axis, outcome, budget, name)
        plain_logarithmic(axes[0][0])
        axes[0][0].set_ylabel("divergence from float, bits")
        axes[0][0].set_title("Presets and candidates on the search images")
        legend_below(figure, *axes[0][0].get_legend_handles_labels())
    return figure


def _panel(axis: Any, outcome: Outcome, budget: Budget, name: str) -> None:
    heading, unit = _AXES[name]

    def at(entry: Evaluated) -> tuple[float, float]:
        return getattr(entry.measurement.used, name) / unit, entry.measurement.divergence

    candidates = [*outcome.candidates, *outcome.curve]
    shown = [*candidates, *outcome.presets]
    within = [at(entry) for entry in shown if budget.fits(entry.measurement.used)]
    winner = next(entry for entry in shown if entry.measurement.program == outcome.winner.measurement.program)
    for entries, color, size, text in (
        (candidates, "#a8a8a8", 12, "candidates"),
        (outcome.presets, DARK, 26, "presets"),
    ):
        for inside in (False, True):
            points = [at(entry) for entry in entries if budget.fits(entry.measurement.used) == inside]
            if points:
                face = color if inside else "none"
                described = text if inside else f"{text}, beyond"
                axis.scatter(*zip(*points, strict=True), s=size, facecolor=face, edgecolor=color, label=described)
    if within:
        axis.step(*zip(*_front(within), strict=True), where="post", color=LIGHT, label="front", zorder=1)
    axis.scatter(*at(winner), s=110, marker="*", color=FOUND, label="found", zorder=3)
    if name in budget.limits:
        axis.axvline(budget.limits[name] / unit, color=INK, linestyle=":", linewidth=1.0, label="budget")
    _name_presets(axis, [(*at(entry), entry.candidate.preset) for entry in outcome.presets])
    axis.margins(x=0.3)
    axis.locator_params(axis="x", nbins=4)
    axis.set_xlabel(heading)


def _name_presets(axis: Any, points: list[tuple[float, float, str]]) -> None:
    """Names beside the points: to the left of those at the right edge, apart where points of one place lie close."""
    lowest: dict[float, float] = {}
    left, right = (pick(x for x, _, _ in points) for pick in (min, max))
    for x, y, name in sorted(points, key=lambda point: point[1]):
        near = next((known for known in lowest if abs(known - x) <= 0.2 * (right - left)), x)
        place = lowest[near] = max(y, lowest.get(near, 0.0) * 1.17)
        side = "right" if x > (left + right) / 2 else "left"
        axis.text(x, place, f"  {name}  ", fontsize=6.5, va="center", ha=side, color=INK)


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that no other one beats in both."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def finalists(outcome: Outcome) -> Figure:
    """Mean divergence of the finalists, the best on top, with the standard error of the difference from the winner."""
    shown = outcome.finalists[::-1]
    with plot(height=0.3 * len(shown) + 1.1) as (figure, axes):
        for y, entry in enumerate(shown):
            color = FOUND if entry is outcome.winner else LIGHT if entry.candidate.overrides else DARK
            _, error = gain(outcome.winner.measurement, entry.measurement)
            axes.errorbar(entry.measurement.divergence, y, xerr=error, color=color, marker="o", ms=5, capsize=3)
        names = [f"found: {label(entry)}" if entry is outcome.winner else label(entry) for entry in shown]
        axes.set_yticks(range(len(shown)), names)
        axes.set_xlim(left=0)
        axes.margins(y=0.05)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("divergence from float, bits")
        axes.set_title(f"Finalists on {len(shown[0].measurement.same)} images")
    return figure


def widths(outcome: Outcome) -> Figure:
    """Bits of every width that the budget asks for: a row for every kind of layer, a column for every block."""
    rows: dict[str, dict[str, int]] = {}
    blocks = block_of([choice.site for choice in outcome.widths])
    for choice in outcome.widths:
        kind = re.sub(r"\b(layers|blocks)\.\d+\.", "", choice.site)
        row = rows.setdefault(f"{kind} {choice.key}", {})
        row[blocks[choice.site]] = choice.value_in(outcome.winner.candidate.overrides)
    columns = list(dict.fromkeys(blocks.values()))
    table = np.array([[row.get(column, np.nan) for column in columns] for row in rows.values()])
    with plot(height=0.26 * len(rows) + 1.2) as (figure, axes):
        axes.grid(visible=False)
        axes.imshow(table, cmap="viridis", vmin=1, vmax=9, aspect="auto")
        for (y, x), bits in np.ndenumerate(table):
            if not np.isnan(bits):
                axes.text(x, y, f"{bits:.0f}", ha="center", va="center", fontsize=7, color="white" if bits < 7 else INK)
        axes.set_yticks(range(len(rows)), list(rows))
        step = max(1, len(columns) // 14)
        axes.set_xticks(range(0, len(columns), step), columns[::step])
        axes.set_xlabel("block")
        axes.set_title("Bits of weights and activations")
    return figure
