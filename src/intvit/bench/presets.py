"""What quantization presets do to given weights after calibration, without training: a row for each preset.

How near the scores come to the float model's, top-1, and what calibration costs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import TaskProgressColumn
from torch import Tensor, nn

from intvit.analysis.analyzed_model import AnalyzedModel
from intvit.analysis.distances import divergence
from intvit.bench.intervals import figures
from intvit.data.config import DataConfig
from intvit.data.loading import first_images, validation_loader
from intvit.evaluation.check import mismatches
from intvit.export.record import record
from intvit.program import Program
from intvit.progress import count_progress, progress_bar
from intvit.quant.presets import compose_quant
from intvit.runtime import fastest_runtime

BATCH = 32


@dataclass
class ImageSet:
    """Images uint8 (N, 3, H, W), labels (N,), and the float model's class probabilities (N, classes).

    seen: bool (N,), whether calibration held photos of the image's class.
    """

    name: str
    images: Tensor
    labels: Tensor
    reference: Tensor
    seen: Tensor


@torch.no_grad()
def load_images(
    name: str, folder: str, data: DataConfig, limit: int | None, model: nn.Module, calibrated: Sequence[int]
) -> ImageSet:
    """The first `limit` images of a folder with val-*.tar. calibrated: the classes of the calibration photos."""
    images, labels = first_images(validation_loader(replace(data, root=folder)), limit)
    batches = _tracked(images, f"float, {name}")
    reference = torch.cat(list(map(model, batches))).double().softmax(1)
    return ImageSet(name, images, labels, reference, torch.isin(labels, torch.tensor(calibrated)))


def _tracked(images: Tensor, title: str) -> Iterator[Tensor]:
    """Batches with a bar on standard error, so that output holds the table alone."""
    with count_progress(title, len(images), console=Console(stderr=True), transient=True) as step:
        for batch in torch.split(images, BATCH):
            yield batch
            step(len(batch))


def float_row(sets: list[ImageSet]) -> dict[str, Any]:
    """The float model as the others are measured."""
    measured = {images.name: _figures(images.reference, images) for images in sets}
    nothing = {"mean_change": 0.0, "mismatches": 0, "checked": 0, "calibration_cpu": 0.0, "seconds": 0.0}
    return {"preset": "float", "sets": measured, **nothing}


def row_of(
    analyzed: AnalyzedModel,
    name: str,
    overrides: Sequence[str],
    sets: list[ImageSet],
    *,
    check: int,
    config_dir: Path | None,
) -> dict[str, Any]:
    """One preset with overrides such as quant/gelu=lut, on every set.

    check: so many images of each set run through model and runtimes as well. config_dir: holds more presets. Of the
    row, `calibration_cpu` is the CPU time in seconds of calibration alone, photos decoded and the float model at hand,
    and `seconds` the time of all of it by the clock.
    """
    start = time.perf_counter()
    preset = ",".join((name, *overrides))
    model, cpu = _calibrated(analyzed, name, overrides, config_dir)
    program = record(model)
    measured = {images.name: _figures(_probabilities(program, images, preset), images) for images in sets}
    checked = [images.images[:check] for images in sets] if check else []
    changes = [measured[images.name]["top1"] - _float_top1(images) for images in sets]
    return {
        "preset": preset,
        "sets": measured,
        "mean_change": sum(changes) / len(changes),
        "mismatches": mismatches(model, torch.cat(checked)) if checked else 0,
        "checked": sum(map(len, checked)),
        "calibration_cpu": cpu,
        "seconds": time.perf_counter() - start,
    }


def _calibrated(
    analyzed: AnalyzedModel, name: str, overrides: Sequence[str], config_dir: Path | None
) -> tuple[nn.Module, float]:
    """The model and the CPU seconds that calibration takes for this preset alone, whichever came before it."""
    quant = compose_quant(name, list(overrides), config_dir)
    shared = 0.0
    if quant.calibration.ranges_alone:
        analyzed.collect()
        shared = analyzed.collecting_cpu
    analyzed.known.clear()  # ranges that another preset's calibration found
    start = time.process_time()
    with progress_bar(TaskProgressColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{name}, calibrating", total=None)
        model = analyzed.calibrated(
            quant, progress=lambda _, done, total: bar.update(task, completed=done, total=total)
        )
    return model, shared + time.process_time() - start


def _float_top1(images: ImageSet) -> float:
    return 100.0 * float((images.reference.argmax(1) == images.labels).double().mean())


def _probabilities(program: Program, images: ImageSet, title: str) -> Tensor:
    """Of the program's scores, float64 (N, classes)."""
    runtime = fastest_runtime(program)
    batches = _tracked(images.images, f"{title}, {images.name}")
    scores = torch.cat([torch.from_numpy(runtime(batch.numpy())) for batch in batches])
    return (scores.double() * program.score_scale).softmax(1)


def _figures(probabilities: Tensor, images: ImageSet) -> dict[str, Any]:
    """`figures` of class probabilities (N, classes)."""
    first = probabilities.argmax(1)
    measured = {
        "divergence": divergence(probabilities, images.reference),
        "agreement": (first == images.reference.argmax(1)).int(),
        "top1": (first == images.labels).int(),
    }
    return figures({key: values.numpy() for key, values in measured.items()}, images.seen.numpy())
