"""Small models of every form that calibration meets: what reads what differs, and where there are biases."""

from __future__ import annotations

from typing import Any

import torch

import intvit
from intvit.models.base import ImageModel
from tests.support.presets import quant_of

_VIT: dict[str, Any] = {"image_size": (16, 24), "patch_size": 8, "width": 24, "heads": 3, "depth": 2}
_SWIN: dict[str, Any] = {"width": 24, "window": 3, "patch_size": 4}
_CLIP = {"pre_norm": True, "qkv_bias": False, "proj_bias": False, "activation": "quick_gelu"}
_SIGLIP = {"class_token": False, "pool": "map", "activation": "gelu_tanh"}

# Model, what is changed of it, classes; how many streams are rotated where no gamma is near zero.
FORMS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "vit": ("deit_t", _VIT, 5, 1),
    "distilled": ("deit_t_distilled", _VIT, 5, 1),
    "registers": ("deit_t", {**_VIT, "registers": 2, "prefix_positions": False}, 5, 1),
    "clip": ("deit_t", {**_VIT, **_CLIP}, 5, 0),
    "siglip": ("deit_t", {**_VIT, **_SIGLIP}, 5, 2),  # the pooled token is a stream of its own
    "average": ("deit_t", {**_VIT, "pool": "avg"}, 5, 1),
    "average before the norm": ("deit_t", {**_VIT, "pool": "avg", "norm": "after"}, 5, 1),
    "inner norms": ("deit_t", {**_VIT, "inner_norms": True}, 5, 1),
    "no bias of qkv": ("deit_t", {**_VIT, "qkv_bias": False}, 5, 1),
    "no bias of proj": ("deit_t", {**_VIT, "proj_bias": False}, 5, 1),
    "features": ("deit_t", _VIT, 0, 0),  # they leave through a norm as wide as the stream
    # Windows padded with zeros (9 x 11 tokens), an odd grid at both mergings.
    "swin": ("swin_t", {**_SWIN, "image_size": (36, 44), "depths": (2, 1, 1), "heads": (3, 3, 6)}, 5, 2),
}


def model_of_form(
    name: str, preset: str = "w4a4", *, zeros: bool = False, overrides: list[str] | None = None
) -> ImageModel:
    """In eval mode, every parameter random, gammas of both signs; zeros: every fifth gamma is 0."""
    base, form, classes, _ = FORMS[name]
    torch.manual_seed(0)
    model = intvit.create_model(base, num_classes=classes, quant=quant_of(preset, overrides), **form)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
            if "norm" in key and key.endswith("weight"):
                parameter.copy_(torch.randn_like(parameter).sign() * (0.3 + parameter.abs()))
                if zeros:
                    parameter[::5] = 0.0
    return model.eval()


def images_for(model: ImageModel, count: int = 5, seed: int = 1) -> torch.Tensor:
    """Random ones, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *model.image_size), dtype=torch.uint8, generator=generator)
