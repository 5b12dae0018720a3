"""evaluation.json and the table for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from intvit.evaluation.engine import Tally


def figures(tallies: Mapping[str, Tally], runtimes: list[str]) -> dict[str, Any]:
    """The content of evaluation.json: accuracies in percent of `images`, and for every runtime its mismatches."""
    values: dict[str, Any] = {"images": tallies[runtimes[0]].images}
    for name in ("float", "qat"):
        if name in tallies:
            values[name] = _accuracy(tallies[name])
    values["runtimes"] = {
        name: {
            **_accuracy(tallies[name]),
            "mismatches": tallies[name].mismatches,
            "images_per_second": round(tallies[name].images_per_second(), 2),
        }
        for name in runtimes
    }
    return values


def _accuracy(result: Tally) -> dict[str, float]:
    return {"top1": round(result.percent(result.top1), 4), "top5": round(result.percent(result.top5), 4)}


def print_table(
    tallies: Mapping[str, Tally], runtimes: list[str], sizes: Mapping[str, int], agreement_with: str | None
) -> None:
    """One row for every execution. sizes: row -> bytes of the model that it runs."""
    images = tallies[runtimes[0]].images
    table = Table(title=f"{images} images", title_justify="left")
    table.add_column("execution")
    columns = ["top-1 %", "top-5 %", "mismatches", "images/s", "model bytes"]
    if agreement_with is not None:
        columns.insert(2, "agreement %")
    for column in columns:
        table.add_column(column, justify="right")
    titles = {"float": "float", "qat": "QAT, integer mode"} | {name: f"integer, {name}" for name in runtimes}
    for name, result in tallies.items():
        if name not in titles:
            continue
        cells = [f"{result.percent(result.top1):.2f}", f"{result.percent(result.top5):.2f}"]
        if agreement_with is not None:
            cells.append(f"{result.percent(result.agreeing):.2f}")
        mismatches = str(result.mismatches) if name in runtimes else "-"
        cells += [mismatches, f"{result.images_per_second():.1f}", f"{sizes[name]:,}" if name in sizes else "-"]
        table.add_row(titles[name], *cells)
    Console(width=110).print(table)


def weight_bytes(folder: Path) -> int:
    """Bytes of an integer checkpoint's weights."""
    return (folder / "weights.safetensors").stat().st_size
