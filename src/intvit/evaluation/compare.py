"""Every executor over every image of the data, the table, and the operator where one differs first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from intvit.data.loading import validation_loader
from intvit.errors import IntVitError
from intvit.evaluation.config import EvaluateConfig
from intvit.evaluation.differences import first_difference
from intvit.evaluation.engine import Tally, tally
from intvit.evaluation.evaluated import EvaluatedProgram
from intvit.evaluation.report import figures, print_table
from intvit.files import write_json
from intvit.progress import count_progress


class MismatchError(IntVitError):
    """A runtime's scores differ from the model's: the contract is broken."""


def compare(evaluated: EvaluatedProgram, config: EvaluateConfig) -> dict[str, Any]:
    """Run, print and write; returns what evaluation.json holds. Raises MismatchError where an integer differs."""
    loader = validation_loader(evaluated.data)
    runtimes = list(config.runtimes)
    reference = "qat" if "qat" in evaluated.executors else runtimes[0]
    with count_progress("images", config.limit or len(loader) * evaluated.data.eval_batch_size) as progress:
        tallies = tally(
            _limited(loader, config.limit),
            evaluated.executors,
            reference=reference,
            compared=runtimes,
            agreement_with=evaluated.agreement_with,
            progress=progress,
        )
    print_table(tallies, runtimes, evaluated.sizes, evaluated.agreement_with)
    values = {"data": evaluated.data.name, **figures(tallies, runtimes)}
    if loader.skipped:
        values["skipped"] = loader.skipped
        print(f"skipped {loader.skipped} bad samples, which no figure counts")
    write_json(evaluated.figures, values)
    print(f"integer checkpoint {evaluated.folder}, figures in {evaluated.figures}")
    differing = [name for name in runtimes if tallies[name].mismatches]
    if differing:
        raise MismatchError("; ".join(_explain(evaluated, name, tallies, reference, differing) for name in differing))
    return values


def _explain(
    evaluated: EvaluatedProgram, name: str, tallies: Mapping[str, Tally], reference: str, differing: list[str]
) -> str:
    """One line on the mismatches of a runtime, naming the first operator that differs.

    A runtime that agrees with the model shows every operator; the model itself shows those that end a layer.
    """
    result = tallies[name]
    assert result.first_mismatch is not None
    index, image = result.first_mismatch
    agreeing = [other for other in tallies if other in evaluated.traces and other not in (*differing, "qat")]
    against = agreeing[0] if agreeing else reference
    found = first_difference(evaluated.program, image, evaluated.traces[name], evaluated.traces[against])
    where = f"first at operator {found}, against {against}" if found else "no operator differs in the traces"
    return f"runtime {name}: scores differ on {result.mismatches} of {result.images} images (image {index}: {where})"


def _limited(loader: Any, limit: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    seen = 0
    for images, labels in loader:
        rest = len(images) if limit is None else limit - seen
        yield images[:rest].numpy(), labels[:rest].numpy()
        seen += len(images)
        if limit is not None and seen >= limit:
            return
