"""Every executor over every image of the data, the table, and the operator where one differs first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from intvit.data.loading import validation_loader
from intvit.errors import IntVitError
from intvit.evaluation.config import EvaluateConfig
from intvit.evaluation.differences import first_difference
from intvit.evaluation.engine import Tally, tally
from intvit.evaluation.evaluated import EvaluatedProgram
from intvit.evaluation.overlays import chosen, draw_overlays
from intvit.evaluation.report import figures, print_classes, print_table
from intvit.files import write_json
from intvit.progress import count_progress
from intvit.runtime.segments import class_names

OVERLAYS = "overlays.png"


class MismatchError(IntVitError):
    """A runtime's scores differ from the model's: the contract is broken."""


def compare(evaluated: EvaluatedProgram, config: EvaluateConfig) -> dict[str, Any]:
    """Run, print and write; returns what evaluation.json holds. Raises MismatchError where an integer differs."""
    loader = validation_loader(evaluated.data)
    for key in ("dense_scores", "overlays"):
        if getattr(config, key) and not evaluated.task.dense:
            raise IntVitError(
                f"{key}={getattr(config, key)}: for programs that give a label for each pixel; leave it out"
            )
    runtimes = list(config.runtimes)
    reference = "qat" if "qat" in evaluated.executors else runtimes[0]
    with count_progress("images", config.limit or len(loader) * evaluated.data.eval_batch_size) as progress:
        tallies = tally(
            _limited(loader, config.limit),
            evaluated.executors,
            reference=reference,
            compared=runtimes,
            agreement_with=evaluated.agreement_with,
            task=evaluated.task,
            classes=evaluated.program.num_classes,
            dense={name: evaluated.dense[name] for name in (reference, *runtimes)} if config.dense_scores else None,
            progress=progress,
        )
    print_table(tallies, runtimes, evaluated.sizes, evaluated.task, evaluated.agreement_with)
    print_classes(tallies, runtimes, evaluated.program.classes)
    values = {
        "data": evaluated.data.name,
        **figures(tallies, runtimes, evaluated.task, evaluated.agreement_with),
    }
    if loader.skipped:
        values["skipped"] = loader.skipped
        print(f"skipped {loader.skipped} bad samples, which no figure counts")
    write_json(evaluated.figures, values)
    if config.overlays:
        _draw(evaluated, config.overlays)
    print(f"integer checkpoint {evaluated.folder}, figures in {evaluated.figures}")
    differing = [name for name in runtimes if tallies[name].mismatches or tallies[name].score_mismatches]
    if differing:
        raise MismatchError("; ".join(_explain(evaluated, name, tallies, reference, differing) for name in differing))
    return values


def _draw(evaluated: EvaluatedProgram, count: int) -> None:
    """overlays.png beside the figures: float where there is a model, and the integers."""
    loader = validation_loader(evaluated.data)
    images = itertools.chain.from_iterable(batch.numpy() for batch, _ in loader)
    numbers = chosen(count, loader.samples)
    photos = [image for number, image in zip(range(numbers[-1] + 1), images, strict=False) if number in numbers]
    integers = next(name for name in evaluated.executors if name not in ("float", "qat", "teacher"))
    titles = {"float": "float", "integer": integers}
    executors = {title: evaluated.executors[name] for title, name in titles.items() if name in evaluated.executors}
    path, names = evaluated.figures.with_name(OVERLAYS), class_names(evaluated.program)
    draw_overlays(path, np.stack(photos), executors, names, evaluated.data.palette)
    print(f"{len(photos)} photos under their labels: {path}")


def _explain(
    evaluated: EvaluatedProgram, name: str, tallies: Mapping[str, Tally], reference: str, differing: list[str]
) -> str:
    """One line on the mismatches of a runtime, naming the first operator that differs.

    A runtime that agrees with the model shows every operator; the model itself shows those that end a layer.
    """
    result, task = tallies[name], evaluated.task
    if result.first_mismatch is None:
        return f"runtime {name}: no label differs, but {result.score_mismatches} dense scores do"
    index, image = result.first_mismatch
    agreeing = [other for other in tallies if other in evaluated.traces and other not in (*differing, "qat")]
    against = agreeing[0] if agreeing else reference
    found = first_difference(evaluated.program, image, evaluated.traces[name], evaluated.traces[against])
    where = f"first at operator {found}, against {against}" if found else "no operator differs in the traces"
    what, pixels = ("labels", " pixels") if task.dense else ("scores", "")
    count = f"{result.mismatches}{pixels} of {result.images}"
    return f"runtime {name}: {what} differ on {count} images (image {index}: {where})"


def _limited(loader: Any, limit: int | None) -> Iterator[tuple[np.ndarray, Any]]:
    seen = 0
    for images, labels in loader:
        rest = len(images) if limit is None else limit - seen
        kept = labels[:rest]
        yield images[:rest].numpy(), kept.numpy() if isinstance(kept, Tensor) else kept
        seen += len(images)
        if limit is not None and seen >= limit:
            return
