"""Models of full size from presets by name, with random weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from intvit.data.config import DataConfig
from intvit.data.presets import photo_config
from intvit.errors import IntVitError
from intvit.models import create_model
from intvit.quant.presets import compose_quant


def photo_model(name: str, quant: str, data: DataConfig) -> nn.Module:
    """Model `name` for the images of `data`, random weights; `quant`: an integer preset, with overrides after commas.

    Raises IntVitError for a preset that is float.
    """
    preset, *overrides = quant.split(",")
    config = compose_quant(preset, overrides)
    if not config.enabled:
        raise IntVitError(f"--quant {preset} is float: it has no integer program; choose an integer preset")
    return create_model(
        name,
        image_size=data.image_size,
        patch_size=None,
        num_classes=data.num_classes,
        mean=data.mean,
        std=data.std,
        quant=config,
    )


def random_model(name: str, quant: str, image_size: tuple[int, int], seed: int) -> nn.Module:
    """`name` with lively random weights, ImageNet's classes and normalization, in eval mode."""
    torch.manual_seed(seed)
    model = photo_model(name, quant, replace(photo_config(), image_size=image_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()
