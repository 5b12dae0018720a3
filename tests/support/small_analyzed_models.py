"""Models for analyses, of reduced size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from intvit.analysis.analyzed_model import AnalyzedModel
from intvit.calibration import calibrate
from intvit.data.presets import photo_config
from intvit.models import create_model
from intvit.training.config import photo_model_config
from tests.support.presets import quant_of

SIZES: dict[str, tuple[int, dict[str, Any]]] = {
    "deit_t": (32, {"width": 16, "depth": 3, "heads": 2}),
    "swin_t": (56, {"depths": (2, 2), "heads": (3, 6)}),
}


class SmallModel(AnalyzedModel):
    """A model of reduced size with lively random weights."""

    def _build(self, overrides: dict[str, Any]) -> nn.Module:
        image, size = SIZES[self.name]
        torch.manual_seed(0)
        options = {"image_size": image, "patch_size": None, "num_classes": 7, "mean": (0.5,) * 3, "std": (0.5,) * 3}
        model = create_model(self.name, **options, quant=replace(self.quant, overrides=overrides), **size).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model


def images(name: str, count: int, seed: int) -> Tensor:
    generator, side = torch.Generator().manual_seed(seed), SIZES[name][0]
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def small_model(name: str, preset: str) -> SmallModel:
    config, quant = photo_model_config(name), quant_of(preset)
    small = SmallModel(name, config, quant, nn.Identity(), photo_config(), images(name, 6, 1))
    small.model = small._build({})
    calibrate(small.model, small.calibration.split(8))
    return small
