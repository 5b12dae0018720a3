"""Small models that label every pixel: a ViT whose end is a linear head or a mask transformer."""

from __future__ import annotations

import torch

from intvit.models.mask_transformer import MaskTransformer
from intvit.models.vit.network import VisionTransformer, VisionTransformerSize
from intvit.quant.layers import DenseScores, MaskScores
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
    preset: str, head: str = "linear", *, image_size: tuple[int, int] = (24, 32), classes: int = 5
) -> DenseVisionTransformer:
    """With lively random weights; a class token, patches of 8 pixels."""
    torch.manual_seed(0)
    model = HEADS[head](
        VisionTransformerSize("", width=32, depth=2, heads=2, patch=8),
        image_size=image_size,
        patch_size=None,
        num_classes=classes,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        quant=quant_of(preset),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.3, 2.0)
            else:
                parameter.normal_(0, 0.3)
    return model.eval()


class MaskVisionTransformer(DenseVisionTransformer):
    """The last LayerNorm, a mask transformer of one block on the patch tokens, and products of patches and classes."""

    def _build_end(self, size: VisionTransformerSize, num_classes: int, quant) -> None:
        super()._build_end(size, num_classes, quant)
        upsample, form = self.head.upsample, {"width": size.width, "depth": 1, "heads": size.heads}
        self.decoder = MaskTransformer(size.width, num_classes, quant, "decoder", **form)
        grid = {"grid": upsample.grid, "factor": upsample.factor}
        self.head = MaskScores(size.width, num_classes, quant, "head", **grid)

    def _pooled(self, x: AnyTensor) -> AnyTensor:
        return self.decoder(super()._pooled(x))


HEADS = {"linear": DenseVisionTransformer, "mask": MaskVisionTransformer}


def images_of(model: DenseVisionTransformer, count: int, seed: int) -> torch.Tensor:
    """Random, uint8; the first two are black and white."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, *model.image_size), dtype=torch.uint8, generator=generator)
    images[0], images[1] = 0, 255
    return images
