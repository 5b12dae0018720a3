"""Models of full size from presets by name, with random weights."""

from __future__ import annotations

import torch
from torch import nn

from intvit.data.config import DataConfig
from intvit.errors import IntVitError
from intvit.models import build, create_model
from intvit.models.base import ImageModel
from intvit.quant import QuantConfig
from intvit.quant.presets import compose_quant


def photo_model(name: str, quant: str, data: DataConfig, dense: str | None = None) -> nn.Module:
    """Model `name` for the images of `data`, random weights; `quant`: an integer preset, with overrides after commas.

    dense: a head for every pixel. Raises IntVitError for a preset that is float.
    """
    return create_model(
        name,
        image_size=data.image_size,
        patch_size=None,
        num_classes=data.num_classes,
        mean=data.mean,
        std=data.std,
        quant=_integer_preset(quant),
        dense=dense,
    )


def random_model(name: str, quant: str, image_size: tuple[int, int] | None, seed: int) -> ImageModel:
    """`name`, one of ours or timm's, with lively random weights, in eval mode.

    Classes and normalization are ImageNet's, or what timm says of the name; so is the size of images, if it is None.
    """
    torch.manual_seed(seed)
    model = build.create_model(name, quant=_integer_preset(quant), image_size=image_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def _integer_preset(quant: str) -> QuantConfig:
    preset, *overrides = quant.split(",")
    config = compose_quant(preset, overrides)
    if not config.enabled:
        raise IntVitError(f"--quant {preset} is float: it has no integer program; choose an integer preset")
    return config
