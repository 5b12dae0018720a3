"""State dicts of ViT and DeiT from elsewhere: the key names of transformers, the size that one has, another image size.

`weights` folds what ours has no parameter for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from intvit.models.weights.resampling import Grid, resample_positions, square
from intvit.models.weights.transformers_names import in_block, join_qkv

# Of ViTForImageClassification and DeiTForImageClassificationWithTeacher; without their heads, nothing stands before.
_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
    "cls_classifier.weight": "head.weight",
    "cls_classifier.bias": "head.bias",
    "distillation_classifier.weight": "head_dist.weight",
    "distillation_classifier.bias": "head_dist.bias",
    # Of ViTModel, before a classifier that it has not: it goes where the file's classifier goes.
    "pooler.dense.weight": "head.pooler.weight",
    "pooler.dense.bias": "head.pooler.bias",
}


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of transformers' ViT or DeiT with timm's names; one of timm's comes back equal."""
    if not any(key.endswith("embeddings.patch_embeddings.projection.weight") for key in state):
        return dict(state)
    return join_qkv({_timm_name(key): value for key, value in state.items()})


def _timm_name(key: str) -> str:
    plain = re.sub(r"^(?:vit|deit)\.", "", key)
    if match := re.fullmatch(r"(?:encoder\.layer|layers)\.(\d+)\.(.*)", plain):
        return f"blocks.{match[1]}.{in_block(match[2])}"
    return _OUTSIDE.get(plain, key)


def traits(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What timm's names and shapes say of a VisionTransformerSize; nothing for another architecture."""
    depth = {match[1] for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    patches = state.get("patch_embed.proj.weight")
    if not depth or patches is None or patches.ndim != 4:
        return {}
    return {
        "width": patches.shape[0],
        "depth": len(depth),
        "patch": patches.shape[-1],
        "distilled": "head_dist.weight" in state or "dist_token" in state,
    }


def resample(state: Mapping[str, Tensor], model: Any, trained: Grid | None) -> dict[str, Tensor]:
    """`state` with its pos_embed for the patches of `model`, a VisionTransformer of ours, whose other rows stay.

    trained: (H, W) of the images that it is for; None takes a square, as timm does. A pos_embed that fits neither stays
    as it is, for the caller to refuse.
    """
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3:
        return dict(state)
    patch = model.patch_embed["proj"].weight.shape[-2:]
    grid = _patches(model.image_size, patch)
    tokens = positions.shape[1] - (model.pos_embed.shape[1] - grid[0] * grid[1])
    old = None if trained is None else _patches(trained, patch)
    if old is None or old[0] * old[1] != tokens:
        old = square(tokens)
    if old is None or old == grid:
        return dict(state)
    return {**state, "pos_embed": resample_positions(positions, old, grid)}


def _patches(image_size: Grid, patch: Sequence[int]) -> Grid:
    return image_size[0] // patch[0], image_size[1] // patch[1]
