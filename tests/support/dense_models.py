"""Small models that label every pixel, with each of a ViT's heads."""

from __future__ import annotations

import torch

from intvit.models.vit.network import DenseVisionTransformer, VisionTransformerSize
from tests.support.presets import quant_of


def dense_model(
    preset: str, head: str = "linear", *, image_size: tuple[int, int] = (24, 32), classes: int = 5
) -> DenseVisionTransformer:
    """With lively random weights; a class token, patches of 8 pixels."""
    torch.manual_seed(0)
    model = VisionTransformerSize("", width=32, depth=2, heads=2, patch=8).build(
        dense=head,
        image_size=image_size,
        patch_size=None,
        num_classes=classes,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        quant=quant_of(preset),
    )
    assert isinstance(model, DenseVisionTransformer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.3, 2.0)
            else:
                parameter.normal_(0, 0.3)
    return model.eval()


def images_of(model: DenseVisionTransformer, count: int, seed: int) -> torch.Tensor:
    """Random, uint8; the first two are black and white."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, *model.image_size), dtype=torch.uint8, generator=generator)
    images[0], images[1] = 0, 255
    return images
