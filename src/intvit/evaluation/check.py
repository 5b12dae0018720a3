"""A model against runtimes on the program that was saved and loaded, without a data set."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from intvit.calibration import calibrate
from intvit.export.record import record
from intvit.models.base import ImageModel
from intvit.models.presets import random_model
from intvit.program import Program, load_checkpoint, save_checkpoint
from intvit.program.cost import macs
from intvit.runtime import load_runtime


@dataclass(frozen=True)
class CheckedModel:
    """What a model's integer program is made of, and the images whose scores differ between model and runtimes."""

    parameters: int
    stored_bytes: int
    operators: int
    macs: int
    mismatches: int


def check_model(
    name: str, quant: str, image_size: tuple[int, int] | None, images: int, runtimes: Sequence[str], seed: int = 0
) -> CheckedModel:
    """Model `name` of full size with random weights, calibrated, exported, and run on so many random images.

    name: one of ours or timm's. quant: an integer preset, with overrides after commas. image_size: None for the
    model's own. Raises IntVitError for a preset that is float.
    """
    model = random_model(name, quant, image_size, seed)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 3, *model.image_size), dtype=torch.uint8, generator=generator)
    calibrate(model, [pixels])
    program = record(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    wrong = mismatches(model, pixels, runtimes)
    return CheckedModel(parameters, stored_bytes(program), len(program.operators), macs(program), wrong)


def stored_bytes(program: Program) -> int:
    """Size of weights.safetensors."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(program, Path(folder) / "program")
        return (Path(folder) / "program" / "weights.safetensors").stat().st_size


def mismatches(model: nn.Module, images: Tensor, names: Sequence[str] = ("torch", "numpy")) -> int:
    """Images whose scores differ between the model and any of the runtimes `names` on the program that was saved.

    model: an ImageModel in integer mode; images: uint8 (N, C, H, W).
    """
    assert isinstance(model, ImageModel)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(record(model), Path(folder) / "program")
        program = load_checkpoint(Path(folder) / "program")
    runtimes = [load_runtime(program, name) for name in names]
    count = 0
    for batch in images.split(8):
        scores = model.integer_scores(batch).numpy()
        count += int(sum((scores != run(batch.numpy())).any(1) for run in runtimes).astype(bool).sum())
    return count
