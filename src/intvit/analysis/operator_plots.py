"""The plots of `intvit analyze operators`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import NullLocator

from intvit.analysis.model_plots import block_ticks
from intvit.analysis.operator_curves import Curves
from intvit.analysis.style import FAMILY_COLORS, INK, Figure, plot

TITLES = {
    "exp": "e^x under the softmax",
    "erf": "erf(x / √2) under GELU",
    "sqrt": "Square root under LayerNorm",
    "gelu": "GELU, int8 to int8",
}


def curves(data: Curves) -> Figure:
    """The function and every family's, and below it their errors."""
    with plot(2, height=4.6, sharex=True) as (figure, (upper, lower)):
        upper.plot(data.x, data.real, color=INK, linewidth=3, alpha=0.25, label="real")
        for family, values in data.families.items():
            upper.plot(data.x, values, color=FAMILY_COLORS[family], label=family, linewidth=1.2)
        for family, errors in data.errors().items():
            lower.plot(data.x, errors, color=FAMILY_COLORS[family], linewidth=1.2)
        upper.set_title(TITLES[data.name])
        lower.set_ylabel(f"error, {data.unit}")
        if data.relative:
            upper.set(xscale="log", yscale="log")
            lower.set_yscale("symlog", linthresh=0.01)
        figure.legend(
            *upper.get_legend_handles_labels(), loc="outside lower center", ncols=7, columnspacing=1.0, handlelength=1.2
        )
    return figure


def against(rows: Sequence[dict[str, Any]], x: str, key: str, labels: tuple[str, str], panel: str) -> Figure:
    """`key` of every family against setting `x`, logarithmic, a panel for every value of `panel`."""
    panels = list(dict.fromkeys(row[panel] for row in rows))
    with plot(1, len(panels), height=3.2, sharey=True, squeeze=False) as (figure, axes):
        for axis, value in zip(axes[0], panels, strict=True):
            part = [row for row in rows if row[panel] == value]
            for family in dict.fromkeys(row["family"] for row in part):
                mine = [row for row in part if row["family"] == family]
                points = [row[x] for row in mine], [row[key] for row in mine]
                style = ":" if family == "float" else "-"
                axis.plot(*points, color=FAMILY_COLORS[family], marker="o", markersize=3, label=family, linestyle=style)
            axis.set(yscale="log", xlabel=labels[0], title=f"{value}")
            axis.set_xscale("log", base=2)
            ticks = sorted({row[x] for row in part})
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
        axes[0][0].set_ylabel(labels[1])
        figure.legend(
            *axes[0][0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=7,
            columnspacing=1.0,
            handlelength=1.2,
        )
    return figure


def by_layer(rows: Sequence[dict[str, Any]]) -> Figure:
    """Mean error of every family on the inputs of every layer, a panel for every operator."""
    with plot(3, height=6.2) as (figure, axes):
        names: dict[str, Any] = {}
        for axis, operator in zip(axes, ("softmax", "gelu", "layernorm"), strict=True):
            part = [row for row in rows if row["operator"] == operator]
            for family in dict.fromkeys(row["family"] for row in part):
                mine = [row["mean"] for row in part if row["family"] == family]
                style = ":" if family == "float" else "-"
                (line,) = axis.plot(mine, color=FAMILY_COLORS[family], marker="o", markersize=3, linestyle=style)
                names.setdefault(family, line)
            axis.set_yscale("log")
            axis.set_title(operator)
            axis.set_ylabel("mean error")
            block_ticks(axis, list(dict.fromkeys(row["layer"] for row in part)))
        axes[-1].set_xlabel("layers in the order of computation, by block")
        figure.legend(
            list(names.values()), list(names), loc="outside lower center", ncols=7, columnspacing=1.0, handlelength=1.2
        )
    return figure
