"""evaluation.json and the tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from intvit.evaluation.engine import Tally
from intvit.tasks import Task


def figures(
    tallies: Mapping[str, Tally], runtimes: list[str], task: Task, agreement_with: str | None = None
) -> dict[str, Any]:
    """The content of evaluation.json: figures in percent of `images`, and for every runtime its mismatches.

    With figures of classes, `float` and `qat` (without a model the first runtime) hold them in the order of labels.
    """
    values: dict[str, Any] = {"images": tallies[runtimes[0]].images}
    measured = {name: _percent(tally, task, agreement_with) for name, tally in tallies.items()}
    for name in ("float", "qat"):
        if name in tallies:
            values[name] = measured[name]
    values["runtimes"] = {}
    for name in runtimes:
        counts: dict[str, float] = {"mismatches": tallies[name].mismatches}
        if (differing := tallies[name].score_mismatches) is not None:
            counts["score_mismatches"] = differing
        counts["images_per_second"] = round(tallies[name].images_per_second(), 2)
        values["runtimes"][name] = {**measured[name], **counts}
    if tallies[runtimes[0]].metric.classes():
        shown = [name for name in ("float", "qat") if name in tallies] or runtimes[:1]
        values["classes"] = {name: [_rounded(each) for each in tallies[name].metric.classes()] for name in shown}
    return values


def _percent(tally: Tally, task: Task, agreement_with: str | None) -> dict[str, float]:
    measured = tally.metric.percentages()
    keys = [*task.figures, *(["agreement"] if agreement_with is not None and task.compares_float else [])]
    return _rounded({key: measured[key] for key in keys})


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: value if isinstance(value, int) else round(value, 4) for key, value in values.items()}


def print_table(
    tallies: Mapping[str, Tally],
    runtimes: list[str],
    sizes: Mapping[str, int],
    task: Task,
    agreement_with: str | None,
) -> None:
    """One row for every execution. sizes: row -> bytes of the model that it runs."""
    images = tallies[runtimes[0]].images
    table = Table(title=f"{images} images", title_justify="left")
    table.add_column("execution")
    figures = [f"{title} %" for title in task.figures.values()]
    agreement = [] if agreement_with is None else [f"agreement{' with float' if agreement_with == 'float' else ''} %"]
    differing = "mismatches" if task.differences == "images" else f"{task.differences} that differ"
    dense = ["scores that differ"] if any(tallies[name].score_mismatches is not None for name in runtimes) else []
    for column in [*figures, *agreement, differing, *dense, "images/s", "model bytes"]:
        table.add_column(column, justify="right")
    titles = {"float": "float", "qat": "QAT, integer mode"} | {name: f"integer, {name}" for name in runtimes}
    for name, result in tallies.items():
        if name not in titles:
            continue
        measured = result.metric.percentages()
        cells = [f"{measured[key]:.2f}" for key in [*task.figures, *(["agreement"] if agreement else [])]]
        counts = [result.mismatches, *([result.score_mismatches] if dense else [])]
        cells += [f"{count}" if name in runtimes else "-" for count in counts]
        cells += [f"{result.images_per_second():.1f}", f"{sizes[name]:,}" if name in sizes else "-"]
        table.add_row(titles[name], *cells)
    Console(width=110).print(table)


def print_classes(tallies: Mapping[str, Tally], runtimes: list[str], names: Sequence[str]) -> None:
    """Figures of every class, of a task that has them: float beside integers."""
    shown = {"float": "float", "qat": "integer"} if "float" in tallies else {runtimes[0]: runtimes[0]}
    rows = {title: tallies[name].metric.classes() for name, title in shown.items()}
    first = next(iter(rows.values()))
    if not first:
        return
    table = Table(title="classes, pixels with a label", title_justify="left")
    table.add_column("class")
    for column in ["pixels", *(f"{key}, {title} %" for key in ("IoU", "accuracy") for title in rows)]:
        table.add_column(column, justify="right")
    for label, each in enumerate(first):
        cells = [f"{each_of[label][key]:.2f}" for key in ("iou", "accuracy") for each_of in rows.values()]
        table.add_row(names[label] if names else str(label), f"{each['pixels']:,}", *cells)
    Console(width=110).print(table)


def weight_bytes(folder: Path) -> int:
    """Bytes of an integer checkpoint's weights."""
    return (folder / "weights.safetensors").stat().st_size
