"""The parts of the check by name, in the order in which they are worth running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from intvit.bench.gpu.derivations import derivations
from intvit.bench.gpu.equality import model, runtime
from intvit.bench.gpu.kernels import kernels
from intvit.bench.gpu.ranks import ranks
from intvit.bench.gpu.report import FAILED, Report, place, write_table
from intvit.bench.gpu.step import step


def inference(report: Report) -> None:
    """The table of `intvit bench runtime --device cuda`: DeiT-S, batches of 1 and 128."""
    report.place.needs_gpu()
    report.place.needs_kernels()
    from intvit.bench import cuda
    from intvit.bench.runtime import RuntimeSettings, models

    settings, batches = RuntimeSettings("deit_s", "ivit8", batch=128, threads=1, rounds=15), (1, 128)
    figures = cuda.measure(*models(settings), batches, settings.rounds)
    for row in figures.pop("rows"):
        report.add(f"{row.pop('runtime')}, batch {row['batch']}", **row)
    missing = figures.pop("missing")
    report.add("card and versions", **figures, **missing)


PARTS: dict[str, Callable[[Report], None]] = {
    "kernels": kernels,
    "derivations": derivations,
    "runtime": runtime,
    "model": model,
    "step": step,
    "inference": inference,
    "ranks": ranks,
}


def check(names: Sequence[str], folder: Path) -> tuple[bool, str]:
    """Run the parts, each with a report in `folder`; whether none failed, and the table of all reports there."""
    where = place()
    statuses = [Report(name, folder, where).run(PARTS[name]) for name in names]
    return FAILED not in statuses, write_table(folder, list(PARTS))
