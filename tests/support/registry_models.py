"""Every registered model, made small."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from intvit.models import MODELS, create_model
from intvit.models.swin import SwinSize
from tests.support.presets import quant_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def reduced(name: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Image size, and what makes the model small here and in timm."""
    size = MODELS[name]
    if isinstance(size, SwinSize):  # shifted windows, then a side of one window
        return 56, {"depths": (2, 2), "heads": size.heads[:2]}, {"depths": (2, 2), "num_heads": size.heads[:2]}
    return 2 * size.patch, {"depth": 1}, {"depth": 1}


def model_of(name: str, preset: str, **changes: Any) -> nn.Module:
    image_size, small, _ = reduced(name)
    options = {"image_size": image_size, "patch_size": None, "num_classes": 7, "mean": MEAN, "std": STD}
    return create_model(name, **{**options, "quant": quant_of(preset), **small, **changes})


def random_images(count: int, height: int, width: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width or height), dtype=torch.uint8, generator=generator)
