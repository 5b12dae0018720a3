"""The plots of `intvit analyze operators`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from intvit.analysis.operator_curves import Curves
from intvit.reports.model_plots import block_ticks
from intvit.reports.style import legend_below, line_of, plain_logarithmic, plot

TITLES = {
    "exp": "e^x under the softmax",
    "erf": "erf(x / √2) under GELU",
    "sqrt": "Square root under LayerNorm",
    "gelu": "GELU, int8 to int8",
}
_AXES = {  # x; y
    "exp": ("logit minus the largest of its row", "e^x"),
    "erf": ("x", "erf(x / √2)"),
    "sqrt": ("sum of squares", "root"),
    "gelu": ("input", "output, steps"),
}
_OPERATORS = {
    "softmax": "Softmax: sum of a row's absolute errors",
    "gelu": "GELU: error in steps of the output",
    "layernorm": "LayerNorm: error in steps of the output",
}


def curves(data: Curves) -> Figure:
    """The function and every family's, and below it their errors; float's are those of rounding."""
    with plot(2, height=4.6, sharex=True) as (figure, (upper, lower)):
        upper.plot(data.x, data.real, **line_of("float"))
        errors = data.errors()
        for family, values in data.families.items():
            if family != "float":
                upper.plot(data.x, values, **line_of(family))
            lower.plot(data.x, errors[family], **line_of(family))
        upper.set_title(TITLES[data.name])
        lower.set_xlabel(_AXES[data.name][0])
        upper.set_ylabel(_AXES[data.name][1])
        lower.set_ylabel(f"error, {data.unit}")
        if data.relative:
            upper.set(xscale="log", yscale="log")
            lower.set_yscale("symlog", linthresh=0.01)
        elif data.name == "exp":  # errors of three orders of magnitude
            lower.set_yscale("symlog", linthresh=1e-3)
        legend_below(figure, *upper.get_legend_handles_labels())
    return figure


def against(rows: Sequence[dict[str, Any]], x: str, key: str, labels: tuple[str, str], panel: str) -> Figure:
    """`key` of every family against setting `x`, logarithmic, a panel for every value of `panel`."""
    panels = list(dict.fromkeys(row[panel] for row in rows))
    with plot(1, len(panels), height=3.4, sharey=True, squeeze=False) as (figure, axes):
        for axis, value in zip(axes[0], panels, strict=True):
            part = [row for row in rows if row[panel] == value]
            for family in dict.fromkeys(row["family"] for row in part):
                mine = [row for row in part if row["family"] == family]
                axis.plot([row[x] for row in mine], [row[key] for row in mine], marker="o", ms=3, **line_of(family))
            axis.set(xlabel=labels[0], title=f"{value}")
            axis.set_xscale("log", base=2)
            ticks = sorted({row[x] for row in part})
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
        largest, least = (pick(row[key] for row in rows) for pick in (max, min))
        if largest > 100 * least:
            axes[0][0].set_yscale("log")
        else:
            plain_logarithmic(axes[0][0])
        axes[0][0].set_ylabel(labels[1])
        legend_below(figure, *axes[0][0].get_legend_handles_labels())
    return figure


def by_layer(rows: Sequence[dict[str, Any]]) -> Figure:
    """Mean error of every family on the inputs of every layer, a panel for every operator."""
    with plot(3, height=6.2) as (figure, axes):
        names: dict[str, Any] = {}
        for axis, (operator, title) in zip(axes, _OPERATORS.items(), strict=True):
            part = [row for row in rows if row["operator"] == operator]
            for family in dict.fromkeys(row["family"] for row in part):
                mine = [row["mean"] for row in part if row["family"] == family]
                (line,) = axis.plot(mine, marker="o", ms=3, **line_of(family))
                names.setdefault(family, line)
            axis.set(title=title, ylabel="mean error")
            axis.set_ylim(bottom=0)
            block_ticks(axis, list(dict.fromkeys(row["layer"] for row in part)))
        axes[-1].set_xlabel("layers in the order of computation, by block")
        legend_below(figure, names.values(), names)
    return figure
