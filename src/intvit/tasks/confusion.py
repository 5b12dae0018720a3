"""Which classes a trained model takes for which, as a picture for the loggers that show pictures."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intvit.quant.observer import all_reduce

NAMED = 25  # classes; more would not be legible


def count_pairs(given: Tensor, right: Tensor, classes: int) -> Tensor:
    """int64 (classes, classes): how often a right class (row) was answered by a class given (column), both (N,)."""
    cells = right * classes + given
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)


class Confusion:
    """Counts (classes, classes): images, or pixels, of a label (row) by the class that the model gives (column)."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    def add(self, given: Tensor, right: Tensor) -> None:
        """One batch: classes given and right ones, int64 (N,) each."""
        self.counts += count_pairs(given, right, len(self.counts))

    def picture(self) -> Image.Image | None:
        """Of all ranks together, each row in shares; None without matplotlib. Every rank calls it."""
        counts = all_reduce(self.counts, "sum").cpu().numpy()
        try:
            from matplotlib.figure import Figure
        except ImportError:  # 'intvit[analysis]' brings it
            return None
        figure = Figure(figsize=(6, 5.4), layout="constrained")
        axes: Any = figure.subplots()
        shown = axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="class given", ylabel="class", title=f"{counts.trace() / max(counts.sum(), 1):.1%} right")
        if len(counts) <= NAMED:
            axes.set_xticks(range(len(counts)))
            axes.set_yticks(range(len(counts)))
        figure.colorbar(shown, label="share of the class's images")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110)
        return Image.open(file)


def send_picture(loggers: Iterable[Any], name: str, picture: Image.Image, step: int) -> None:
    """To W&B, TensorBoard and MLflow, and to any logger with `log_image(key, images, step)`."""
    for logger in loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[picture], step=step)
        elif hasattr(experiment, "add_image"):
            experiment.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        elif hasattr(experiment, "log_image"):
            experiment.log_image(logger.run_id, picture, f"{name.replace('/', '-')}.png")
