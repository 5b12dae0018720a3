"""Programs of a small ViT and a small Swin for every quant preset, with images."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.export.record import record
from intvit.program import Program
from tests.support.registry_models import model_of
from tests.support.registry_models import random_images as images_of_size
from tests.support.small_models import extreme_images, prepared, random_images, small_model


def small_swin(preset: str, **changes: Any) -> nn.Module:
    """Two stages, shifted windows with masks, lively random weights."""
    torch.manual_seed(1)
    model = model_of("swin_t", preset, **changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    calibrate(model, [images_of_size(4, 56)])
    return model


@functools.cache  # several tests ask for each
def preset_cases(preset: str) -> list[tuple[str, Program, np.ndarray]]:
    """Name, program and images of a small model of each architecture."""
    vit, swin = prepared(small_model(preset)), small_swin(preset)
    return [
        ("vit", record(vit), torch.cat((random_images(4, 1), extreme_images(4))).numpy()),
        ("swin", record(swin), images_of_size(2, 56).numpy()),
    ]
