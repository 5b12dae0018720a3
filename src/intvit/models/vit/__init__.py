"""ViT and DeiT: the sizes by name.

`network` is the dataflow, `from_timm` reads the size of a model of timm.
"""

from intvit.models.vit.checkpoints import traits
from intvit.models.vit.from_timm import missing_features, size_of
from intvit.models.vit.network import VisionTransformer, VisionTransformerSize

__all__ = ["SIZES", "TIMM", "VisionTransformer", "VisionTransformerSize", "missing_features", "size_of", "traits"]

# Classes whose instances can be taken over.
TIMM = (
    "timm.models.vision_transformer.VisionTransformer",
    "timm.models.deit.VisionTransformerDistilled",
)
SIZES = {
    "deit_t": VisionTransformerSize("deit_tiny_patch16_224", width=192, depth=12, heads=3),
    "deit_s": VisionTransformerSize("deit_small_patch16_224", width=384, depth=12, heads=6),
    "deit_b": VisionTransformerSize("deit_base_patch16_224", width=768, depth=12, heads=12),
    "deit_t_distilled": VisionTransformerSize(
        "deit_tiny_distilled_patch16_224", width=192, depth=12, heads=3, distilled=True
    ),
    "deit_s_distilled": VisionTransformerSize(
        "deit_small_distilled_patch16_224", width=384, depth=12, heads=6, distilled=True
    ),
    "deit_b_distilled": VisionTransformerSize(
        "deit_base_distilled_patch16_224", width=768, depth=12, heads=12, distilled=True
    ),
    "vit_s": VisionTransformerSize("vit_small_patch16_224", width=384, depth=12, heads=6),
    "vit_s_32": VisionTransformerSize("vit_small_patch32_224", width=384, depth=12, heads=6, patch=32),
    "vit_b": VisionTransformerSize("vit_base_patch16_224", width=768, depth=12, heads=12),
    "vit_b_32": VisionTransformerSize("vit_base_patch32_224", width=768, depth=12, heads=12, patch=32),
    "vit_l": VisionTransformerSize("vit_large_patch16_224", width=1024, depth=24, heads=16),
}
