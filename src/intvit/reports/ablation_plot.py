"""The picture of `intvit bench presets --ablate`: what each step of calibration takes off the divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.patches import Patch

from intvit.reports.style import DARK, INK, KIND_COLORS, LIGHT, legend_below, plot, png

WORSE = KIND_COLORS["attention"]


def waterfall(preset: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A panel for each set, a bar for each step from the divergence before it to that behind it, as PNG.

    rows: of intvit.bench.presets, in the order of the steps, each with its label as `step`.
    """
    names = list(rows[0]["sets"])
    height = (0.27 * len(rows) + 0.75) * len(names) + 0.4
    with plot(len(names), 1, height=height, squeeze=False) as (figure, axes):
        for axis, name in zip(axes[:, 0], names, strict=True):
            _panel(axis, rows, name)
        axes[0, 0].set_title(f"{preset}: {axes[0, 0].get_title(loc='left')}")
        axes[-1, 0].set_xlabel("bits from float [95 %], agreement")
        drawn = {"first": LIGHT, "nearer to float": DARK, "farther from float": WORSE}
        legend_below(figure, [Patch(color=color) for color in drawn.values()], drawn)
    return png(figure)


def _panel(axis: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    figures = [row["sets"][name] for row in rows]
    values = [measured["divergence"] for measured in figures]
    for y, (before, now) in enumerate(zip([0.0, *values], values, strict=False)):
        color = LIGHT if y == 0 else DARK if now <= before else WORSE
        axis.barh(y, abs(now - before), left=min(before, now), color=color, height=0.62)
        if y:
            axis.plot([before, before], [y - 1.31, y - 0.31], color=INK, linewidth=0.6)
        low, high = figures[y]["intervals"]["divergence"]
        text = f" {now:.3f} [{low:.3f}, {high:.3f}], {figures[y]['agreement']:.1f} %"
        axis.text(max(before, now), y, text, va="center", fontsize=7, color=INK)
    axis.set_yticks(range(len(rows)), [row["step"] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.6)
    axis.set_xlim(0.0, 1.6 * max([*values, 1e-6]))  # room for the words behind the longest bar
    axis.grid(axis="y", visible=False)
    axis.set_title(f"{name}, {figures[0]['count']} images")
