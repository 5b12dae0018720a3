"""The models of the parts: of full size on a GPU, of a few channels on a CPU; random weights, calibrated on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from intvit.bench.gpu.report import Place
from intvit.calibration import calibrate
from intvit.models import create_model
from intvit.models.base import ImageModel
from intvit.models.build import IMAGENET_MEAN, IMAGENET_STD
from intvit.quant.presets import compose_quant

_VIT = {"image_size": 32, "patch_size": 8, "num_classes": 10, "width": 32, "depth": 1, "heads": 2}
_SWIN = {"image_size": 32, "patch_size": 4, "num_classes": 10, "width": 16, "depths": (2,), "heads": (2,), "window": 4}


def subject(name: str, quant: str, place: Place) -> ImageModel:
    """Model `name` with lively random weights on the CPU, in float mode."""
    torch.manual_seed(0)
    full: dict[str, Any] = {"image_size": 224, "patch_size": None, "num_classes": 1000}
    form = full if place.gpu else _SWIN if name.startswith("swin") else _VIT
    model = create_model(name, mean=IMAGENET_MEAN, std=IMAGENET_STD, quant=compose_quant(quant), **form)
    assert isinstance(model, ImageModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def calibrated(name: str, quant: str, place: Place) -> ImageModel:
    """`subject` with ranges, in integer and eval mode, on the CPU."""
    model = subject(name, quant, place)
    calibrate(model, [pixels(model, 1, 0)])  # one image gives ranges, too, and a model of full size takes seconds
    return model


def pixels(model: ImageModel, count: int, seed: int) -> Tensor:
    """Random images, the first black and the second white where there are more than two."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, model.channels, *model.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if count > 2:
        images[0], images[1] = 0, 255
    return images


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy; under autocast to bfloat16 on a GPU, as precision=bf16-mixed does."""
    if images.is_cuda:
        with torch.autocast("cuda", torch.bfloat16):
            return nn.functional.cross_entropy(model(images), labels)
    return nn.functional.cross_entropy(model(images), labels)
