"""A small model that labels every pixel: a ViT whose end is a dense one."""

from __future__ import annotations

import torch

from intvit.models.vit.network import VisionTransformer, VisionTransformerSize
from intvit.quant.layers import DenseScores
from intvit.quant.tensor import AnyTensor, narrow
from tests.support.presets import quant_of


class DenseVisionTransformer(VisionTransformer):
    """The last LayerNorm and a linear layer read the patch tokens."""

    def _build_end(self, size: VisionTransformerSize, num_classes: int, quant) -> None:
        super()._build_end(size, num_classes, quant)
        patch = self.patch_embed["proj"].patch
        grid = (self.image_size[0] // patch, self.image_size[1] // patch)
        site = quant.site("head", edge=True)
        self.head = DenseScores(size.width, num_classes, site, grid=grid, factor=patch)

    def _pooled(self, x: AnyTensor) -> AnyTensor:
        patches = self.pos_embed.shape[1] - self.positioned
        return self.norm(narrow(x, 0, self.size.prefix, self.size.prefix + patches, "tokens.patches"))


def dense_model(
    preset: str, overrides: list[str] | None = None, *, image_size: tuple[int, int] = (24, 32), classes: int = 5
) -> DenseVisionTransformer:
    """With lively random weights; a class token, patches of 8 pixels."""
    torch.manual_seed(0)
    model = DenseVisionTransformer(
        VisionTransformerSize("", width=32, depth=2, heads=2, patch=8),
        image_size=image_size,
        patch_size=None,
        num_classes=classes,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        quant=quant_of(preset, overrides),
    )
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
