"""The plots of `intvit analyze model`."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from intvit.analysis.layer_error import LayerErrors
from intvit.analysis.sensitivity import EVERYWHERE, Effect, Measured
from intvit.program.cost import OperatorCost
from intvit.reports.style import DARK, INK, KIND_COLORS, LIGHT, legend_below, plot


def depth(entries: list[tuple[str, Effect]]) -> Figure:
    """Divergence and agreement of the scores against the number of blocks that compute integers."""
    names = [_short(name) for name, _ in entries]
    with plot(2, height=4.2, sharex=True) as (figure, (upper, lower)):
        upper.plot(names, [effect.divergence for _, effect in entries], color=DARK, marker="o", markersize=4)
        upper.set_ylabel("divergence, bits")
        upper.set_ylim(bottom=0)
        upper.set_title("Integers up to a block, float behind it")
        for key, color, label in (("agreement", DARK, "first class as float's"), ("top1", LIGHT, "top-1")):
            values = [getattr(effect, key) for _, effect in entries]
            lower.plot(names, values, color=color, marker="o", markersize=4, label=label)
        lower.set_ylabel("percent of images")
        lower.set_xlabel("integers up to block")
        lower.legend(loc="best")
        _thin(lower, names)
    return figure


def layer_error(errors: LayerErrors) -> Figure:
    """Two SQNRs of every layer in the order of computation; thin lines lead the eye along a kind."""
    shown = list(errors.layers.values())
    panels = (("sqnr", "Against the float model"), ("own_sqnr", "The layer's own error"))
    with plot(2, height=4.8, sharex=True) as (figure, axes):
        for axis, (key, title) in zip(axes, panels, strict=True):
            for kind in dict.fromkeys(error.kind for error in shown):
                if kind == "constant" and key == "sqnr":
                    continue  # far above all others, and the panel below says it
                at = [i for i, e in enumerate(shown) if e.kind == kind and math.isfinite(getattr(e, key))]
                axis.plot(at, [getattr(shown[i], key) for i in at], label=kind, linewidth=0.6, **_points(kind))
            axis.set_ylabel("SQNR, dB")
            axis.set_title(title)
        axes[-1].set_xlabel("layers in the order of computation, by block")
        legend_below(figure, *axes[-1].get_legend_handles_labels())
        block_ticks(axes[-1], [error.layer for error in shown])
    return figure


def ranges(errors: LayerErrors) -> Figure:
    """Share of saturated codes (logarithmic) and of the width that is used."""
    shown = [error for error in errors.layers.values() if error.codes]
    with plot(2, height=4.2, sharex=True) as (figure, (upper, lower)):
        for kind in dict.fromkeys(error.kind for error in shown):
            at = [i for i, error in enumerate(shown) if error.kind == kind]
            upper.plot(at, [max(shown[i].saturation or 0.0, 1e-5) for i in at], ls="", label=kind, **_points(kind))
            lower.plot(at, [shown[i].range_used for i in at], ls="", **_points(kind))
        upper.set_yscale("log")
        upper.set_ylabel("saturated codes, %")
        upper.set_title("Codes at an end of their width (none: 0.00001), and the largest code")
        lower.set_ylabel("range used, %")
        lower.set_ylim(0, 105)
        lower.set_xlabel("layers in the order of computation, by block")
        legend_below(figure, *upper.get_legend_handles_labels())
        block_ticks(lower, [error.layer for error in shown])
    return figure


def attention(errors: LayerErrors) -> Figure:
    """Entropy of attention rows, float and integer, and their divergence."""
    shown = list(errors.attention.values())
    names = [_short(error.layer) for error in shown]
    with plot(2, height=4.2, sharex=True) as (figure, (upper, lower)):
        upper.plot(names, [e.mean("float_entropy") for e in shown], color=INK, marker="o", markersize=4, label="float")
        values = [e.mean("integer_entropy") for e in shown]
        upper.plot(names, values, color=KIND_COLORS["attention"], marker="o", markersize=4, label="integer", ls="--")
        upper.set_ylabel("entropy, bits")
        upper.set_ylim(bottom=0)
        upper.set_title("Attention rows: mean entropy, and divergence of integer from float")
        upper.legend(loc="best")
        lower.bar(names, [e.mean("divergence") for e in shown], color=KIND_COLORS["attention"])
        lower.set_ylabel("divergence, bits")
        lower.set_xlabel("block")
        _thin(lower, names)
    return figure


def everywhere(measured: list[Measured]) -> Figure:
    """What changes to all sites of a kind do, the largest on top."""
    shown = sorted((m for m in measured if m.change.site == EVERYWHERE), key=lambda m: m.moved)
    names = [f"{m.change.kind}: {m.change.change}" for m in shown]
    floor = _floor(shown)
    with plot(height=0.28 * len(shown) + 1.1) as (figure, axes):
        bars = axes.barh(
            range(len(shown)),
            [max(m.moved, floor) for m in shown],
            color=[KIND_COLORS[m.change.kind] for m in shown],
        )
        axes.bar_label(bars, [f"{m.moved:.2g}; {m.effect.agreement:.0f} %" for m in shown], padding=3, fontsize=8)
        axes.set_yticks(range(len(shown)), names)
        axes.set_xscale("log")
        axes.set_xlim(floor / 2, max(m.moved for m in shown) * 40)  # room for the figures beside the bars
        axes.margins(y=0.02)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("moved, bits; first classes as float's, %")
        axes.set_title("One change in all places at once")
    return figure


def sites(measured: list[Measured]) -> Figure:
    """What every change in one place does: a row for each change, a column for each block, shared by its places."""
    alone = [m for m in measured if m.change.site != EVERYWHERE]
    groups = block_of([m.change.site for m in alone])
    columns, floor = list(dict.fromkeys(groups.values())), _floor(alone)
    cells: dict[str, dict[str, list[float]]] = {}  # change -> column -> values in the order of computation
    for m in alone:
        row = cells.setdefault(f"{m.change.kind}: {m.change.change}", {})
        row.setdefault(groups[m.change.site], []).append(max(m.moved, floor))
    shades = LogNorm(floor, max(value for row in cells.values() for values in row.values() for value in values))
    with plot(height=0.28 * len(cells) + 1.5) as (figure, axes):
        axes.grid(visible=False)
        for y, row in enumerate(cells.values()):
            for column, values in row.items():
                x = columns.index(column)
                edges = [x + i / len(values) for i in range(len(values) + 1)]
                image = axes.pcolormesh(edges, [y, y + 1], [values], cmap="viridis_r", norm=shades)
        axes.hlines(range(1, len(cells)), 0, len(columns), color="white", linewidth=1.0)
        axes.set_yticks([i + 0.5 for i in range(len(cells))], list(cells))
        axes.set(xlim=(0, len(columns)), ylim=(len(cells), 0))
        step = max(1, len(columns) // 14)
        axes.set_xticks([i + 0.5 for i in range(0, len(columns), step)], columns[::step])
        axes.set_xlabel("block")
        axes.set_title("One change in one place")
        bar = figure.colorbar(image, ax=axes, location="bottom", label="moved, bits", aspect=40, pad=0.01)
        bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


def block_of(names: list[str]) -> dict[str, str]:
    """Block of every site; `in` and `out` for those before and after all blocks."""
    groups: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = _short(name)
        if not short[0].isdigit():
            short = "out" if any(group[0].isdigit() for group in groups.values()) else "in"
        groups[name] = short
    return groups


def energy(costs: list[OperatorCost], real: Any) -> Figure:
    """Energy of an image by operator, with the float model's for comparison."""
    kinds = list(dict.fromkeys(cost.op for cost in costs))
    sums = sorted((sum(c.energy for c in costs if c.op == kind) / 1e9, kind) for kind in kinds)
    total = sum(value for value, _ in sums)
    with plot(height=0.3 * (len(sums) + 2) + 1.0) as (figure, axes):
        names = [kind for _, kind in sums] + ["all integer", "all float32"]
        values = [value for value, _ in sums] + [total, real["energy"] / 1e9]
        colors = [LIGHT] * len(sums) + [DARK, KIND_COLORS["input"]]
        bars = axes.barh(names, values, color=colors)
        axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=3, fontsize=8)
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("mJ for one image, 45 nm, estimated")
        axes.set_title(f"Integers need {total / (real['energy'] / 1e9):.0%} of float32's energy")
    return figure


def _floor(measured: list[Measured]) -> float:
    """Where a logarithmic axis ends; what moves less is drawn there."""
    moved = [m.moved for m in measured if m.moved > 0.0]
    return max(min(moved), max(moved) * 1e-3) if moved else 1e-6


def _points(kind: str) -> dict[str, Any]:
    return {"color": KIND_COLORS[kind], "marker": "o", "ms": 3}


def _short(name: str) -> str:
    """`blocks.3.attn.core` -> `3`, `layers.2.blocks.1` -> `2.1`."""
    digits = [part for part in name.split(".") if part.isdigit()]
    return ".".join(digits) if digits else name


def block_ticks(axes: Any, names: list[str]) -> None:
    """Ticks at the first layer of every block."""
    keys = [_short(name) for name in names]
    first = [i for i, key in enumerate(keys) if key[0].isdigit() and (i == 0 or keys[i - 1] != key)]
    step = max(1, len(first) // 14)
    axes.set_xticks(first[::step], [keys[i] for i in first[::step]])


def _thin(axes: Any, names: list[str]) -> None:
    step = max(1, len(names) // 14)
    axes.set_xticks(range(0, len(names), step), names[::step])
