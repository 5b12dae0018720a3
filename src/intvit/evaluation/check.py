"""A model against runtimes on the program that was saved and loaded, without a data set."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from intvit.export.record import record
from intvit.models.base import ImageModel
from intvit.program import Program, load_checkpoint, save_checkpoint
from intvit.runtime import load_runtime


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
