"""The size of a VisionTransformer of timm, and what it has that ours has not."""

from __future__ import annotations

from typing import Any

from intvit.models.timm_features import identity, other_parts, shared_features, timm_name
from intvit.models.vit.network import VisionTransformerSize

EPSILON = 1e-6


def size_of(model: Any) -> VisionTransformerSize:
    """Of an instance of one of TIMM's classes that lacks nothing."""
    return VisionTransformerSize(
        timm=timm_name(model),
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=model.blocks[0].attn.num_heads,
        patch=model.patch_embed.patch_size[0],
        mlp_ratio=model.blocks[0].mlp.fc1.out_features // model.embed_dim,
        distilled=hasattr(model, "head_dist"),
    )


def missing_features(model: Any) -> list[str]:
    """What a VisionTransformer has and ours has not, in words."""
    if others := other_parts(model.blocks, {"Block", "Attention", "Mlp"}):
        return others
    if not len(model.blocks):
        return ["no blocks (depth=0)"]
    found = {
        f"global_pool={model.global_pool!r}": model.global_pool != "token" or model.attn_pool is not None,
        "no class token": not model.has_class_token,
        "register tokens": model.num_reg_tokens > 0,
        "no position embedding": model.pos_embed is None,
        "a position embedding that leaves the class token out": model.no_embed_class,
        "a norm before the blocks": not identity(model.norm_pre),
        "no norm after the blocks": identity(model.norm),
        "a norm of the pooled features": not identity(model.fc_norm),
        "LayerScale": any(not identity(block.ls1) or not identity(block.ls2) for block in model.blocks),
    }
    return [name for name, has in found.items() if has] + shared_features(model, model.blocks, EPSILON)
