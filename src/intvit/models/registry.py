"""Names of the models and how to build one."""

from __future__ import annotations

from torch import nn

from intvit.errors import IntVitError
from intvit.models.vit import VisionTransformer, VisionTransformerSize
from intvit.quant import QuantConfig

MODELS: dict[str, VisionTransformerSize] = {
    "deit_t": VisionTransformerSize(width=192, depth=12, heads=3),
    "deit_s": VisionTransformerSize(width=384, depth=12, heads=6),
    "deit_b": VisionTransformerSize(width=768, depth=12, heads=12),
    "vit_s": VisionTransformerSize(width=384, depth=12, heads=6),
    "vit_b": VisionTransformerSize(width=768, depth=12, heads=12),
    "vit_l": VisionTransformerSize(width=1024, depth=24, heads=16),
}

TIMM_NAMES = {
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
    "vit_l": "vit_large_patch16_224",
}


def create_model(
    name: str,
    *,
    image_size: int,
    patch_size: int | None,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    quant: QuantConfig,
    drop_path: float = 0.0,
    **size: int,
) -> nn.Module:
    """Build `name` with random weights, in float mode.

    patch_size None takes the model's own. `size` overrides width, depth, heads or mlp_ratio (reduced models of
    tests). Raises IntVitError for an unknown name or an image size that the patch does not divide.
    """
    if name not in MODELS:
        raise IntVitError(f"model.name={name}: unknown model, expected one of {', '.join(MODELS)}")
    base = MODELS[name]
    return VisionTransformer(
        VisionTransformerSize(**{**vars(base), **size}),
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        mean=tuple(mean),
        std=tuple(std),
        quant=quant,
        drop_path=drop_path,
    )
