"""Names of the models and how to build one."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from intvit.errors import IntVitError
from intvit.models.swin import SwinSize
from intvit.models.vit import VisionTransformerSize
from intvit.quant import QuantConfig

MODELS: dict[str, VisionTransformerSize | SwinSize] = {
    "deit_t": VisionTransformerSize(width=192, depth=12, heads=3),
    "deit_s": VisionTransformerSize(width=384, depth=12, heads=6),
    "deit_b": VisionTransformerSize(width=768, depth=12, heads=12),
    "deit_t_distilled": VisionTransformerSize(width=192, depth=12, heads=3, distilled=True),
    "deit_s_distilled": VisionTransformerSize(width=384, depth=12, heads=6, distilled=True),
    "deit_b_distilled": VisionTransformerSize(width=768, depth=12, heads=12, distilled=True),
    "vit_s": VisionTransformerSize(width=384, depth=12, heads=6),
    "vit_s_32": VisionTransformerSize(width=384, depth=12, heads=6, patch=32),
    "vit_b": VisionTransformerSize(width=768, depth=12, heads=12),
    "vit_b_32": VisionTransformerSize(width=768, depth=12, heads=12, patch=32),
    "vit_l": VisionTransformerSize(width=1024, depth=24, heads=16),
    "swin_t": SwinSize(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    "swin_s": SwinSize(width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
    "swin_b": SwinSize(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
}

TIMM_NAMES = {
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "deit_t_distilled": "deit_tiny_distilled_patch16_224",
    "deit_s_distilled": "deit_small_distilled_patch16_224",
    "deit_b_distilled": "deit_base_distilled_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_s_32": "vit_small_patch32_224",
    "vit_b": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l": "vit_large_patch16_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
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
    **size: Any,
) -> nn.Module:
    """Build `name` with random weights, in float mode.

    patch_size None takes the model's own. `size` overrides fields of the model's size, such as width, depth or heads
    (reduced models of tests). Raises IntVitError for an unknown name or an image size that the patch does not divide.
    """
    if name not in MODELS:
        raise IntVitError(f"model.name={name}: unknown model, expected one of {', '.join(MODELS)}")
    base = MODELS[name]
    return dataclasses.replace(base, **size).build(
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        mean=tuple(mean),
        std=tuple(std),
        quant=quant,
        drop_path=drop_path,
    )
