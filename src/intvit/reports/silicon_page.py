"""The page of `intvit analyze silicon`: units, lanes, and area beside accuracy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from matplotlib.figure import Figure

from intvit.analysis.silicon import LUTS_OF_DSP, Key, Need, Size, total
from intvit.reports.report import Column, Plot, Table
from intvit.reports.style import INK, family_color, plot


@dataclass(frozen=True)
class Model:
    """One checkpoint. table: its small functions are tables. accuracy: top1 and divergence, where they are known."""

    name: str
    table: bool
    needs: list[Need]
    accuracy: Mapping[str, Any]

    @property
    def form(self) -> str:
        return "tables" if self.table else "as trained"

    @property
    def functions(self) -> list[Need]:
        """What families differ in: everything but the MACs, whose size every model shares."""
        return [need for need in self.needs if need.kind != "mac column"]

    @property
    def size(self) -> Size | None:
        return total(self.functions)


_SIZE = (
    Column("lut", "LUT", "d"),
    Column("ff", "registers", "d"),
    Column("dsp", "DSP", "d"),
    Column("ram18", "RAM18", "d", "block memories of 18 Kb"),
    Column("lut_memory", "LUT memories", "d", "distributed memories and shift registers"),
    Column("area", "area", ",d", f"LUTs of all kinds, a DSP as {LUTS_OF_DSP}"),
)
_UNITS = (Column("kind", "operator"), Column("form", "form"), *_SIZE)
_WIDTHS = (Column("kind", "exponential"), Column("bits", "bits of the logits", "d"), *_SIZE)
_LANES = (
    Column("model", "model"),
    Column("functions", "functions"),
    Column("kind", "operator"),
    Column("elements", "elements of an image", ",d"),
    Column("lanes", "lanes", "d"),
    *_SIZE,
)
_MODELS = (
    Column("model", "model"),
    Column("functions", "functions"),
    Column("top1", "top-1 %", ".1f"),
    Column("divergence", "divergence", ".3f", "mean KL divergence from float, bits"),
    *_SIZE,
)
_TEXT_UNITS = (
    "One lane of each unit of `intvit export rtl`, an element a clock, with a layer's constants tied; softmax and "
    "ShiftGELU with the row buffer that finds the maximum. yosys for the 7 series, not placed. LUTs of one input, "
    "carries and multiplexers are left out."
)
_TEXT_WIDTHS = (
    "From a distance to a weight of 8 bits, without row buffer and maximum. Logits of a program have at most 8 bits; "
    "with more, tables stop being cheap."
)
_TEXT_MODELS = (
    "All lanes but the MACs', which all models share. “tables”: every exponential and GELU of one small argument is "
    "looked up, with equal integers. “–”: a unit's size is not in the table; --synthesize measures it."
)


def parts(
    models: Sequence[Model], sizes: Mapping[Key, Size], widths: Mapping[tuple[str, int], Size]
) -> list[Table | Plot]:
    units = [{"kind": kind, "form": form, **_columns(size)} for (kind, form), size in sorted(sizes.items())]
    lanes = []
    rows = []
    for model in models:
        head = {"model": model.name, "functions": model.form}
        top1, divergence = (model.accuracy.get(key) for key in ("top1", "divergence"))
        rows.append({**head, "top1": top1, "divergence": divergence, **_columns(model.size)})
        for need in model.needs:
            counts = {"elements": need.elements, "lanes": need.lanes}
            lanes.append({**head, "kind": need.kind, **counts, **_columns(need.size)})
    sized = any(model.size for model in models)
    result: list[Table | Plot] = []
    if sized:
        result.append(Plot("area", "Accuracy against area", _area(models), _TEXT_MODELS, "models"))
    result.append(Table("models", "Models", _MODELS, rows, _TEXT_MODELS, plot="area" if sized else None))
    result.append(Table("units", "Units", _UNITS, units, _TEXT_UNITS))
    wider = [{"kind": kind, "bits": bits, **_columns(size)} for (kind, bits), size in widths.items()]
    result.append(Table("lanes", "Lanes", _LANES, lanes, "Sizes are of one lane."))
    return [*result, Table("widths", "Exponentials at wider logits", _WIDTHS, wider, _TEXT_WIDTHS)]


def _columns(size: Size | None) -> dict[str, Any]:
    names = [*(field.name for field in fields(Size)), "area"]
    return {name: getattr(size, name, None) for name in names}


def _area(models: Sequence[Model]) -> Figure:
    """Area against top-1 where it is known, with the line of models that none beats in both; else the models' order."""
    with plot(height=4.2) as (figure, axis):
        known = all(model.accuracy for model in models)
        names = list(dict.fromkeys(model.name for model in models))
        points: list[tuple[int, float]] = []
        for own, tables in zip(models[::2], models[1::2], strict=True):
            y = own.accuracy["top1"] if known else names.index(own.name)
            color = family_color(re.split(r"\d|_", own.name)[0])
            areas = [(model.size.area, marker) for model, marker in ((own, "o"), (tables, "s")) if model.size]
            axis.plot([area for area, _ in areas], [y] * len(areas), color=color, linewidth=0.8)
            for area, marker in areas:
                points.append((area, y))
                axis.plot([area], [y], marker, color=color)
            if known and areas:
                offset = (4, -10) if names.index(own.name) % 2 else (4, 4)
                axis.annotate(own.name, (areas[0][0], y), offset, textcoords="offset points", fontsize=7)
        axis.set_xlabel(f"LUTs of all functions, a DSP as {LUTS_OF_DSP} (circles: as trained, squares: as tables)")
        axis.margins(x=0.15)
        if known:
            axis.step(*zip(*_front(points), strict=True), where="post", color=INK, linewidth=0.8, zorder=1)
            axis.set_ylabel("top-1, %")
        else:
            axis.set_yticks(range(len(names)), names)
    return figure


def _front(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The points that no other beats in area and accuracy, by area."""
    front: list[tuple[int, float]] = []
    for area, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((area, y))
    return front


def findings(models: Sequence[Model]) -> list[str]:
    """One sentence for each model: what tables save; or what has no size."""
    sentences = []
    for own, tables in zip(models[::2], models[1::2], strict=True):
        if own.size and tables.size:
            a, b = (f"{size.lut + size.lut_memory:,} LUT and {size.dsp} DSP" for size in (own.size, tables.size))
            sentences.append(f"{own.name}: {a} as trained, {b} with tables, beside the MACs.")
        else:
            unknown = sorted({need.kind for need in (*own.functions, *tables.functions) if need.size is None})
            sentences.append(f"{own.name}: no size in the table for {', '.join(unknown)}; --synthesize measures it.")
    return sentences
