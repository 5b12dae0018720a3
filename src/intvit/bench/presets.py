"""Top-1 of every quantization preset on given weights, after calibration, without training: a row for each preset."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from intvit.analysis.analyzed_model import AnalyzedModel
from intvit.analysis.distances import divergence
from intvit.data.config import DataConfig
from intvit.data.loading import first_images, validation_loader
from intvit.evaluation.check import mismatches
from intvit.export.record import record
from intvit.program import Program
from intvit.progress import count_progress
from intvit.quant.presets import compose_quant
from intvit.runtime import fastest_runtime

BATCH = 32


@dataclass
class ImageSet:
    """Images uint8 (N, 3, H, W), labels (N,), and the float model's class probabilities (N, classes)."""

    name: str
    images: Tensor
    labels: Tensor
    reference: Tensor


@torch.no_grad()
def load_images(name: str, folder: str, data: DataConfig, limit: int | None, model: nn.Module) -> ImageSet:
    images, labels = first_images(validation_loader(replace(data, root=folder)), limit)
    batches = _tracked(images, f"float, {name}")
    return ImageSet(name, images, labels, torch.cat(list(map(model, batches))).double().softmax(1))


def _tracked(images: Tensor, title: str) -> Iterator[Tensor]:
    """Batches with a bar on standard error, so that output holds the table alone."""
    with count_progress(title, len(images), console=Console(stderr=True), transient=True) as step:
        for batch in torch.split(images, BATCH):
            yield batch
            step(len(batch))


def float_row(sets: list[ImageSet]) -> dict[str, Any]:
    figures = {images.name: {"top1": _float_top1(images), "agreement": 100.0, "divergence": 0.0} for images in sets}
    return {"preset": "float", "sets": figures, "mean_change": 0.0, "mismatches": 0, "checked": 0, "seconds": 0.0}


def _float_top1(images: ImageSet) -> float:
    return 100.0 * float((images.reference.argmax(1) == images.labels).double().mean())


def row_of(
    analyzed: AnalyzedModel, preset: str, sets: list[ImageSet], *, check: int, config_dir: Path | None
) -> dict[str, Any]:
    """One preset, with overrides after commas, on every set.

    check: so many images of each set run through model and runtimes as well. config_dir: holds more presets.
    """
    start = time.perf_counter()
    name, *overrides = preset.split(",")
    model = analyzed.calibrated(compose_quant(name, overrides, config_dir))
    program = record(model)
    figures = {images.name: _figures(program, images, preset) for images in sets}
    checked = [images.images[:check] for images in sets] if check else []
    changes = [figures[images.name]["top1"] - _float_top1(images) for images in sets]
    return {
        "preset": preset,
        "sets": figures,
        "mean_change": sum(changes) / len(changes),
        "mismatches": mismatches(model, torch.cat(checked)) if checked else 0,
        "checked": sum(map(len, checked)),
        "seconds": time.perf_counter() - start,
    }


def _figures(program: Program, images: ImageSet, title: str) -> dict[str, Any]:
    """Of one set; `images` holds what every image gave, for paired tests."""
    runtime = fastest_runtime(program)
    batches = _tracked(images.images, f"{title}, {images.name}")
    logits = torch.cat([torch.from_numpy(runtime(batch.numpy())) for batch in batches]).double() * program.score_scale
    right, same = (logits.argmax(1) == classes for classes in (images.labels, images.reference.argmax(1)))
    divergences = divergence(logits.softmax(1), images.reference)
    return {
        "top1": 100.0 * float(right.double().mean()),
        "agreement": 100.0 * float(same.double().mean()),
        "divergence": float(divergences.mean()),
        "images": {"top1": right.int().tolist(), "agreement": same.int().tolist(), "divergence": divergences.tolist()},
    }
