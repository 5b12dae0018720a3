"""Every name of timm's in the modules of our architectures: reduced, against timm's floats and on the runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.config.timm_photos import bare_name, import_timm
from intvit.errors import IntVitError
from intvit.evaluation.check import mismatches
from intvit.models.quantize import quantize
from intvit.models.timm_models import TimmModel, timm_model

IMAGES, DEPTH, HEADS, GRID, CLASSES = 3, 2, 2, 4, 7
LIMIT = 1e-4  # of the float difference: timm folds nothing and sums in another order
SPREAD = 0.05  # of what is added to every parameter, so that none is as it was initialized


@dataclass(frozen=True)
class CheckedName:
    """features: fields of the size that are not as usual. refused: why, or None.

    difference: the largest of any output in float mode from timm's. mismatches: images with other integers.
    """

    name: str
    features: str
    refused: str | None = None
    difference: float = 0.0
    mismatches: int = 0

    @property
    def wrong(self) -> bool:
        """Whether it differs from timm or among the runtimes."""
        return self.refused is None and not (self.difference <= LIMIT and self.mismatches == 0)


def check_name(name: str, quant: str, runtimes: Sequence[str], seed: int = 0) -> CheckedName:
    """The model of a name with two blocks of two heads, 4 x 4 patches and random weights."""
    try:
        known = timm_model(name)
    except IntVitError as error:
        return CheckedName(name, "", str(error).rpartition(" with ")[2].partition(": not among")[0])
    reference = reduced_model(name, known, seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (IMAGES, 3, *reference.patch_embed.img_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    model = quantize(reference, quant)
    with torch.no_grad():
        real = (images / 255.0 - _channels(known.photos.mean)) / _channels(known.photos.std)
        difference = float((model(images) - reference(real)).abs().max())
    calibrate(model, images)
    return CheckedName(name, features(known, reference), None, difference, mismatches(model, images, runtimes))


def reduced_model(name: str, known: TimmModel, seed: int) -> Any:
    """timm's model of that name, as small as its form allows, with random weights."""
    size: Any = known.size
    options: dict[str, Any] = {"num_classes": CLASSES if known.num_classes else 0, "img_size": GRID * size.patch}
    if isinstance(size.heads, tuple):  # stages: a window of 2 of 4 x 4, and one that holds all 2 x 2
        ratio = size.width // size.heads[0]
        options |= {"embed_dim": HEADS * ratio, "depths": (2, 2), "num_heads": (HEADS, 2 * HEADS), "window_size": 2}
    else:
        options |= {"embed_dim": HEADS * (size.width // size.heads), "depth": DEPTH, "num_heads": HEADS}
    torch.manual_seed(seed)
    model: nn.Module = import_timm().create_model(bare_name(name), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(SPREAD * torch.randn_like(parameter))
    return model.eval()


def features(known: TimmModel, model: nn.Module) -> str:
    """What the size has that is not as usual, as keywords of `create_model`; LayerScale, which loading folds."""
    size: Any = known.size
    usual = {field.name: field.default for field in fields(size) if field.default is not MISSING}
    own = [f"{key}={_text(getattr(size, key))}" for key, value in usual.items() if getattr(size, key) != value]
    if any(type(module).__name__ == "LayerScale" for module in model.modules()):
        own.append("LayerScale")
    return ", ".join(own if known.num_classes else ["num_classes=0", *own])


def table(rows: Sequence[CheckedName]) -> str:
    """The rows in Markdown."""
    lines = ["| timm's name | not as usual | float difference | mismatches |", "|---|---|---|---|"]
    for row in rows:
        if row.refused:
            lines.append(f"| `{row.name}` | refused: {row.refused} | | |")
        else:
            lines.append(f"| `{row.name}` | {row.features} | {row.difference:.0e} | {row.mismatches} |")
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _channels(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1)
